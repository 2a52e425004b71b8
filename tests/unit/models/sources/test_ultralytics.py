"""Small networks of Ultralytics, built by name, with random weights or trained for a few steps."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from camscope import cam, default_layer, explain, targets
from camscope.errors import ModelError, SettingError
from camscope.models.loading import load
from camscope.models.sources import ultralytics as source
from camscope.models.stages import stage_layers


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


def built(name, **options):
    torch.manual_seed(0)
    model = load(f"ultralytics:{name}", **{"weights": "none", "classes": 3, "input_size": 128, **options})
    head = model.net.model.model[-1]
    if hasattr(head, "cv3"):  # as after training: some boxes are found
        for branch in head.cv3:
            nn.init.normal_(branch[-1].weight, std=0.3)
            nn.init.constant_(branch[-1].bias, -2.0)
    return model


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo12n", "yolov8n-seg", "yolov10n"])
def test_boxes_are_those_of_the_network_after_suppression(name, image):
    model = built(name)
    assert (model.outcome, model.labels, model.recipe.classes) == ("boxes", (), 3)
    x = model.preprocess(explain(model, image, method="occlusion", window=128).picture)[0][None]
    with torch.no_grad():
        rows, decoded = model.net(x)[0], model.net.model(x + 114 / 255)[0]
    decoded = (decoded[0] if isinstance(decoded, tuple) else decoded)[0].T
    scores, boxes = decoded[:, 4:7], torchvision.ops.box_convert(decoded[:, :4], "cxcywh", "xyxy")
    expected = []
    for label in range(3):
        kept = torchvision.ops.nms(boxes, scores[:, label], 0.7)
        kept = kept[scores[kept, label] >= 0.05]
        expected += [[*boxes[i].tolist(), float(scores[i, label]), label] for i in kept]
    found = rows[rows[:, 5] >= 0]
    expected = torch.tensor(expected)
    assert len(found) == min(300, len(expected)) > 1
    assert (found[:, 4].diff() <= 1e-6).all()
    found = torch.cat([found[:, :4], found[:, 4:5].sigmoid(), found[:, 5:]], 1)
    nearest = (found[:, None] - expected).abs().amax(2)
    assert float(nearest.amin(1).max()) < 1e-2, "each row is a box of the network, with its score and class"
    assert len(found) == 300 or float(nearest.amin(0).max()) < 1e-2, "no box is missing"


def test_rt_detr_has_one_box_per_query():
    model = built("rtdetr-resnet50")
    assert model.preprocess.fit == "squash"
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        rows, found = model.net(x)[0], model.net.model(x)[0][0]
    best = found[found[:, 4].argmax()]
    assert float(rows[0, 4].sigmoid()) == pytest.approx(float(best[4]), abs=1e-5)
    torch.testing.assert_close(rows[0, :4], torchvision.ops.box_convert(best[:4], "cxcywh", "xyxy") * 128)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "rtdetr-resnet50"])
def test_gradients_of_a_box_reach_the_first_layer(name):
    model = built(name)
    first = next(module for module in model.net.modules() if isinstance(module, nn.Conv2d)).weight
    output = model.net(torch.rand(1, 3, 128, 128))[0]
    targets.box(int(output[0, 5]))(output).backward()
    assert first.grad.isfinite().all()
    assert first.grad.any()


@pytest.mark.parametrize(
    ("name", "levels"), [("yolov8n", (15, 18, 21)), ("yolo11n", (16, 19, 22)), ("yolo12n", (14, 17, 20))]
)
def test_the_levels_that_the_head_reads_are_explained(name, levels):
    model = built(name)
    assert model.layer == " + ".join(f"model.model.{index}" for index in levels)
    x = torch.rand(1, 3, 128, 128)
    grid = cam(model.net, x, layer=model.layer, targets=lambda output: output[0, 4])
    assert grid.shape == (1, 16, 16)
    assert grid.any()


@pytest.mark.slow
def test_the_levels_follow_from_what_the_network_does():
    model = built("yolov8n")
    x = torch.rand(1, 3, 128, 128)
    assert default_layer(model.net, x) == model.layer
    assert stage_layers(model.net, x)[-1] == model.layer
    for method in ("fused(gradcam)", "refinecam"):
        assert cam(model.net, x, method=method, targets=lambda output: output[0, 4]).shape == (1, 64, 64)


def test_targets_and_the_letterbox(image):
    model = built("yolov8n", labels=["cat", "dog", "owl"])
    e = explain(model, image, target="top1")
    assert e.grid.any()
    assert e.probability == pytest.approx(1 / (1 + np.exp(-e.score)))
    assert (e.window.start, e.window.extent) == ((-16, 0), (128, 128))
    x = model.preprocess(e.picture)[0]
    assert float(x[:, :16].abs().max()) < 1e-6, "the grey margin is 0"
    where = e.notes[0].split()[2]
    assert explain(model, image, target=f"{e.label}@{where}").score == pytest.approx(e.score, abs=1e-3)
    with torch.inference_mode():
        model.net(x[None])
    again = explain(model, image, target="top1")
    np.testing.assert_array_equal(again.grid, e.grid)


def test_a_map_of_a_yolo_finds_a_planted_mark(image):
    """Its class scores are trained to see red squares; its boxes stay where they are."""
    torch.manual_seed(0)
    model = load("ultralytics:yolov8n", weights="none", labels=["red"], input_size=64)
    net = model.net.model.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(80):
        x, wanted = 0.44 + 0.1 * torch.randn(8, 3, 64, 64), torch.zeros(8, 1, 84)
        for i, (row, column) in enumerate(torch.randint(1, 7, (8, 2)).tolist()):
            x[i, 0, row * 8 - 4 : row * 8 + 12, column * 8 - 4 : column * 8 + 12] = 1
            wanted[i, 0, row * 8 + column] = 1
        optimiser.zero_grad()
        scores = net(x)["scores"]
        nn.functional.binary_cross_entropy_with_logits(scores, wanted, pos_weight=torch.tensor(20.0)).backward()
        optimiser.step()
    net.eval()
    pixels = (112 + 25 * np.random.default_rng(1).standard_normal((64, 64, 3))).clip(0, 255).astype(np.uint8)
    pixels[12:28, 36:52, 0] = 255
    inside = np.zeros((64, 64), bool)
    inside[8:32, 32:56] = True
    for options in ({"method": "occlusion"}, {"layer": "model.model.15"}):
        e = explain(model, pixels, target="red", **options)
        assert e.probability > 0.5
        assert e.heatmap[inside].mean() > 3 * e.heatmap[~inside].mean(), options


def test_a_classifier_returns_logits(image):
    model = load("ultralytics:yolov8n-cls", weights="none", labels=["a", "b", "c", "d"], input_size=64)
    assert (model.outcome, model.preprocess.fit, model.labels) == ("one", "crop", ("a", "b", "c", "d"))
    e = explain(model, image)
    x = model.preprocess(e.picture)[0][None]
    with torch.no_grad():
        probabilities, logits = model.net.model(x)
    assert e.score == pytest.approx(float(logits.max()), abs=1e-5)
    assert e.probability == pytest.approx(float(probabilities.max()), abs=1e-5)


@pytest.fixture
def checkpoint(tmp_path):
    """A file as the package's training writes it."""
    model = built("yolov8n")
    net = model.net.model
    net.names = {0: "cat", 1: "dog", 2: "owl"}
    torch.save({"model": net, "ema": None, "train_args": {"imgsz": 96}}, tmp_path / "best.pt")
    return tmp_path / "best.pt", model


def test_a_file_is_read_only_where_it_is_trusted(checkpoint, tmp_path):
    path, made = checkpoint
    for options in ({}, {"trust": False}):
        with pytest.raises(ModelError, match=r"best\.pt is a pickle, and reading it runs code .* trust=True"):
            load(f"ultralytics:{path}", **options)
        with pytest.raises(ModelError, match="is a pickle"):
            load("ultralytics:yolov8n", weights=path, classes=3, **options)
    model = load(f"ultralytics:{path}", trust=True)
    assert (model.labels, model.preprocess.input_size, model.outcome) == (("cat", "dog", "owl"), (96, 96), "boxes")
    assert model.digest == made.digest == load("ultralytics:yolov8n", weights=path, classes=3, trust=True).digest
    again = load(model.save(tmp_path / "bundle"))  # a bundle holds tensors alone
    assert (again.digest, again.labels, again.preprocess) == (model.digest, model.labels, model.preprocess)
    torch.save(made.net.model.state_dict(), tmp_path / "tensors.pt")
    assert load("ultralytics:yolov8n", weights=tmp_path / "tensors.pt", classes=3).digest == made.digest
    with pytest.raises(SettingError, match="has 3 classes, but got classes=5"):
        load(f"ultralytics:{path}", trust=True, classes=5)


def test_what_cannot_be_loaded_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "reachable", lambda address: False)
    with pytest.raises(ModelError, match="published weights of ultralytics:yolov8n are a pickle"):
        load("ultralytics:yolov8n")
    with pytest.raises(ModelError, match=r"out of reach: bring the file yolov8n\.pt"):
        load("ultralytics:yolov8n", trust=True)
    with pytest.raises(ModelError, match="no ultralytics model called 'yolov8q'; nearest: 'yolov8"):
        load("ultralytics:yolov8q", weights="none")
    with pytest.raises(ModelError, match=r"is for another task \(pose\)"):
        load("ultralytics:yolov8n-pose", weights="none")
    with pytest.raises(ModelError, match="there is no file"):
        load("ultralytics:missing.pt", trust=True)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="is not a checkpoint of Ultralytics"):
        load(f"ultralytics:{tmp_path / 'other.pt'}", trust=True)
    with pytest.raises(SettingError, match="takes sizes that are multiples of 32"):
        load("ultralytics:yolov8n", weights="none", input_size=100)
    with pytest.raises(SettingError, match="takes no options"):
        load("ultralytics:yolov8n", weights="none", options={"ch": 1})
