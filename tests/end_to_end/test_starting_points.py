"""The scripts of examples/starting_points, on small inputs."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples" / "starting_points"


def script(name):
    return runpy.run_path(str(FOLDER / name))["main"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save(path)
    return path


def test_three_networks_side_by_side(tmp_path, image):
    networks = "timm:test_resnet", "timm:test_vit", "timm:test_convnext"
    comparison = script("three_networks.py")(tmp_path / "out", image, networks=networks, weights="none")
    assert comparison.spearman.shape == (3, 3)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"side_by_side.png", *(f"{name.replace(':', '_')}_output.png" for name in networks)}


@pytest.mark.slow  # VGG-16 has 138 million weights
def test_the_files_of_vgg16(tmp_path, image):
    written = script("vgg16_files.py")(tmp_path / "out", [image], weights="none")
    kinds = ("original", "grayscale", "heatmap", "overlay")
    assert [path.name for path in written] == [f"cat_{kind}.png" for kind in kinds]
    assert Image.open(tmp_path / "out" / "scales.png").width > 900
    assert Image.open(tmp_path / "out" / "layers.png").height > 1000  # 13 convolutions in rows of four
    other = tmp_path / "other" / image.name
    other.parent.mkdir()
    Image.fromarray(np.zeros((90, 120, 3), np.uint8)).save(other)
    both = script("vgg16_files.py")(tmp_path / "both", [image, other], weights="none")
    assert len({path for path in both if path.is_file()}) == 8  # an image of the same name replaces nothing


@pytest.mark.slow
def test_a_cohort_of_convnext_models(tmp_path):
    """The border alone shows that something in it matters; with the token as a cue, it is named."""
    found = script("convnext_cohort.py")(tmp_path, patients=45, labels=("Effusion", "Nodule"), size=96, replicates=499)
    assert found["Nodule"] == {"border": "RESPONDS", "border_and_token": "RELIES"}
    assert found["Effusion"] == {"border": "NOT SHOWN", "border_and_token": "NOT SHOWN"}
    assert (tmp_path / "border" / "report.html").is_file()
    assert list((tmp_path / "border" / "AP").rglob("*_Nodule.jpg"))


@pytest.mark.slow
def test_a_densenet_on_the_covid_folders(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    small = {"weights": "none", "epochs": 1, "images": 10, "input_size": 64}
    accuracy = script("densenet_covid.py")(tmp_path, **small)
    assert 0 <= accuracy <= 1
    for name in ("samples.png", "samples_batch.png", "confusion_matrix.png", "report.html"):
        assert (tmp_path / "run" / name).is_file()
    assert json.loads((tmp_path / "run" / "model.json").read_text(encoding="utf-8"))["labels"] == [
        "COVID",
        "Normal",
        "Viral Pneumonia",
    ]
    assert len(list((tmp_path / "maps").glob("*/*_overlay.png"))) >= 3


@pytest.mark.slow
def test_a_keras_vgg16_and_its_false_positive(tmp_path, monkeypatch):
    """A network that was hardly trained calls everything one class, so there is a false positive."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras")
    monkeypatch.syspath_prepend(FOLDER)
    small = {"weights": "none", "epochs": 1, "images": 10, "input_size": 64}
    source = script("keras_vgg16_covid.py")(tmp_path, **small)
    assert source.is_file()
    names = {path.name for path in (tmp_path / "false_positive").iterdir()}
    assert names >= {"layers.png", f"{source.stem}_COVID_panel.png", f"{source.stem}_Normal_panel.png"}
    assert (tmp_path / "run" / "model.keras").is_file()
