"""What a worker of a cluster does, in this process; tests/end_to_end/test_cluster.py runs real clusters."""

import contextlib
import pickle
import signal
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

import camscope as cs
from camscope.cohort.store import Store
from camscope.errors import ClusterError
from camscope.study import run as module
from camscope.study.cluster import Cluster, Worker, _shipped, _words, _workers, connected
from camscope.study.study import Study

GIVEN = {"device": "cpu", "batch_size": 16, "seed": 0, "engine": "eager"}
EXACT = ["case", "label", "method", "key", "status", "outcome", "file", "layer", "computed", "region_key"]


@pytest.fixture
def begun(make_study, tmp_path, monkeypatch):
    """A study of eight cases in shards of three, run here; and what makes its worker."""
    monkeypatch.setattr(module, "_SMALLEST_SHARD", 3)
    study = Study.read(make_study())
    list(cs.run(study, tmp_path / "here", **GIVEN))
    return study, {
        "study": _shipped(study),
        "plan": study.plan,
        "size": 3,
        "given": GIVEN,
        "cpus": torch.get_num_threads(),
    }


def blocks(study):
    return [table.to_arrow() for table in study.cohort.table.iter_slices(3)]


def rows(store, plan):
    return pl.concat([pl.read_parquet(path) for path in store.copies(plan)])


def alike(one, other):
    assert one.select(EXACT).equals(other.select(EXACT))
    for column in ("score", "grid", "mass:border:0.10"):
        np.testing.assert_allclose(*(t[column].explode().to_numpy() for t in (one, other)), rtol=1e-5, atol=1e-6)


def test_a_worker_writes_the_shards_that_a_process_writes(begun, tmp_path, monkeypatch):
    study, settings = begun
    settings = pickle.loads(pickle.dumps(settings))
    monkeypatch.chdir("/")
    worker = Worker(**settings, out=str(tmp_path / "there"))
    done = pl.concat([pl.DataFrame(pl.from_arrow(worker(block))) for block in reversed(blocks(study))])
    assert done.to_dicts() == [{"shard": n, "fault": ""} for n in (2, 1, 0)]
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    assert [path.name for path in here.shards()] == [path.name for path in there.shards()]
    alike(rows(here, study.plan), rows(there, study.plan))
    assert {path.relative_to(here.folder) for path in here.folder.rglob("*.jpg")} == {
        path.relative_to(there.folder) for path in there.folder.rglob("*.jpg")
    }


def test_a_worker_uses_what_was_computed_anywhere(begun, tmp_path, monkeypatch):
    study, settings = begun
    worker = Worker(**settings, out=str(tmp_path / "here"))
    monkeypatch.setattr(worker.step, "_explain", lambda *_: pytest.fail("computed again"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "here").rglob("*.*")}
    for block in blocks(study):
        worker(block)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "here").rglob("*.*")} == before


def test_a_store_that_cannot_be_written_is_no_lost_worker(begun, tmp_path):
    study, settings = begun
    (tmp_path / "there").write_text("a file where the folder should be")
    worker = Worker(**settings, out=str(tmp_path / "there"))
    (done,) = pl.DataFrame(pl.from_arrow(worker(blocks(study)[1]))).to_dicts()
    assert done["shard"] == 1
    assert "cannot write" in done["fault"]


def nodes(*resources, dead=()):
    listed = [{"Alive": True, "Resources": r} for r in resources] + [{"Alive": False, "Resources": r} for r in dead]
    return SimpleNamespace(nodes=lambda: listed)


@pytest.mark.parametrize(
    ("ray", "cluster", "expected"),
    [
        (nodes({"CPU": 2}), Cluster(), (1, 2, 0)),
        (nodes({"CPU": 16}, {"CPU": 16}), Cluster(), (8, 4, 0)),
        (nodes({"CPU": 1}, {"CPU": 1}, {"node:x": 1}), Cluster(workers=2), (2, 1, 0)),
        (nodes({"CPU": 4}, {"CPU": 4}, {"CPU": 4}), Cluster(workers=2), (2, 4, 0)),
        (nodes({"CPU": 64, "GPU": 8}), Cluster(), (8, 8, 1)),
        (nodes({"CPU": 64, "GPU": 8}), Cluster(gpus_per_worker=0.5), (16, 4, 0.5)),
        (nodes({"CPU": 64, "GPU": 8}, dead=[{"CPU": 64, "GPU": 8}]), Cluster(workers=4), (4, 16, 1)),
        (nodes({"CPU": 8, "GPU": 1}), Cluster(gpus_per_worker=0), (2, 4, 0)),
    ],
)
def test_what_each_worker_has(ray, cluster, expected):
    found = _workers(ray, cluster)
    assert (found.number, found.cpus, found.gpus) == expected
    assert found.device == ("cuda" if expected[2] else "cpu")


def test_a_cluster_without_what_a_worker_needs():
    with pytest.raises(ClusterError, match="0 GPUs, and a worker needs a CPU and 1 GPUs"):
        _workers(nodes({"CPU": 8}), Cluster(gpus_per_worker=1))


def test_what_is_said_of_a_fault_is_what_was_raised_in_the_worker():
    task = RuntimeError("Ray had a problem")
    task.cause = FileNotFoundError("no weights at /mnt/w.pth\nand more")
    assert _words(task) == "no weights at /mnt/w.pth"
    actor = RuntimeError('The actor died, ray::Worker.__init__()\n  File "x.py", line 1\nFileNotFoundError: no weights')
    assert _words(actor) == "FileNotFoundError: no weights"
    assert _words(RuntimeError("The actor died unexpectedly.\n\tpid: 7")) == "The actor died unexpectedly."
    assert _words(ValueError()) == "ValueError"


def test_a_study_behind_an_address(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST_SHARD", 3)
    study, address = Study.read(make_study()), f"memory://{tmp_path.name}/out"
    list(cs.run(study, address, **GIVEN))
    list(cs.run(study, tmp_path / "here", **GIVEN))
    here, there = Store(tmp_path / "here"), Store(address)
    alike(rows(here, study.plan), rows(there, study.plan))
    assert (there.folder / rows(there, study.plan)["file"].drop_nulls()[0]).read_bytes()[:2] == b"\xff\xd8"
    assert module.status(address) == module.status(tmp_path / "here")
    monkeypatch.setattr(module.StudyStep, "_explain", lambda *_: pytest.fail("computed again"))
    list(cs.run(study, address, **GIVEN))


@pytest.mark.parametrize("fails", [False, True])
def test_the_handler_of_signals_is_as_before_after_a_cluster(monkeypatch, fails):
    def init(**_):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        if fails:
            raise ConnectionError("no node")

    fake = SimpleNamespace(
        init=init,
        shutdown=lambda: None,
        is_initialized=lambda: False,
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}],
    )
    monkeypatch.setattr("camscope.study.cluster.require", lambda *_: fake)
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(ClusterError), connected(Cluster()):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
