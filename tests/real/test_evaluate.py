"""Localisation tells a model that looks at the disease from one that does not, and methods from nulls."""

import csv
import os
from pathlib import Path

import pytest

from camscope.evaluation.candidates import chosen_methods
from camscope.evaluation.data import read_data
from camscope.evaluation.page import evaluated
from camscope.evaluation.plan import EvaluationPlan
from camscope.evaluation.run import evaluate
from camscope.models.loading import load

DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", "../shared/data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test data in {DATA} (CAMSCOPE_TEST_DATA)")


def table_of(plan, out):
    for row in evaluate(plan, out):
        assert row["status"] != "failed", row["message"]
    cells = evaluated(out)["table"]["cells"]
    return {(cell["method"], cell["metric"]): cell for cell in cells}


def subset(folder, boxes, count, out):
    """The first annotated images of a folder."""
    with (DATA / folder / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[boxes] != "[]"][:count]
    for row in rows:
        row["file"] = str((DATA / folder / row["file"]).absolute())
    with (out / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return out / "pictures.csv"


def test_grad_cam_of_squeezenet_finds_the_object(tmp_path):
    weights = DATA / "weights" / "squeezenet1_0_imagenet_deepcompression.pth"
    model = load("torchvision:squeezenet1_0", weights=weights)
    table = subset("imagenet_val", "boxes_xyxy_227", 24, tmp_path)
    items = read_data(table, boxes="boxes_xyxy_227", target="column:class_index")
    plan = EvaluationPlan(model, items, chosen_methods("gradcam"), ("pointing", "mass_accuracy", "average_drop"))
    cells = table_of(plan, tmp_path / "out")
    assert cells["gradcam", "pointing"]["estimate"] >= 0.75  # .92 on all 60
    for metric in (
        "pointing",
        "mass_accuracy",
    ):  # a centre prior is another matter: these images have it in the middle
        assert cells["gradcam", metric]["estimate"] > cells["uniform", metric]["estimate"] + 0.1
    assert cells["uniform", "average_drop"]["estimate"] < cells["gradcam", "average_drop"]["estimate"]


@pytest.mark.slow
def test_the_positive_control_beats_the_negative_control(tmp_path):
    pointing = {}
    for name, size in (("localiser", 448), ("probe", 224)):
        model = load(
            "timm:mobilenetv2_100",
            weights=DATA / "weights" / f"cxr_mobilenetv2_100_opacity_{name}.pth",
            labels=["other", "lung opacity"],
            input_size=size,
            fit="squash",
            mean=[0.5] * 3,
            std=[0.5] * 3,
            options={"pad_type": "same"},
        )
        (tmp_path / name).mkdir()
        table = subset("cxr_nih", "rsna_boxes_xyxy", 12, tmp_path / name)
        items = read_data(table, boxes="rsna_boxes_xyxy", target="lung opacity")
        assert items.patients
        cells = table_of(
            EvaluationPlan(model, items, chosen_methods("gradcam"), ("pointing",)), tmp_path / name / "out"
        )
        pointing[name] = cells["gradcam", "pointing"]["estimate"]
    assert pointing["localiser"] > pointing["probe"] + 0.2
