"""camscope demo, from the installed package alone."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscope.demo.tour import tour

COMMAND = Path(sys.executable).with_name("camscope")


def rows(folder):
    with (folder / "cohort.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(folder):
    """A map for each finding that is present, in the tree of views and patients, at the picture's size."""
    maps = 0
    for row in rows(folder):
        picture = Image.open(folder / row["path"])
        for finding in ("Effusion", "Cardiomegaly", "Pneumothorax", "Consolidation", "Nodule"):
            place = folder / "maps" / row["view"] / row["patient_id"] / Path(row["path"]).stem
            made = place / f"gradcam_{finding}_{finding.lower()}.jpg"
            assert made.is_file() == (row[finding.lower()] == "1")
            if made.is_file():
                assert Image.open(made).size == picture.size
                maps += 1
    assert maps == len(list((folder / "maps").rglob("*.jpg")))
    return maps


def test_a_small_tour(tmp_path):
    steps = {}
    sheet = tour(tmp_path, patients=30, progress=lambda name, done, total: steps.update({name: (done, total)}))
    assert check(tmp_path) > 20
    assert set(steps) == {"writing the cohort", "explaining"}
    assert all(done == total for done, total in steps.values())
    assert np.asarray(Image.open(sheet)).std() > 20


@pytest.mark.slow
def test_the_command_shows_the_whole_cohort(tmp_path):
    done = subprocess.run([COMMAND, "demo", "--out", tmp_path / "demo"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_file()
    assert len({row["patient_id"] for row in rows(tmp_path / "demo")}) == 70
    assert check(tmp_path / "demo") > 150
