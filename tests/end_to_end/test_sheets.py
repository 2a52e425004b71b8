"""camscope layers and camscope compare, as a user types them."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from running import inside


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheets")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    for name in ("p.png", "many/a.png", "many/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        arguments = [f"timm:{name}", "--weights", "none", "--labels", "cat,dog", "--input-size", "64", "--out", name]
        run("bundle", *arguments, cwd=folder)
    for seed, name in enumerate(("one.pth", "two.pth")):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_resnet", num_classes=2).state_dict(), folder / name)
    return folder


def run(*arguments, cwd, status=0):
    done = inside(*arguments, cwd=cwd)
    assert done.returncode == status, done.stderr
    return done


def compared(folder):
    (file,) = folder.rglob("compare*.json")
    return json.loads(file.read_text(encoding="utf-8"))


def drawn(folder, kind):
    (file,) = folder.rglob(f"{kind}*.png")
    return Image.open(file)


def test_layers_shows_every_stage(place):
    run("layers", "p.png", "--model", "resnet10t", "--out", "stages", cwd=place)
    assert drawn(place / "stages/p", "layers").width > 800


def test_a_sheet_never_replaces_a_different_one(place):
    for layers in ("layer2", "layer4", "layer4", "layer4"):
        more = ["--target", "cat", "--layers", layers, "--out", "kept"]
        run("layers", "p.png", "--model", "resnet10t", *more, cwd=place)
    for target in ("cat", "dog", "cat"):
        run("compare", "p.png", "--model", "resnet10t", "--targets", target, "--out", "kept", cwd=place)
    assert len(list((place / "kept/p").glob("layers*.png"))) == 2
    assert len(list((place / "kept/p").glob("compare*.png"))) == 2
    assert (place / "kept/index.html").read_text(encoding="utf-8").count("<img ") == 4


def test_layers_shows_all_convolutions_or_those_that_are_named(place):
    run("layers", "p.png", "--model", "resnet10t", "--layers", "all", "--out", "all", cwd=place)
    run("layers", "p.png", "--model", "resnet10t", "--layers", "layer2,layer4", "--out", "two", cwd=place)
    all_layers, two = (drawn(place / name, "layers") for name in ("all", "two"))
    assert all_layers.height > 3 * two.height
    said = run("layers", "p.png", "--model", "resnet10t", "--layer", "layer2", "--out", "no", cwd=place, status=2)
    assert "name the layers to show with --layers" in said.stderr


def test_steps_shows_how_a_map_is_made_and_refuses_what_has_no_weights(place):
    run("layers", "p.png", "--model", "resnet10t", "--steps", "--out", "steps", cwd=place)
    assert drawn(place / "steps", "steps").height > 900
    said = run(
        "layers", "p.png", "--model", "resnet10t", "--steps", "--method", "eigencam", "--out", "no", cwd=place, status=2
    )
    assert "is not a weighted sum of a layer's channels" in said.stderr


def test_compare_marks_methods_that_are_one_and_tells_how_far_maps_agree(place):
    models = "resnet10t,vit_tiny_patch16_224"
    asked = ["--models", models, "--methods", "gradcam,hirescam", "--targets", "cat", "--out", "c"]
    said = run("compare", "p.png", *asked, cwd=place)
    assert "the same map as gradcam" in said.stdout
    assert "resnet10t (random weights) gradcam cat" in said.stdout
    content = compared(place / "c")
    assert [(m["model"], m["method"]) for m in content["maps"]][::2] == [(m, "gradcam") for m in models.split(",")]
    table = np.array(content["spearman"], float)
    assert table.shape == (4, 4)
    np.testing.assert_allclose(table, table.T, atol=1e-6)
    assert table[0, 1] == 1
    assert drawn(place / "c", "compare").width > 600


def test_compare_tells_two_checkpoints_of_one_network_apart(place):
    network = ["-m", "timm:test_resnet", "--weights"]
    asked = [*network, "one.pth", *network, "two.pth", "--labels", "cat,dog", "--mean", "0.5", "--mean", "0.4"]
    said = run("compare", "p.png", *asked, "--out", "checkpoints", cwd=place)
    assert "timm:test_resnet, two.pth gradcam" in said.stdout
    maps = compared(place / "checkpoints")["maps"]
    assert [m["model"] for m in maps] == ["timm:test_resnet, one.pth", "timm:test_resnet, two.pth"]
    assert [m["preprocess"]["mean"][0] for m in maps] == [0.5, 0.4]
    assert len({m["label"] for m in maps} & {"cat", "dog"}) >= 1
    said = run("compare", "p.png", *asked, "--std", "1", "--std", "1", "--std", "1", "--out", "no", cwd=place, status=2)
    assert "--std is given 3 times for 2 models: give it once for all, or once per model" in said.stderr


def test_compare_takes_several_images(place):
    run("compare", "many", "-m", "resnet10t", "--targets", "top2", "--out", "several", cwd=place)
    for name in ("a", "b"):
        (folder,) = (place / "several").rglob(f"{name}*/")
        assert drawn(folder, "compare").width > 300
        assert compared(folder)["picture"].endswith(f"{name}.png")
        assert len(compared(folder)["maps"]) == 2


def test_the_engine_may_be_named(place):
    pages = {}
    for engine in ("eager", "openvino"):
        run("compare", "p.png", "--models", "resnet10t", "--engine", engine, "--out", engine, cwd=place)
        (made,) = compared(place / engine)["maps"]
        assert made["engine"] == engine
        run("layers", "p.png", "--model", "resnet10t", "--engine", engine, "--out", engine, cwd=place)
        pages[engine] = np.asarray(drawn(place / engine, "layers")).astype(int)
    assert np.abs(pages["eager"] - pages["openvino"]).max() <= 2
    said = run("layers", "p.png", "--model", "resnet10t", "--engine", "fast", "--out", "x", cwd=place, status=2)
    assert "no engine called 'fast'" in said.stderr
