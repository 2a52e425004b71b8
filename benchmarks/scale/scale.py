"""What a large study costs, from what one picture costs here; and whether that predicts real runs.

    python benchmarks/scale/scale.py costs STUDY.toml      seconds and bytes of each step of one picture
    python benchmarks/scale/scale.py runs STUDY.toml       runs with one and two Ray workers, beside what is predicted
    python benchmarks/scale/scale.py archive               ten million pictures on 1 and 8 GPUs

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
STEPS = ("read", "decode", "prepare", "forward", "map", "measure and draw", "write")
ON_CPUS = tuple(step for step in STEPS if step not in ("forward", "map"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["costs", "runs", "archive"])
    parser.add_argument("study", nargs="?", type=Path)
    parser.add_argument("--pictures", type=int, default=64)
    asked = parser.parse_args()
    kept: dict[str, Any] = json.loads(PATH.read_text()) if PATH.exists() else {}
    if asked.part == "costs":
        kept["costs"] = costs(asked.study, asked.pictures)
    elif asked.part == "runs":
        kept["runs"] = runs(asked.study, kept["costs"])
    else:
        kept["archive"] = archive(kept["costs"])
    PATH.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept[asked.part], indent=1))


def costs(file: Path, pictures: int) -> dict[str, Any]:
    """Seconds of each step of a picture, one thread, and bytes of what is read and written."""
    import torch

    from camscope.study.explainer import Explainer
    from camscope.study.run import run
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
            Explainer(Study.read(file), None, device="cpu")  # type: ignore[arg-type]
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

    from camscope.explanation.batch import Pass
    from camscope.models.preprocess import Preprocess
    from camscope.study import explainer, measure  # noqa: F401
    from camscope.study.explainer import Explainer

    def clocked(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                spent[step] += time.thread_time() - begun

        return run

    over = Pass.over.__func__  # type: ignore[attr-defined]
    with (
        mock.patch.object(explainer, "fetch", clocked("read", explainer.fetch)),
        mock.patch.object(explainer, "decode", clocked("decode", explainer.decode)),
        mock.patch.object(Preprocess, "__call__", clocked("prepare", Preprocess.__call__)),
        mock.patch.object(Pass, "over", classmethod(clocked("forward", over))),
        mock.patch.object(Pass, "maps", clocked("map", Pass.maps)),
        mock.patch.object(Explainer, "_finish", clocked("measure and draw", Explainer._finish)),
        mock.patch.object(explainer, "write_atomically", clocked("write", explainer.write_atomically)),
    ):
        yield
    spent["measure and draw"] -= spent["write"]


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


def runs(file: Path, known: dict[str, Any]) -> list[dict[str, Any]]:
    """The whole study by one and by two workers of one CPU each, and what the costs of a picture predict."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    from camscope.study.cluster import Cluster
    from camscope.study.run import run
    from camscope.study.study import Study

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    found = []
    for number in (1, 2):
        nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(number):
            nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.CRITICAL)
        study = Study.read(file)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            rows = run(study, folder, cluster=Cluster(workers=number))
            first = time.perf_counter()
            next(rows)
            start = time.perf_counter() - begun
            count = 1 + sum(1 for _ in itertools.islice(rows, 10**9))
            whole = time.perf_counter() - begun
        ray.shutdown()
        nodes.shutdown()
        del first
        shards = -(-len(study.cohort) // 32)
        each = sum(known["seconds"].values())
        rest = (len(study.cohort) - 32 * number) * each / number
        found.append(
            {
                "workers": number,
                "cases": len(study.cohort),
                "rows": count,
                "shards": shards,
                "seconds_until_first_shard": round(start, 1),
                "seconds_after_it": round(whole - start, 1),
                "predicted_after_it": round(rest, 1),
                "load": round(os.getloadavg()[0], 2),
            }
        )
    return found


GPU = {
    # timm's published results: densenet121, 288 px, AMP, channels_last, RTX 3090, PyTorch 2.4.
    "pictures_a_second": 1797,
    "cpus_a_gpu": 8,
    "disk_MB_a_second": 500,
    "network_MB_a_second": 1250,
}


def archive(known: dict[str, Any], pictures: int = 10_000_000) -> list[dict[str, Any]]:
    """Hours of each resource for ten million pictures, with one model of five labels; the longest is the study's."""
    seconds, sizes = known["seconds"], known["bytes"]
    found = []
    for gpus, nodes in ((1, 1), (8, 1)):
        cpu = sum(seconds[step] for step in ON_CPUS) / (GPU["cpus_a_gpu"] * gpus)
        forward = 1 / GPU["pictures_a_second"] / gpus
        moved = (sizes["read"] + sizes["rows_a_picture"] + sizes["overlays_a_picture"]) / 1e6
        hours = {
            "GPU": forward * pictures / 3600,
            "CPUs": cpu * pictures / 3600,
            "disk": moved / GPU["disk_MB_a_second"] * pictures / 3600,
            "network": moved / GPU["network_MB_a_second"] / nodes * pictures / 3600,
        }
        found.append(
            {
                "gpus": gpus,
                "hours": {name: round(value, 1) for name, value in hours.items()},
                "first_saturated": max(hours, key=lambda name: hours[name]),
                "rows_GB": round(sizes["rows_a_picture"] * pictures / 1e9),
                "overlays_GB": round(sizes["overlays_a_picture"] * pictures / 1e9),
                "read_GB": round(sizes["read"] * pictures / 1e9),
            }
        )
    return found


if __name__ == "__main__":
    main()
