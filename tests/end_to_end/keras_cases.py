"""Commands on Keras models and files; run by test_keras.py in a process of its own."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import camscope as cs
from camscope.images import read
from camscope.models.sources.keras_net import keras
from running import inside

K = keras()
L = K.layers


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    K.utils.set_random_seed(0)
    body = [L.Conv2D(8, 3, activation="relu", name="early"), L.MaxPooling2D(), L.Conv2D(16, 3, activation="relu")]
    head = [L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")]
    path = tmp_path / "model.keras"
    K.Sequential([K.Input((32, 32, 3)), *body, *head]).save(path)
    return path


def test_explain_layers_and_compare(photo: Path, file: Path, tmp_path: Path) -> None:
    done = inside("explain", photo, "--model", file, "--out", tmp_path / "e", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    note = "squashed to 32 x 32, with pixels in [0, 1]"
    assert [line for line in done.stderr.splitlines() if line.startswith(f"note: {file}:") and note in line]
    (found,) = [json.loads(path.read_text()) for path in (tmp_path / "e").rglob("explanation.json")]
    assert (found["model"], found["layer"]) == ("model.keras", "conv2d")
    done = inside("layers", photo, "--model", file, "--out", tmp_path / "l", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    done = inside("compare", photo, "--models", f"{file},{file}", "--out", tmp_path / "c", "--device", "cpu")
    assert done.returncode == 0, done.stderr


def test_bundle_and_list(photo: Path, file: Path, tmp_path: Path) -> None:
    made = inside("bundle", file, "--labels", "a,b,c", "--option", "preprocess=vgg16", "--out", tmp_path / "b")
    assert made.returncode == 0, made.stderr
    done = inside("explain", photo, "--model", tmp_path / "b", "--target", "b", "--out", tmp_path / "e")
    assert (done.returncode, done.stderr) == (0, "")
    assert inside("models", "keras:VGG*").stdout.split() == ["keras:VGG16", "keras:VGG19"]


def test_an_unknown_class_is_one_line(photo: Path, tmp_path: Path) -> None:
    class Doubled(L.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    K.Sequential([K.Input((8, 8, 3)), Doubled(), L.Flatten(), L.Dense(2)]).save(tmp_path / "own.h5")
    done = inside("explain", photo, "--model", tmp_path / "own.h5", "--out", tmp_path / "e")
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("camscope:")]
    assert "needs 'Doubled', which Keras does not know" in line
    assert "for the command save the model with layers of Keras only" in line


@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples/keras_vgg16.py"))
    assert example["train"](tmp_path / "vgg.keras") > 0.5
    shares = example["explain"](tmp_path / "vgg.keras", tmp_path)
    assert sorted(shares) == ["Cardiomegaly", "Consolidation", "Effusion"]
    assert (tmp_path / "Effusion/explanation.json").is_file()
    enriched = example["study"](tmp_path)
    assert enriched["Effusion"] > 1
    assert len(list((tmp_path / "results/rows").glob("*.parquet"))) == 1


@pytest.mark.filterwarnings("ignore:.*(no patients are known|is left out)")
@pytest.mark.parametrize("network", ["keras:MobileNetV2", "file"])
def test_train_writes_a_bundle_and_a_keras_file_with_the_same_probabilities(
    network: str, file: Path, tmp_path: Path
) -> None:
    for c, name in enumerate(("COVID", "Normal")):
        for n in range(12):
            pixels = np.random.default_rng([c, n]).integers(0, 90, (32, 40), np.uint8)
            pixels[2 + 16 * c : 12 + 16 * c, 6:16] += 120
            (tmp_path / "xrays" / name / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "xrays" / name / "images" / f"{n}.png")
    start = (network, "--weights", "none") if network != "file" else (file, "--mean", 0, "--std", 1)
    words = ("train", tmp_path / "xrays", "--model", *start, "--input-size", 32, "--batch-size", 8, "--device", "cpu")
    done = inside(*words, "--epochs", 2, "--split", "0.5,0.2,0.3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    model = cs.load(tmp_path / "run")
    reopened = K.models.load_model(tmp_path / "run/model.keras")
    for path in (tmp_path / "xrays").rglob("1.png"):
        e = cs.explain(model, path, target="COVID")
        x, _ = model.preprocess(read(str(path)))
        probabilities = reopened(x.movedim(0, -1)[None]).detach().numpy()[0]
        assert e.probability == pytest.approx(probabilities[0], abs=1e-6)
        assert np.isfinite(e.heatmap).all()
    assert not model.untrained
