"""Public data sets as they are shipped: `init`, then `study --check` and `study` without an edit."""

import json
from collections import Counter

import polars as pl
import pytest

from camscope.cohort.layout import layouts
from camscope.training.dataset import read_dataset
from layout_folders import LAYOUTS
from running import inside

QUICK = ("class_folders", "dicom_folder", "nih", "coco", "open_i")
"""Data sets, one per kind of reader, that run without `make test-all`."""


@pytest.fixture(
    params=[pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in LAYOUTS], ids=str
)
def data(request, tmp_path):
    (tmp_path / "data").mkdir()
    return LAYOUTS[request.param](tmp_path / "data"), tmp_path


@pytest.mark.filterwarnings("default::UserWarning")  # of unknown patients
def test_a_data_set_as_it_is_shipped(data):
    expected, folder = data
    given = folder / "data" / expected.table
    model = ["--model", "timm:test_resnet", "--weights", "none", "--labels", ",".join(expected.classes)]
    done = inside("init", given, *model, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["layout"] == expected.layout
    assert (result["images"], result["missing"], result["patients"]) == (expected.images, 0, expected.patients)
    assert {name: tuple(result["labels"][name]) for name in expected.labels} == expected.labels
    assert {name: result["masks"][name] for name in expected.masks} == expected.masks
    check = inside("study", "--check", "study.toml", cwd=folder)
    assert check.returncode == 0, check.stdout + check.stderr
    done = inside("study", "study.toml", "--out", "results", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pl.read_parquet(folder / "results/rows/*.parquet")
    assert len(rows) == expected.images * len(result["labels"] or expected.classes)
    present = rows.filter(pl.col("truth"))
    for name, (count, _, _) in expected.labels.items():
        assert len(present.filter(pl.col("label") == name)) == count
    if expected.patients:
        assert rows["patient"].n_unique() == expected.patients
    assert (folder / "results/report.html").exists()
    splits = Counter(case.split for case in read_dataset(folder / "study.toml").cases)
    assert {name: count for name, count in splits.items() if name} == expected.splits
    assert ("of the training or validation set" in check.stdout) == bool({"train", "val"} & set(expected.splits))


def test_every_layout_has_a_small_copy():
    copies = {"DICOM files", "archive of DICOM files", "class folders", *(layout.name for layout in layouts())}
    assert len(copies) == len(LAYOUTS)
