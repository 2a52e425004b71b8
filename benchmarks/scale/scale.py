"""What a large study costs, from what one image costs here; and whether that predicts real runs.

    python benchmarks/scale/scale.py costs STUDY.toml      seconds and bytes of each step of one image
    python benchmarks/scale/scale.py runs STUDY.toml       runs with one and two Ray workers
    python benchmarks/scale/scale.py predict               the same from the costs; ten million images on 1 and 8 GPUs

Each writes its part of scale.json; the later ones read what the earlier ones wrote.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("scale.json")
SHARD = 32
STEPS = ("read", "decode", "prepare", "forward", "map", "measure", "draw", "encode and write")
ON_GPU = ("forward", "map")
FOR_OVERLAYS = ("draw", "encode and write")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["costs", "runs", "predict"])
    parser.add_argument("study", nargs="?", type=Path)
    parser.add_argument("--pictures", type=int, default=64)
    asked = parser.parse_args()
    kept: dict[str, Any] = json.loads(PATH.read_text()) if PATH.exists() else {}
    if asked.part == "costs":
        kept["costs"] = costs(asked.study, asked.pictures)
    elif asked.part == "runs":
        kept["runs"] = runs(asked.study)
    else:
        kept["predict"] = {"runs": [predicted(kept["costs"], one) for one in kept["runs"]]}
        kept["predict"]["archive"] = archive(kept["costs"])
    PATH.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept[asked.part], indent=1))


def costs(file: Path, pictures: int) -> dict[str, Any]:
    """Seconds of each step of an image, one thread, and bytes of what is read and written."""
    import torch

    from camscope.study.run import run
    from camscope.study.step import StudyStep
    from camscope.study.study import Study

    torch.set_num_threads(1)
    study = Study.read(file)
    study = replaced(study, pictures)
    with tempfile.TemporaryDirectory() as folder:
        list(run(study, Path(folder) / "warm", device="cpu"))
        spent: dict[str, float] = defaultdict(float)
        with timed(spent):
            list(run(study, Path(folder) / "out", device="cpu"))
        sizes = written(Path(folder) / "out", len(study.cohort))
        begun = time.perf_counter()
        for _ in range(3):
            StudyStep(Study.read(file), None, device="cpu")  # type: ignore[arg-type]
        start = (time.perf_counter() - begun) / 3
    per = {step: spent[step] / len(study.cohort) for step in STEPS}
    read = statistics.mean(Path(case.source).stat().st_size for case in study.cohort.cases())
    return {
        "pictures": len(study.cohort),
        "labels": len(study.file.labels),
        "seconds": {step: round(value, 5) for step, value in per.items()},
        "load_models": round(start, 2),
        "bytes": {"read": round(read)} | sizes,
        "machine": platform.processor() or platform.machine(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in ("torch", "polars", "ray")},
    }


def replaced(study: Any, pictures: int) -> Any:
    import dataclasses

    return dataclasses.replace(study, cohort=study.cohort.part(study.cohort.table.head(pictures)))


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Add up the CPU seconds of each step; steps run in threads, so that their walls overlap."""
    from unittest import mock

    from camscope.cohort import runner
    from camscope.explanation.batch import BatchExplainer
    from camscope.models.preprocess import Preprocess
    from camscope.study import step

    def clocked(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                spent[step] += time.thread_time() - begun

        return run

    over = BatchExplainer.over.__func__  # type: ignore[attr-defined]
    with (
        mock.patch.object(runner, "fetch", clocked("read", runner.fetch)),
        mock.patch.object(step, "decode", clocked("decode", step.decode)),
        mock.patch.object(Preprocess, "__call__", clocked("prepare", Preprocess.__call__)),
        mock.patch.object(BatchExplainer, "over", classmethod(clocked("forward", over))),
        mock.patch.object(BatchExplainer, "maps", clocked("map", BatchExplainer.maps)),
        mock.patch.object(step, "measured", clocked("measure", step.measured)),
        mock.patch.object(step, "drawn", clocked("draw", step.drawn)),
        mock.patch.object(step, "write_atomically", clocked("encode and write", step.write_atomically)),
    ):
        yield


def written(out: Path, cases: int) -> dict[str, float]:
    rows = sum(path.stat().st_size for path in out.glob("rows/*.parquet"))
    overlays = [path.stat().st_size for path in out.rglob("*.jpg")]
    import polars as pl

    count = pl.scan_parquet(out / "rows/*.parquet").select(pl.len()).collect().item()
    return {
        "a_row": round(rows / count),
        "an_overlay": round(statistics.mean(overlays)),
        "rows_a_picture": round(rows / cases),
        "overlays_a_picture": round(sum(overlays) / cases),
        "overlays": round(len(overlays) / cases, 2),
    }


def runs(file: Path) -> list[dict[str, Any]]:
    """Seconds from the first shard that a worker hands in to the last, with one worker and with two."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    from camscope.study.cluster import Cluster
    from camscope.study.run import run
    from camscope.study.study import Study

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    study, found = Study.read(file), []
    for number in (1, 2):
        nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(number):
            nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.CRITICAL)
        with tempfile.TemporaryDirectory() as folder:
            rows = run(study, folder, engine="eager", cluster=Cluster(workers=number))
            ends = [time.perf_counter() for row in rows if row["case"] % SHARD == 0]
        ray.shutdown()
        nodes.shutdown()
        seconds = ends[-1] - ends[0]
        found.append(
            {
                "workers": number,
                "cases": len(study.cohort),
                "seconds": round(seconds, 1),
                "load": round(os.getloadavg()[0], 2),
            }
        )
    return found


def predicted(known: dict[str, Any], run: dict[str, Any]) -> dict[str, float]:
    """The seconds of a run: a network runs in one thread of its worker, all else in threads on any core."""
    seconds, number = known["seconds"], run["workers"]
    a_picture = max(sum(seconds[step] for step in ON_GPU) / number, sum(seconds.values()) / (os.cpu_count() or 1))
    rounds = -(-run["cases"] // SHARD // number) - 1
    return {"workers": number, "seconds": round(rounds * number * SHARD * a_picture, 1), "measured": run["seconds"]}


GPU = {
    # timm's published results: densenet121, 288 px, AMP, channels_last, RTX 3090, PyTorch 2.4.
    "pictures_a_second": 1797,
    "cpus_a_gpu": 8,
    "disk_MB_a_second": 500,
    "network_MB_a_second": 1250,
}


def archive(known: dict[str, Any], pictures: int = 10_000_000) -> list[dict[str, Any]]:
    """Hours that each resource needs for ten million images; the longest are the study's."""
    seconds, sizes, found = known["seconds"], known["bytes"], []
    for gpus, overlays in itertools.product((1, 8), (True, False)):
        steps = [step for step in STEPS if step not in ON_GPU and (overlays or step not in FOR_OVERLAYS)]
        out = sizes["rows_a_picture"] + (sizes["overlays_a_picture"] if overlays else 0)
        need = {
            "GPUs": 1 / GPU["pictures_a_second"] / gpus,
            "CPUs": sum(seconds[step] for step in steps) / (GPU["cpus_a_gpu"] * gpus),
            "disk": (sizes["read"] + out) / 1e6 / GPU["disk_MB_a_second"],
            "network": (sizes["read"] + out) / 1e6 / GPU["network_MB_a_second"],
        }
        hours = {name: round(value * pictures / 3600, 1) for name, value in need.items()}
        found.append(
            {
                "gpus": gpus,
                "overlays": overlays,
                "hours": hours,
                "first_saturated": max(need, key=lambda name: need[name]),
                "read_GB": round(sizes["read"] * pictures / 1e9),
                "written_GB": round(out * pictures / 1e9),
            }
        )
    return found


if __name__ == "__main__":
    main()
