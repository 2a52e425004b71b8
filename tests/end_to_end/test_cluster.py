"""Studies on a real Ray cluster of two nodes on this machine: the same rows whatever is lost on the way."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

import camscope as cs
from camscope.cohort.store import Store
from camscope.study import cluster as module
from camscope.study import run as running
from camscope.study.cluster import Cluster
from camscope.study.study import Study
from running import inside

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

EXACT = ["case", "image", "patient", "label", "method", "key", "status", "outcome", "message", "file", "region_key"]
MEMORY = {"object_store_memory": 80 * 2**20}
TWO = Cluster(workers=2)


@pytest.fixture(scope="module")
def bucket():
    """An S3 server on loopback with one bucket; the nodes start later and learn of it from the environment."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    names = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (names | {"DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(f"AWS_{name}", value)
        boto3.client("s3").create_bucket(Bucket="camscope")
        yield "s3://camscope"
    server.stop()


@pytest.fixture(scope="module")
def nodes(bucket):
    """A head without CPUs and two nodes with one each; this process is connected."""
    from ray.cluster_utils import Cluster as Nodes

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | MEMORY)
    for _ in range(2):
        made.add_node(num_cpus=1, **MEMORY)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield made
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)
    made.shutdown()


@pytest.fixture
def file(make_study, monkeypatch):
    """A study of 24 cases in shards of two, one image damaged."""
    monkeypatch.setattr(running, "_SMALLEST_SHARD", 2)
    file = make_study(24, explain='when = "all"')
    (file.parent / "images/P003/PA.png").write_bytes(b"no image")
    return file


@pytest.fixture
def here(file, tmp_path):
    """The same study run by this process alone."""
    list(cs.run(Study.read(file), tmp_path / "here", device="cpu"))
    return rows(tmp_path / "here")


def rows(out):
    store = Store(out)
    plan = store.read_record()["plan"]
    return pl.read_parquet(store.copies(plan)).sort("case", "label", "method")


def alike(one, other):
    assert one.select(EXACT).equals(other.select(EXACT))
    for column in ("score", "grid", "mass:border:0.10"):
        a, b = (table[column].explode().drop_nulls().to_numpy() for table in (one, other))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_same_rows_and_the_same_audit(nodes, file, here, tmp_path):
    local = inside("study", file, "--out", tmp_path / "here")
    done = inside("study", file, "--out", tmp_path / "there", "--engine", "ray", "--workers", "2")
    assert (local.returncode, done.returncode) == (1, 1), done.stderr
    assert "no image" not in done.stdout
    assert done.stderr == local.stderr
    alike(here, rows(tmp_path / "there"))
    assert sorted(p.relative_to(tmp_path / "there") for p in (tmp_path / "there").rglob("*.jpg")) == sorted(
        p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*.jpg")
    )
    one, other = (json.loads((tmp_path / name / "audit.json").read_text()) for name in ("here", "there"))
    assert one["labels"]["Effusion"]["regions"].keys() == other["labels"]["Effusion"]["regions"].keys()
    for label in one["labels"]:
        for region, found in one["labels"][label]["regions"].items():
            assert found["verdict"] == other["labels"][label]["regions"][region]["verdict"]
        assert one["labels"][label]["auc"] == pytest.approx(other["labels"][label]["auc"], abs=1e-6)


def test_a_study_in_a_bucket(nodes, bucket, file, here):
    out = f"{bucket}/results"
    done = inside("study", file, "--out", out, "--engine", "ray", "--workers", "2")
    assert done.returncode == 1, done.stderr
    alike(here, rows(out))
    files = {path.name for path in Store(out).folder.iterdir()}
    assert {"rows", "study.json", "audit.json", "audit.parquet", "report.html", "AP", "PA"} <= files
    assert inside("study", "--status", out, "--json").stdout == json.dumps(running.status(out)) + "\n"
    assert json.loads(inside("study", "--status", out, "--json").stdout)["finished"] is True
    again = inside("audit", out)
    assert again.returncode == 0, again.stderr
    assert inside("report", out).stdout.strip() == f"{out}/report.html"


def test_begun_by_a_process_and_finished_by_a_cluster(nodes, file, here, tmp_path):
    study = Study.read(file)
    begun = cs.run(study, tmp_path / "out", device="cpu")
    for _ in range(20):
        next(begun)
    begun.close()
    kept = rows(tmp_path / "out")["file"].drop_nulls()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / name for name in kept)}
    list(cs.run(study, tmp_path / "out", cluster=TWO))
    alike(here, rows(tmp_path / "out"))
    assert len(before) >= 16
    assert {path: path.stat().st_mtime_ns for path in before} == before
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    list(cs.run(study, tmp_path / "out", device="cpu"))
    changed = {path.name for path in after if path.stat().st_mtime_ns != after[path]}
    assert changed <= {"study.json", ".lock"}


class Fragile(module.Worker):
    """A worker that a certain image kills, as a damaged one may do in a decoder or on a GPU."""

    def __call__(self, block):
        self._look(pl.DataFrame(pl.from_arrow(block)))
        return super().__call__(block)

    def rows(self, table):
        self._look(table)
        return super().rows(table)

    def _look(self, table):
        if "P005/AP.png" in table["path"].to_list():
            os._exit(1)


def test_a_picture_that_kills_every_worker_costs_its_own_rows(nodes, file, here, tmp_path, monkeypatch):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(module, "Worker", Fragile)
    labels = set()
    made = list(cs.run(Study.read(file), tmp_path / "out", cluster=TWO, progress=lambda state: labels.add(state.label)))
    assert len(made) == len(here) == 48
    found = rows(tmp_path / "out")
    failed = found.filter(pl.col("image") == "P005/AP.png")
    assert set(failed["status"]) == {"failed"}
    assert all("no worker could explain this image" in text for text in failed["message"])
    others = pl.col("image") != "P005/AP.png"
    alike(here.filter(others), found.filter(others))
    assert any("again" in label for label in labels)


def test_a_model_that_no_worker_can_load_is_one_sentence(nodes, file, tmp_path, monkeypatch):
    class Broken(module.Worker):
        def __init__(self, **_):
            raise FileNotFoundError("no weights on this node")

    monkeypatch.setattr(module, "Worker", Broken)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.raises(module.ClusterError, match="no weights on this node"):
        list(cs.run(Study.read(file), tmp_path / "out", cluster=TWO))


def test_a_driver_that_is_killed_goes_on(nodes, file, here, tmp_path):
    words = [sys.executable, "-c", DRIVER, "study", file, "--out", tmp_path / "out", "--engine", "ray"]
    words += ["--address", nodes.address, "--workers", "2"]
    driver = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 900  # a run that hangs
    while len(list((tmp_path / "out").glob("rows/*.parquet"))) < 3:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("rows/*.parquet")}
    list(cs.run(Study.read(file), tmp_path / "out", cluster=TWO))
    alike(here, rows(tmp_path / "out"))
    assert {path: path.stat().st_mtime_ns for path in before} == before


DRIVER = "from camscope.study import run; run._SMALLEST_SHARD = 2; from camscope.cli import main; main()"


def test_a_node_is_lost_half_way(nodes, file, here, tmp_path):
    """The last test with these nodes."""
    study, killed = Study.read(file), False
    lost = nodes.list_all_nodes()[-1]
    for n, _ in enumerate(cs.run(study, tmp_path / "out", cluster=TWO)):
        if n >= 12 and not killed:
            nodes.remove_node(lost, allow_graceful=False)
            killed = True
    assert killed
    alike(here, rows(tmp_path / "out"))
