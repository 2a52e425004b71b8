"""Runs that are stopped, go on, run out of disk, and say how far they are."""

import errno
import json
import os

import polars as pl
import pytest

import camscope as cs
from camscope.errors import StoreError
from camscope.study import run as module
from camscope.study.run import StudyProgress, status
from camscope.study.study import Study


def tables(out):
    return pl.read_parquet(out / "rows/*.parquet").sort("key", "case", "label")


def test_rows_out_are_rows_in(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST_SHARD", 3)
    study, progress = Study.read(make_study()), []
    rows = cs.run(study, tmp_path / "out", device="cpu", progress=lambda state: progress.append(vars(state).copy()))
    seen = [(row["case"], row["label"], row["method"]) for row in rows]
    assert seen == [(n, label, "gradcam") for n in range(8) for label in ("Effusion", "Nodule")]
    assert len(list((tmp_path / "out/rows").iterdir())) == 3
    assert tables(tmp_path / "out").height == 16
    assert progress[-1] == {"done": 8, "failed": 0, "total": 8, "label": "Nodule"}
    assert list(dict.fromkeys(state["done"] for state in progress)) == list(range(9))
    assert list(dict.fromkeys(state["label"] for state in progress)) == ["Effusion", "Nodule"]


def test_a_run_that_stops_goes_on(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST_SHARD", 2)
    study = Study.read(make_study(20))
    rows = cs.run(study, tmp_path / "one", device="cpu", batch_size=4)
    for _ in range(9):
        next(rows)
    assert status(tmp_path / "one")["running"] is True
    rows.close()
    found = status(tmp_path / "one")
    assert (found["cases"], found["finished"], found["running"]) == (20, False, False)
    assert sum(found["rows"].values()) == 12
    list(cs.run(study, tmp_path / "one", device="cpu", batch_size=4))
    list(cs.run(study, tmp_path / "two", device="cpu", batch_size=3))
    assert status(tmp_path / "one") == {
        "cases": 20,
        "rows": {"ok": 20, "not asked": 20},
        "damaged": [],
        "finished": True,
        "running": False,
    }
    one, two = tables(tmp_path / "one"), tables(tmp_path / "two")
    exact = ["case", "key", "status", "label", "truth", "outcome", "file", "message"]
    assert one.select(exact).equals(two.select(exact))
    assert (one["score"] - two["score"]).abs().max() < 1e-5


@pytest.mark.parametrize("nth", [1, 2, 4, 7, 9, 12])
def test_a_full_disk_stops_in_one_sentence_and_the_same_goes_on(make_study, tmp_path, monkeypatch, nth):
    monkeypatch.setattr(module, "_SMALLEST_SHARD", 2)
    study, written = Study.read(make_study(6)), []
    fsync = os.fsync

    def full(file):
        written.append(file)
        if len(written) >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    out = tmp_path / "out"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match="No space left on device; results so far are kept; re-run the same command to resume"
    ):
        list(cs.run(study, out, device="cpu", batch_size=2))
    assert not list(out.rglob("*.part"))
    assert all(pl.read_parquet(path).height for path in (out / "rows").glob("*.parquet"))
    monkeypatch.setattr(os, "fsync", fsync)
    rows = list(cs.run(study, out, device="cpu", batch_size=2))
    assert len(rows) == tables(out).height == 12
    assert {row["status"] for row in rows} == {"ok", "not asked"}


def test_two_runs_on_one_folder(make_study, tmp_path):
    study = Study.read(make_study())
    first = cs.run(study, tmp_path / "out", device="cpu")
    next(first)
    with pytest.raises(StoreError, match="another process is at work"):
        next(cs.run(study, tmp_path / "out", device="cpu"))
    assert len(list(first)) == 15


def test_rows_of_a_former_plan_are_out_of_sight_while_a_changed_study_runs(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST_SHARD", 2)
    path = make_study()
    list(cs.run(Study.read(path), tmp_path / "out", device="cpu"))
    path.write_text(path.read_text().replace("[explain]", '[explain]\nwhen = "all"'))
    rows = cs.run(Study.read(path), tmp_path / "out", device="cpu")
    next(rows)
    assert set(tables(tmp_path / "out")["status"]) == {"ok"}
    assert tables(tmp_path / "out").height == 4
    rows.close()
    assert len(list(cs.run(Study.read(path), tmp_path / "out", device="cpu"))) == 16
    assert not (tmp_path / "out/rows/former").exists()


def test_no_study_there(tmp_path):
    with pytest.raises(StoreError, match="there is no study in"):
        status(tmp_path)


def test_progress_starts_at_nothing():
    assert StudyProgress(total=3) == StudyProgress(0, 0, 3, "")


def test_rows_of_another_precision_are_computed_again(make_study, tmp_path):
    study = Study.read(make_study())
    exact = list(cs.run(study, tmp_path / "out", device="cpu"))
    lower = list(cs.run(study, tmp_path / "out", device="cpu", precision="bfloat16"))
    assert {row["key"] for row in exact}.isdisjoint(row["key"] for row in lower)
    assert {row["computed"] for row in exact} == {"eager:cpu"}
    assert {row["computed"] for row in lower} == {"eager bfloat16:cpu"}
    assert json.loads((tmp_path / "out/study.json").read_text())["run"]["precision"] == "bfloat16"
    kept = pl.read_parquet(tmp_path / "out/rows/*.parquet")
    assert kept["computed"].unique().to_list() == ["eager bfloat16:cpu"]
    assert len(kept) == len(exact)
    for one, other in zip(exact, lower, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=0.1)
        assert one["score"] != other["score"]
