"""Training on real chest radiographs: few images, and said so."""

import csv
import os
from pathlib import Path

import pytest

import camscope as cs
from running import inside

DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", Path(__file__).parents[3] / "shared/data"))

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="no test data: set CAMSCOPE_TEST_DATA to their folder"),
    pytest.mark.slow,
]


@pytest.mark.filterwarnings("default::UserWarning")  # of unknown patients
def test_fine_tuning_learns_its_training_pictures_and_judges_others(tmp_path):
    weights = DATA / "weights/timm_mobilenetv2_100_imagenet_coral_tf2ptq.pth"
    done = inside(
        "train", DATA / "cxr_covid3/labels.csv", "--model", "timm:mobilenetv2_100", "--option", "pad_type=same",
        "--weights", weights, "--fit", "squash", "--split", "0.6,0.15,0.25", "--epochs", 6, "--batch-size", 8,
        "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = cs.load(tmp_path / "run")
    assert model.labels == ("Covid", "Normal", "Viral Pneumonia")
    assert model.facts["training"]["start"].startswith(weights.name)
    done = inside("failures", tmp_path / "run", "--split", "train", "--out", tmp_path / "train")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "train/predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(row[row["predicted"]] == "1" for row in rows) / len(rows) > 0.6
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "images: the intervals are wide" in page
    assert "The patients are unknown." in page
