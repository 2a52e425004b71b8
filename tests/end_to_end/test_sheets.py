"""camscope layers and camscope compare, as a user types them."""

import json

import numpy as np
import pytest
from PIL import Image

from running import inside


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheets")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "p.png")
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        arguments = [f"timm:{name}", "--weights", "none", "--labels", "cat,dog", "--input-size", "64", "--out", name]
        run("bundle", *arguments, cwd=folder)
    return folder


def run(*arguments, cwd, status=0):
    done = inside(*arguments, cwd=cwd)
    assert done.returncode == status, done.stderr
    return done


def test_layers_shows_every_stage(place):
    run("layers", "p.png", "--model", "resnet10t", "--out", "stages", cwd=place)
    assert Image.open(place / "stages/layers.png").width > 800


def test_steps_shows_how_a_map_is_made_and_refuses_what_has_no_weights(place):
    run("layers", "p.png", "--model", "resnet10t", "--steps", "--out", "steps", cwd=place)
    assert Image.open(place / "steps/steps.png").height > 900
    said = run(
        "layers", "p.png", "--model", "resnet10t", "--steps", "--method", "eigencam", "--out", "no", cwd=place, status=2
    )
    assert "gives the channels no weights" in said.stderr


def test_compare_marks_methods_that_are_one_and_tells_how_far_maps_agree(place):
    models = "resnet10t,vit_tiny_patch16_224"
    said = run(
        "compare",
        "p.png",
        "--models",
        models,
        "--methods",
        "gradcam,hirescam",
        "--targets",
        "cat",
        "--out",
        "c",
        cwd=place,
    )
    assert "the same map as gradcam" in said.stdout
    content = json.loads((place / "c/compare.json").read_text(encoding="utf-8"))
    assert [(m["model"], m["method"]) for m in content["maps"]][::2] == [
        (m, "gradcam") for m in ("timm:resnet10t", "timm:vit_tiny_patch16_224")
    ]
    table = np.array(content["spearman"], float)
    assert table.shape == (4, 4)
    np.testing.assert_allclose(table, table.T, atol=1e-6)
    assert table[0, 1] == 1
    assert Image.open(place / "c/compare.png").width > 600


def test_the_engine_may_be_named(place):
    pages = {}
    for engine in ("eager", "openvino"):
        run("compare", "p.png", "--models", "resnet10t", "--engine", engine, "--out", engine, cwd=place)
        (made,) = json.loads((place / engine / "compare.json").read_text(encoding="utf-8"))["maps"]
        assert made["engine"] == engine
        run("layers", "p.png", "--model", "resnet10t", "--engine", engine, "--out", engine, cwd=place)
        pages[engine] = np.asarray(Image.open(place / engine / "layers.png")).astype(int)
    assert np.abs(pages["eager"] - pages["openvino"]).max() <= 2
    said = run("layers", "p.png", "--model", "resnet10t", "--engine", "fast", "--out", "x", cwd=place, status=2)
    assert "no engine called 'fast'" in said.stderr
