"""The phantom cohort many times over, on a Ray cluster of two nodes of this machine, one of which is killed half-way.

    python benchmarks/scale/cluster.py --times 50 --out /tmp/scale          # a folder
    python benchmarks/scale/cluster.py --times 50 --out s3                  # an S3 server on loopback

The rows are compared with those of this process, one by one; cluster.json keeps what was seen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

HERE = Path(__file__).parent
NUMBERS = ("score", "grid", "mass:mask:label", "enrichment:border:0.10")
EXACT = ("case", "image", "patient", "label", "method", "key", "status", "outcome", "layer", "file", "region_key")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50, help="how often the cohort's patients are repeated")
    parser.add_argument("--out", default="s3", help="a folder, or s3 for a server on loopback")
    parser.add_argument("--keep-nodes", action="store_true", help="kill none")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = repeated(Path(folder), asked.times)
        with s3() if asked.out == "s3" else contextlib.nullcontext(asked.out) as out:
            row = compared(file, Path(folder), str(out), kill=not asked.keep_nodes)
    path = HERE / "cluster.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows[f"{asked.times} times, {'s3' if asked.out == 's3' else 'folder'}"] = row
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row, indent=1))


def repeated(folder: Path, times: int) -> Path:
    """The demo's cohort, each patient so many times under another name; one label's mask and the border measured."""
    from camscope.phantoms.cohort import write_cohort

    file = write_cohort(folder / "cohort")
    table = pl.read_csv(folder / "cohort/cohort.csv", infer_schema=False)
    named = [table.with_columns(pl.col("patient_id") + f"-{n}") for n in range(times)]
    pl.concat(named).write_csv(folder / "cohort/cohort.csv")
    return file


def compared(file: Path, folder: Path, out: str, *, kill: bool) -> dict[str, Any]:
    """Run the study here and on the cluster, and compare the rows."""
    from camscope.study.run import run
    from camscope.study.study import Study

    study = Study.read(file)
    begun = time.perf_counter()
    for _ in run(study, folder / "here", device="cpu"):
        pass
    here = time.perf_counter() - begun
    there, again = on_cluster(study, out, kill=kill)
    one, other = rows(str(folder / "here"), study.plan), rows(out, study.plan)
    return {
        "cases": len(study.cohort),
        "rows": len(one),
        "seconds_here": round(here, 1),
        "seconds_cluster": round(there, 1),
        "node_killed": kill,
        "shards_given_out_again": again,
        "failed": int((other["status"] == "failed").sum()),
        "rows_equal": bool(one.select(EXACT).equals(other.select(EXACT))),
        "largest_difference": {name: difference(one[name], other[name]) for name in NUMBERS},
        "load": round(os.getloadavg()[0], 1),
    }


def on_cluster(study: Any, out: str, *, kill: bool) -> tuple[float, int]:
    """Seconds, and how many shards were lost with the node."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    from camscope.study.cluster import Cluster
    from camscope.study.run import run

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    memory = {"object_store_memory": 100 * 2**20}
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False} | memory)
    doomed = nodes.add_node(num_cpus=1, **memory)
    nodes.add_node(num_cpus=1, **memory)
    ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.CRITICAL)
    again = 0
    begun = time.perf_counter()
    try:
        said: set[str] = set()
        cluster = Cluster(workers=2)
        study_rows = run(study, out, cluster=cluster, progress=lambda state: said.add(state.label))
        half = len(study.cohort) * len(study.file.labels) // 2
        for n, _ in enumerate(study_rows):
            if kill and n == half:
                nodes.remove_node(doomed, allow_graceful=False)
        again = sum(int(label.split()[3]) for label in said if "again" in label)
    finally:
        ray.shutdown()
        nodes.shutdown()
    return time.perf_counter() - begun, again


def rows(out: str, plan: str) -> pl.DataFrame:
    from camscope.cohort.store import Store

    store = Store(out)
    return pl.read_parquet(store.copies(plan)).sort("case", "label", "method")


def difference(one: pl.Series, other: pl.Series) -> float:
    a, b = (s.explode().cast(pl.Float64).to_numpy() for s in (one, other))
    return float(np.nanmax(np.abs(a - b)))


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """An S3 server on loopback, and a bucket in it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="camscope")
    try:
        yield "s3://camscope/results"
    finally:
        server.stop()


if __name__ == "__main__":
    main()
