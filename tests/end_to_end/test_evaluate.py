"""camscope evaluate from the command line: a folder of results, a table, a page that fetches nothing."""

import csv
import html
import importlib
import json
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image

from camscope.errors import CamscopeError
from camscope.evaluation.baselines import BASELINES
from camscope.methods import METHODS
from camscope.models.loading import load
from running import inside


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model of its own and five annotated images, one of which is broken."""
    place = tmp_path_factory.mktemp("evaluate")
    load("timm:test_resnet", weights="none", classes=2, labels=["cat", "dog"], input_size=64).save(place / "model")
    draw = np.random.default_rng(0)
    with (place / "pictures.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient_id", "box", "finding"])
        for k in range(5):
            Image.fromarray(draw.integers(0, 255, (60, 80, 3), np.uint8)).save(place / f"{k}.png")
            writer.writerow([f"{k}.png", f"P{k % 3}", "10,10,50,40" if k else "[]", "dog"])
    (place / "4.png").write_bytes(b"broken")
    return place


def run(place, *more, out="out"):
    return inside(
        *("evaluate", "--model", place / "model", "--data", place / "pictures.csv", "--boxes", "box"),
        *("--target", "column:finding", "--methods", "gradcam,layercam,legrad"),
        *(
            "--metrics",
            "pointing,mass_accuracy,average_drop,cascading_randomisation",
            "--few",
            "1",
            "--out",
            place / out,
        ),
        *more,
    )


def test_rows_table_and_page(place):
    done = run(place)
    assert done.returncode == 1  # a row failed
    assert "4.png" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["method", "pointing↑", "mass_accuracy↑"]
    assert lines[-1] == str(place / "out" / "evaluation.html")
    rows = pl.read_parquet(place / "out" / "rows" / "*.parquet")
    assert len(rows) == 5 * 7
    assert rows.filter(pl.col("status") == "ok")["class"].unique().to_list() == ["dog"]
    assert rows.filter((pl.col("case") == 0) & (pl.col("status") == "ok"))["pointing"].null_count() == 6
    assert rows.filter(pl.col("method") == "legrad")["status"].unique().sort().to_list() == ["failed", "not asked"]
    record = json.loads((place / "out" / "evaluation.json").read_text())
    assert record["finished"]
    assert {one["method"] for one in record["table"]["methods"]} >= {"uniform", "centre", "averagemask", "randomcam"}
    page = html.unescape((place / "out" / "evaluation.html").read_text())
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"https?:", page)
    assert " style=" not in page
    assert page.count("<svg") >= 5


def test_the_same_command_again_changes_nothing_and_prints_json(place):
    run(place)
    before = {path.name: path.read_bytes() for path in (place / "out" / "rows").glob("*.parquet")}
    done = run(place, "--json")
    assert {path.name: path.read_bytes() for path in (place / "out" / "rows").glob("*.parquet")} == before
    content = json.loads(done.stdout)
    assert content["data"] == {"path": str(place / "pictures.csv"), "pictures": 5, "annotated": 4, "patients": True}
    assert content["table"]["reference"] == "gradcam"


def test_first_results_before_the_end(place, monkeypatch):
    monkeypatch.setattr(importlib.import_module("camscope.cli.evaluate"), "_FIRST_RESULTS", 0.0)
    pages = []
    page = importlib.import_module("camscope.evaluation.page")
    written = page.write_atomically
    monkeypatch.setattr(
        page, "write_atomically", lambda path, write: (written(path, write), pages.append(path.read_text()))
    )
    done = run(place, "--batch-size", "2", out="first")
    assert re.search(r"first results in \S+evaluation.html: \d+ of 35 maps, about \d+\.\d minutes to go", done.stderr)
    assert "First results: 2 of 35 maps are done" in pages[0]
    assert "First results" not in pages[-1]


def test_by_default_fast_methods_and_metrics_and_with_thorough_all(place, monkeypatch):
    plans = []

    def stop(plan, _):
        plans.append(plan)
        raise CamscopeError("far enough")

    monkeypatch.setattr(importlib.import_module("camscope.cli.evaluate"), "_run", stop)
    for more in ((), ("--thorough",), ("--thorough", "--methods", "fem")):
        data = ("--data", place / "pictures.csv", "--boxes", "box", "--out", place / "none")
        assert "far enough" in inside("evaluate", "--model", place / "model", *data, *more).stderr
    fast, thorough, one = plans
    assert set(METHODS) < set(thorough.methods)
    assert set(fast.methods) < set(thorough.methods)
    assert "gradcam" in fast.methods
    assert "scorecam" not in fast.methods
    assert set(fast.metrics) < set(thorough.metrics)
    assert "deletion" not in fast.metrics
    assert (one.methods, one.metrics) == ((*BASELINES, "fem"), thorough.metrics)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--methods", "gradcm"), "no method called 'gradcm'; nearest: 'gradcam'"),
        (("--metrics", "pointin"), "no metric called 'pointin'; nearest: 'pointing'"),
        (("--boxes", "bx"), "no column called 'bx'; nearest: 'box'"),
        (("--set", "samples=3"), "no setting called 'samples'"),
        (("--target", "mouse"), "mouse"),
        (("--engine", "egar"), "no engine called 'egar'; nearest: 'eager'"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_written(place, more, said):
    done = run(place, *more, out=f"wrong{more[0]}")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((place / f"wrong{more[0]}").glob("rows/*.parquet"))
