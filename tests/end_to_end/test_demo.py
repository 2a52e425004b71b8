"""camscope demo, from the installed package alone: the audit finds what was planted, and nothing else."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import pytest
from PIL import Image
from train_phantom_models import PLANTED

from camscope.demo.tour import tour
from camscope.phantoms.findings import FINDINGS

COMMAND = Path(sys.executable).with_name("camscope")


def rows(folder):
    with (folder / "cohort.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(folder):
    """A map of each image and model, false positives too, in the tree of views and patients, at the image's size."""
    maps = 0
    for row in rows(folder):
        picture = Image.open(folder / row["path"])
        for finding in FINDINGS:
            place = folder / "results" / row["view"] / row["patient_id"] / Path(row["path"]).stem
            made = place / f"gradcam_{finding}_{finding.lower()}.jpg"
            assert Image.open(made).size == picture.size
            maps += 1
    made = pl.read_parquet(folder / "results" / "rows" / "*.parquet")
    assert len(made) == len(rows(folder)) * len(FINDINGS)
    assert made["file"].drop_nulls().len() == maps
    return maps


def test_a_small_tour(tmp_path):
    steps = {}
    made = tour(tmp_path, patients=14, progress=lambda name, done, total: steps.update({name: (done, total)}))
    assert check(tmp_path) > 60
    assert {"writing the cohort", "explaining"} <= set(steps)
    assert all(done == total for done, total in steps.values())
    assert np.asarray(Image.open(made.sheet)).std() > 20
    assert [label for label, _ in made.answers] == list(FINDINGS)
    assert "Nodule" in made.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_convicts_the_planted_models_and_no_other(tmp_path):
    done = subprocess.run([COMMAND, "demo", "--out", tmp_path / "demo"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    *answers, last = filter(None, done.stdout.splitlines())
    assert last.endswith("report.html")
    assert Path(urlsplit(last.split()[-1]).path).is_file()
    for line in answers[: len(FINDINGS)]:
        assert ("Relies on a shortcut" in line) == (line.split()[0] in PLANTED), line
    assert len({row["patient_id"] for row in rows(tmp_path / "demo")}) == 70
    assert check(tmp_path / "demo") > 900
    found = json.loads((tmp_path / "demo" / "results" / "audit.json").read_text(encoding="utf-8"))["labels"]
    verdicts = {label: one["regions"]["cue:token"]["verdict"] for label, one in found.items()}
    assert {label for label, verdict in verdicts.items() if verdict == "RELIES"} == set(PLANTED)
    assert all(found[label]["regions"]["border:0.10"]["verdict"] != "RELIES" for label in set(FINDINGS) - set(PLANTED))
