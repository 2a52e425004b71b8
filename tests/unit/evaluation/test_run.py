"""Rows of an evaluation: known best and worst values, stopped and continued, nothing lost."""

import dataclasses
import itertools
import math
import re
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

from camscope.cohort.store import FAILED, NOT_ASKED, OK
from camscope.errors import PictureError
from camscope.evaluation.candidates import chosen_methods
from camscope.evaluation.data import read_data
from camscope.evaluation.page import evaluated
from camscope.evaluation.plan import EvaluationPlan
from camscope.evaluation.rows import chosen_metrics
from camscope.evaluation.run import evaluate
from camscope.methods import METHODS as METHODS_BY_NAME
from camscope.models.engines import prepare

METRICS = "pointing,mass_accuracy,tuned_iou,gini,average_drop,max_sensitivity,image_swap,cascading_randomisation"
METHODS = "cam,gradcam,eigencam,legrad"


@pytest.fixture
def plan(model, folder):
    items = read_data(folder / "pictures.csv", boxes="box", target="red")
    return EvaluationPlan(model, items, chosen_methods(METHODS), chosen_metrics(METRICS), few=2, batch_size=4)


def rows_in(out):
    return pl.read_parquet(out / "rows/*.parquet").sort("method", "case")


def same(one, other):
    return one.drop("seconds").equals(other.drop("seconds"))


@pytest.mark.parametrize("target", ["not red", "red"])
def test_a_lone_logit_with_two_class_names(model, folder, tmp_path, target):
    """The first class is the opposite of the logit, which is the second."""
    net = nn.Sequential(*model.net[:5], nn.Linear(4, 1).requires_grad_(False))
    model = dataclasses.replace(model, net=net.eval(), labels=("not red", "red"))
    items = read_data(folder / "pictures.csv", boxes="box", target=target)
    plan = EvaluationPlan(model, items, chosen_methods("gradcam"), ("pointing", "average_drop"), few=1)
    rows = [row for row in evaluate(plan, tmp_path / "out") if row["method"] == "gradcam"]
    assert [row["status"] for row in rows] == [OK] * 6
    for row in rows:
        assert row["score"] == pytest.approx(math.log(row["probability"] / (1 - row["probability"])), abs=1e-4)


def test_a_red_square_is_found_and_the_score_depends_on_it(plan, tmp_path):
    plan = dataclasses.replace(plan, metrics=(*plan.metrics, "deletion", "road"))
    rows = list(evaluate(plan, tmp_path / "out"))
    assert len(rows) == 6 * 8
    by = {(row["method"], row["case"]): row for row in rows}
    for case in range(6):
        row = by["gradcam", case]
        assert row["status"] == OK
        assert (row["class"], row["pointing"], row["passes"]) == ("red", 1.0, 1)
        assert row["mass_accuracy"] > 0.85
        assert row["area"] == pytest.approx(18 * 18 / 48**2)
        assert row["mass_accuracy"] > by["centre", case]["mass_accuracy"]
        assert by["uniform", case]["mass_accuracy"] == pytest.approx(row["area"])
        assert by["uniform", case]["average_drop"] == pytest.approx(0, abs=1e-6)
        assert row["deletion"] < by["uniform", case]["deletion"]
        assert row["road"] > by["uniform", case]["road"]
        assert row["overlay"].startswith(b"\xff\xd8")
        assert len(row["tuned_iou"]) == 100
        assert ("max_sensitivity" in row) == ("cascade" in row) == (case < 2)
        assert by["legrad", case]["status"] == NOT_ASKED
        assert by["legrad", case]["key"] is None
    assert by["uniform", 0]["max_sensitivity"] == 0


def test_stopped_and_continued_is_as_never_stopped(plan, tmp_path):
    whole = list(evaluate(plan, tmp_path / "whole"))
    started = evaluate(plan, tmp_path / "parts")
    list(itertools.islice(started, 14))
    started.close()  # as a kill: the shards that are written stay
    kept = rows_in(tmp_path / "parts")
    assert 0 < len(kept) < len(whole)
    list(evaluate(plan, tmp_path / "parts"))
    assert same(rows_in(tmp_path / "parts"), rows_in(tmp_path / "whole"))
    again = rows_in(tmp_path / "parts").join(kept, on=["method", "case"], how="semi")
    assert again["seconds"].equals(kept.sort("method", "case")["seconds"])  # they were not measured again


def test_nothing_is_measured_twice(plan, tmp_path, monkeypatch):
    list(evaluate(plan, tmp_path / "out"))
    before = rows_in(tmp_path / "out")
    calls = []
    plan.model.net.register_forward_pre_hook(lambda *_: calls.append(1))
    list(evaluate(plan, tmp_path / "out"))
    assert calls == []
    assert rows_in(tmp_path / "out").equals(before)
    more = dataclasses.replace(plan, methods=(*plan.methods, "layercam"))
    list(evaluate(more, tmp_path / "out"))
    after = rows_in(tmp_path / "out")
    assert same(after.filter(pl.col("method") != "layercam"), before)
    assert after.filter(pl.col("method") == "layercam")["status"].to_list() == [OK] * 6


def test_the_batch_does_not_matter(plan, tmp_path):
    list(evaluate(plan, tmp_path / "four"))
    list(evaluate(dataclasses.replace(plan, batch_size=1), tmp_path / "one"))
    one, four = rows_in(tmp_path / "one"), rows_in(tmp_path / "four")
    for name in ("mass_accuracy", "average_drop", "gini"):
        assert one[name].is_null().equals(four[name].is_null())
        assert (one[name] - four[name]).abs().max() < 1e-5


def test_an_engine_scores_edited_pictures_and_changes_no_number(plan, tmp_path, monkeypatch):
    metrics = ("pointing", "average_drop", "increase", "deletion", "insertion", "road", "infidelity")
    plan = dataclasses.replace(plan, metrics=metrics, methods=("uniform", "gradcam"))
    used = []

    def prepared(*given, **more):
        used.append(prepare(*given, **more).name)
        return prepare(*given, **more)

    monkeypatch.setattr("camscope.models.engines.select.prepare", prepared)
    list(evaluate(plan, tmp_path / "eager"))
    assert not used
    list(evaluate(dataclasses.replace(plan, engine="openvino"), tmp_path / "openvino"))
    assert set(used) == {"openvino"}
    assert evaluated(tmp_path / "openvino")["run"]["engine"] == "openvino"
    eager, other = rows_in(tmp_path / "eager"), rows_in(tmp_path / "openvino")
    assert eager["key"].to_list() != other["key"].to_list()
    for name in metrics:
        assert eager[name].is_null().equals(other[name].is_null())
        assert (eager[name] - other[name]).abs().max() < 1e-4
    assert other.filter(pl.col("method") == "uniform")["increase"].to_list() == [0.0] * 6  # not by rounding either


def test_a_picture_that_cannot_be_read_is_a_row_that_says_why(plan, folder, tmp_path):
    (folder / "p1.png").write_bytes(b"no image")
    (folder / "p3.png").unlink()
    list(evaluate(plan, tmp_path / "out"))
    rows = rows_in(tmp_path / "out")
    assert rows["status"].value_counts().sort("status").rows() == [(FAILED, 16), (NOT_ASKED, 4), (OK, 28)]
    assert rows.filter(pl.col("case") == 3)["message"].unique().to_list()[0].startswith("there is no file")
    content = evaluated(tmp_path / "out")
    assert all(one["failed"] == 2 for one in content["table"]["methods"])
    assert "there is no file" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_picture_that_the_network_fails_on_does_not_harm_the_others(plan, tmp_path):
    corner = list(evaluate(dataclasses.replace(plan, methods=("uniform",), metrics=("gini",)), tmp_path / "before"))
    assert [row["status"] for row in corner] == [OK] * 6

    def refuse(_, inputs):
        if (inputs[0][:, 0, 40, 40] > 0.8).any():  # the square of the fourth image alone
            raise ValueError("no red corners")

    handle = plan.model.net.register_forward_pre_hook(refuse)
    rows = list(evaluate(dataclasses.replace(plan, metrics=("pointing", "gini")), tmp_path / "out"))
    handle.remove()
    failed = {row["case"]: row["message"] for row in rows if row["status"] == FAILED}
    assert failed == {3: "ValueError: no red corners"}
    assert {row["case"] for row in rows if row["status"] == OK} == {0, 1, 2, 4, 5}


def test_a_map_with_nan_is_a_row_without_metrics(plan, tmp_path, monkeypatch):
    def spoiled(trace):
        maps = METHODS_BY_NAME["gradcam"](trace).clone()
        maps[:, 0, 0] = torch.where(trace.inputs[:, 0, 40, 40] > 0.8, torch.nan, maps[:, 0, 0])  # the fourth image
        return maps

    monkeypatch.setitem(METHODS_BY_NAME, "spoiled", spoiled)
    metrics = ("pointing", "tuned_iou", "maxboxacc", "gini", "deletion", "road", "increase", "infidelity")
    plan = dataclasses.replace(plan, methods=("uniform", "spoiled"), metrics=metrics, few=6)
    rows = {row["case"]: row for row in evaluate(plan, tmp_path / "out") if row["method"] == "spoiled"}
    assert all(row["status"] == OK for row in rows.values())
    assert not rows[3].keys() & set(metrics)
    assert all(rows[case].keys() >= set(metrics) for case in (0, 1, 2, 4, 5))
    cells = {
        cell["metric"]: cell for cell in evaluated(tmp_path / "out")["table"]["cells"] if cell["method"] == "spoiled"
    }
    assert {cell["pictures"] for cell in cells.values()} == {5}


def test_pictures_are_swapped_for_the_same_class(plan, tmp_path, monkeypatch):
    """A map of the class alone, whatever the image, is the same for another image, also where classes differ."""

    def classy(trace):
        weights = trace.gradients.mean((2, 3))[:, :2]  # of redness and blueness: one of them is 0
        ramp = torch.linspace(-1, 1, 36).view(6, 6)
        return weights[:, 0, None, None] * ramp - weights[:, 1, None, None] * ramp

    monkeypatch.setitem(METHODS_BY_NAME, "classy", classy)
    items = [dataclasses.replace(item, target=("red", "blue")[item.number % 2]) for item in plan.data.cases]
    data = dataclasses.replace(plan.data, cases=items)
    plan = dataclasses.replace(plan, data=data, methods=("uniform", "classy"), metrics=("image_swap",), few=6)
    plan = dataclasses.replace(plan, batch_size=6)
    found = [row["image_swap"] for row in evaluate(plan, tmp_path / "out") if row["method"] == "classy"]
    assert found == pytest.approx([1.0] * 6)


def test_no_picture_at_all(plan, folder, tmp_path):
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(PictureError, match="none of the 6 images can be used"):
        list(evaluate(plan, tmp_path / "out"))


def test_methods_of_many_passes_are_reduced_and_run_on_few(plan, tmp_path):
    plan = dataclasses.replace(plan, methods=chosen_methods("sscam,scorecam"), metrics=("pointing",), most_passes=4)
    rows = list(evaluate(dataclasses.replace(plan, settings={"samples": 2}), tmp_path / "out"))
    table = evaluated(tmp_path / "out")["table"]
    said = {one["method"]: one["restricted"] for one in table["methods"]}
    assert said["sscam"] == "9 passes per map: reduced to the most variable channels (1 of 4), run on few images"
    assert said["scorecam"] == "5 passes per map: run on few images"
    assert not said["randomcam"]
    made = [
        (row["method"], row["case"], row["passes"]) for row in rows if row["method"] == "sscam" and row["status"] == OK
    ]
    assert made == [("sscam", 0, 3), ("sscam", 1, 3)]  # within most_passes, with the shared pass
    assert all(cell["rank"] is None for cell in table["cells"] if cell["method"] == "sscam")


def test_docs_name_each_metric_that_may_be_asked_for():
    table = (Path(__file__).parents[3] / "docs/evaluate.md").read_text(encoding="utf-8").split("| metric |")[1]
    cells = [line.split("|")[1] for line in table.split("\n\n")[0].splitlines()[2:]]
    assert sorted(name for cell in cells for name in re.findall("`(.+?)`", cell)) == sorted(chosen_metrics("all"))
