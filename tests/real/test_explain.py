"""Trained networks and real pictures: the maps lie where they must, and where the control must not."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import camscope as cs
from camscope.heatmap import place
from camscope.images import read

DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
WEIGHTS = DATA / "weights"
CORAL = {"mean": [0.5], "std": [0.5], "options": {"pad_type": "same"}, "fit": "squash"}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no test data: set CAMSCOPE_TEST_DATA to their folder")


def squeezenet():
    weights = WEIGHTS / "squeezenet1_0_imagenet_deepcompression.pth"
    return cs.load("torchvision:squeezenet1_0", weights=weights, input_size=227, fit="squash")


def opacity(kind, size):
    weights = WEIGHTS / f"cxr_mobilenetv2_100_opacity_{kind}.pth"
    labels = ["no opacity", "lung opacity"]
    return cs.load("timm:mobilenetv2_100", weights=weights, labels=labels, input_size=size, **CORAL)


def table(folder, count=None):
    with (DATA / folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[:count]


def peaks(model, folder, rows, targets):
    """(x, y) of the maximum of each Grad-CAM, in pixels of the image, and the image's size."""
    found = []
    for first in range(0, len(rows), 10):
        seen = [model.preprocess(read(DATA / folder / row["file"])) for row in rows[first : first + 10]]
        x = torch.stack([tensor for tensor, _ in seen])
        for grid, (_, window) in zip(cs.cam(model.net, x, targets=targets[first : first + 10]), seen, strict=True):
            heat = place(grid.relu(), window)
            y, x_ = np.unravel_index(int(heat.argmax()), heat.shape)
            found.append((x_, y))
    return found


def pointing(points, boxes):
    hits = [
        any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in b) for (x, y), b in zip(points, boxes, strict=True)
    ]
    return sum(hits) / len(hits)


def test_imagenet_maps_peak_on_the_object():
    rows = table("imagenet_val", 60)
    points = peaks(squeezenet(), "imagenet_val", rows, [int(row["class_index"]) for row in rows])
    assert pointing(points, [json.loads(row["boxes_xyxy_227"]) for row in rows]) >= 0.85


@pytest.mark.slow
def test_the_localiser_looks_at_the_opacity_and_the_probe_does_not():
    rows = [row for row in table("cxr_nih") if row["rsna_class"] == "Lung Opacity"]
    boxes = [json.loads(row["rsna_boxes_xyxy"]) for row in rows]
    hits = {}
    for kind, size in (("localiser", 448), ("probe", 224)):
        hits[kind] = pointing(peaks(opacity(kind, size), "cxr_nih", rows, [1] * len(rows)), boxes)
    assert hits["localiser"] >= 0.45
    assert hits["probe"] <= 0.25


def test_two_classes_of_one_picture_give_two_places():
    model = squeezenet()
    left, right = (read(DATA / "imagenet_val" / row["file"]) for row in _two_clear(model))
    both = np.concatenate([left.rgb[:227, :227], right.rgb[:227, :227]], axis=1)
    first, second = (model.preprocess(picture)[0][None] for picture in (left, right))
    classes = [int(model.net(x).argmax()) for x in (first, second)]
    maps = [cs.explain(model, both, target=index).heatmap for index in classes]
    share = [heat[:, :227].sum() / heat.sum() for heat in maps]
    assert share[0] > 0.6
    assert share[1] < 0.4


def _two_clear(model):
    """Two images of different classes that the model is sure of, rightly."""
    sure = []
    for row in table("imagenet_val", 40):
        x = model.preprocess(read(DATA / "imagenet_val" / row["file"]))[0][None]
        with torch.inference_mode():
            probability = model.net(x).softmax(1)[0]
        if probability[int(row["class_index"])] > 0.97:
            sure.append(row)
    return sure[0], sure[1]


def test_a_vision_transformer_with_its_tokens_first():
    namespace = {"__name__": "cifar_models"}
    exec((DATA / "models/cifar_models.py").read_text(encoding="utf-8"), namespace)
    net = namespace["CifarViT"]()
    net.load_state_dict(torch.load(WEIGHTS / "cifar10_vit.pth", weights_only=True))
    preprocess = cs.Preprocess(input_size=(32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    model = cs.Model("cifar-vit", net, preprocess=preprocess, labels=net.classes)
    right = 0
    for name in ("cat_0001", "ship_0002", "truck_0003", "horse_0004"):
        e = cs.explain(model, DATA / f"cifar10/images/{name}.jpg")
        assert e.grid.shape == (8, 8)
        assert e.grid.std() > 0
        right += e.label == name.split("_")[0]
    assert e.layer.startswith("transformer.layers")
    assert right >= 3


@pytest.mark.parametrize("file", ["timm_mobilenetv2_100_imagenet_coral_tf2ptq", "cxr_mobilenetv2_100_opacity_probe"])
def test_a_trained_network_is_never_marked(file):
    weights = torch.load(DATA / "weights" / f"{file}.pth", weights_only=True)
    net = timm.create_model("mobilenetv2_100", num_classes=len(weights["classifier.bias"]), pad_type="same")
    net.load_state_dict(weights)
    assert cs.load(net).untrained == ""
