"""Metrics on trained networks and real pictures: they tell the controls apart."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch

import camscope as cs
from camscope.images import read
from camscope.metrics import METRICS, chance, tuned

DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
WEIGHTS = DATA / "weights"
HALF = {"mean": [0.5], "std": [0.5], "options": {"pad_type": "same"}, "fit": "squash"}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no test data: set CAMSCOPE_TEST_DATA to their folder")


def table(folder):
    with (DATA / folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def inputs_of(model, folder, rows):
    return torch.stack([model.preprocess(read(DATA / folder / row["file"]))[0] for row in rows])


def mobilenet():
    return cs.load(WEIGHTS / "timm_mobilenetv2_100_imagenet_coral_tf2ptq.pth", arch="timm:mobilenetv2_100", **HALF)


def boxed(boxes, size):
    mask = torch.zeros(size, size, dtype=torch.bool)
    for left, top, right, bottom in boxes:
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return mask


@pytest.mark.slow
def test_localisation_tells_the_localiser_from_the_probe():
    rows = [row for row in table("cxr_nih") if row["rsna_class"] == "Lung Opacity"][:16]
    masks = torch.stack([boxed(json.loads(row["rsna_boxes_xyxy"]), 1024) for row in rows])[:, ::4, ::4]
    found = {}
    for kind, size in (("localiser", 448), ("probe", 224)):
        weights = WEIGHTS / f"cxr_mobilenetv2_100_opacity_{kind}.pth"
        model = cs.load("timm:mobilenetv2_100", weights=weights, labels=["none", "opacity"], input_size=size, **HALF)
        maps = torch.cat([cs.cam(model.net, x, targets=1) for x in inputs_of(model, "cxr_nih", rows).split(4)])
        found[kind] = {
            name: float(METRICS[name](maps, masks).nanmean()) for name in ("pointing", "enrichment", "auprc")
        }
        found[kind]["tuned_iou"] = tuned(METRICS["tuned_iou"](maps, masks)).value
    even = float(chance(masks).mean())
    assert found["localiser"]["pointing"] > 2 * even
    assert found["probe"]["pointing"] < 1.5 * even
    assert found["localiser"]["enrichment"] > 1.5 > found["probe"]["enrichment"]
    assert found["localiser"]["auprc"] > 1.5 * found["probe"]["auprc"]
    assert found["localiser"]["tuned_iou"] > found["probe"]["tuned_iou"]


def test_gradcam_is_more_faithful_than_a_map_that_knows_nothing():
    model, rows = mobilenet(), table("imagenet_val")[::30][:4]
    x = inputs_of(model, "imagenet_val", rows)
    with torch.no_grad():
        top = model.net(x).argmax(1)

    def score(inputs, rows):
        return model.net(inputs).softmax(1).gather(1, top[rows, None])[:, 0]

    maps = cs.cam(model.net, x)
    even = torch.ones_like(maps)
    with torch.no_grad():
        clean = score(x, torch.arange(len(x)))
    for name, more in (("deletion", {"steps": 8}), ("insertion", {"steps": 8}), ("road", {"shares": (0.2, 0.5)})):
        ours, theirs = (METRICS[name](m, x, score, clean=clean, **more).mean() for m in (maps, even))
        assert ours < theirs if name == "deletion" else ours > theirs
    assert METRICS["average_drop"](even, x, score, clean=clean).max() < 1e-6


def test_gradcam_passes_the_sanity_check_and_eigencam_fails():
    model, rows = mobilenet(), table("imagenet_val")[::20][:4]
    pictures = [DATA / "imagenet_val" / row["file"] for row in rows]
    assert cs.sanity(model, pictures, method="gradcam", networks=1).passed
    assert not cs.sanity(model, pictures, method="eigencam", networks=1).passed
