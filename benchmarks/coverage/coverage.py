"""Is the layer found for every architecture? One network of each family, or all of timm, beside torch-cam.

    python benchmarks/coverage/coverage.py                          # all
    python benchmarks/coverage/coverage.py --only hf keras
    python benchmarks/coverage/coverage.py --all --largest-parameters 400

Rows are kept in coverage.json (with --all: timm.json) as they come, and what is there is not run again, except with
--again the misses; coverage.md is written from both at the end, or alone with --write.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dense_nets
import judge
import nets
import report
import torch

HERE = Path(__file__).parent
GROUPS = ["timm", "torchvision", "segmentation", "detection", "dense", "hf", "keras"]
PACKAGES = [
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "keras",
    "segmentation_models_pytorch",
    "ultralytics",
    "torchcam",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="these sources")
    parser.add_argument("--names", nargs="+", help="these architectures")
    parser.add_argument("--all", action="store_true", help="every architecture of timm, the smallest first")
    parser.add_argument("--largest-parameters", type=float, default=2000, help="leave larger networks out (millions)")
    parser.add_argument("--limit", type=int, default=600, help="seconds for one network")
    parser.add_argument("--again", action="store_true", help="run the misses again")
    parser.add_argument("--write", action="store_true", help="write the table of what was run, and nothing else")
    asked = parser.parse_args()
    if not asked.write:
        torch.set_num_threads(1)
        run(asked)
    report.write(HERE)


def run(asked: argparse.Namespace) -> None:
    """Try what was asked for and is not known yet."""
    kept = Results(HERE / ("timm.json" if asked.all else "coverage.json"))
    if "keras" in asked.only and not asked.all and os.environ.get("KERAS_BACKEND") != "torch":
        asked.only = [one for one in asked.only if one != "keras"]
        environment = os.environ | {"KERAS_BACKEND": "torch"}
        more = [*(["--again"] if asked.again else []), *(["--names", *asked.names] if asked.names else [])]
        subprocess.run([sys.executable, __file__, "--only", "keras", *more], env=environment, check=False)
        kept = Results(kept.path)
    for case in cases(asked, kept):
        key = f"{case.group}:{case.name}"
        known = kept.rows.get(key)
        if asked.names and case.name not in asked.names:
            continue
        if known and not (asked.again and not report.passed(known)) and not asked.names:
            continue
        kept.put(key, {"family": case.family, "error": "did not end: the process was stopped"})
        row = attempt(case, asked.limit)
        kept.put(key, {"family": case.family, **row})
        print(key, json.dumps(row), flush=True)
        gc.collect()


def cases(asked: argparse.Namespace, kept: Results) -> Any:
    """The networks of the sources asked for, the smallest of timm first."""
    largest = int(asked.largest_parameters * 1e6)
    if "timm" in asked.only:
        if kept.about.get("timm") != version("timm") or not kept.parameters:
            kept.parameters = nets.timm_parameters()
        yield from nets.timm_models(kept.parameters, whole=asked.all, largest=largest)
    if asked.all:
        return
    for group, module in (("torchvision", "models"), ("segmentation", "segmentation"), ("detection", "detection")):
        if group in asked.only:
            yield from nets.torchvision_models(module)
    if "dense" in asked.only:
        yield from dense_nets.dense_models()
    if "hf" in asked.only:
        yield from nets.hugging_face_models()
    if "keras" in asked.only:
        yield from nets.keras_models()


def attempt(case: nets.Case, limit: int) -> dict[str, Any]:
    """One network, within its time: what camscope chooses, what torch-cam chooses, and what the judge says."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done in {limit} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    start = time.perf_counter()
    row: dict[str, Any] = {}
    try:
        torch.manual_seed(0)
        net, x = case.make()
        row["parameters"] = sum(p.numel() for p in net.parameters())
        row["input"] = list(x.shape[1:])
        row |= judge.judge_camscope(net, x)
        row["torchcam"] = judge.judge_torchcam(net, x)
        if not row.get("verified"):
            row["others"] = [_verified(case, seed) for seed in range(1, 5)]
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    return {**row, "took": round(time.perf_counter() - start, 1)}


def _verified(case: nets.Case, seed: int) -> bool:
    """Whether the judge agrees with the choice for other random weights."""
    torch.manual_seed(seed)
    return bool(judge.judge_camscope(*case.make()).get("verified"))


class Results:
    """The rows so far, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        read = json.loads(path.read_text()) if path.is_file() else {}
        self.rows: dict[str, dict[str, Any]] = read.get("rows", {})
        self.parameters: dict[str, int] = read.get("parameters", {})
        self.about: dict[str, str] = read.get("about", {})

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Keep a row; the file is whole at any time."""
        self.rows[key] = row
        self.about = {"python": platform.python_version(), **{one: version(one) for one in PACKAGES}}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in self.rows.items())
        head = json.dumps({"about": self.about, "parameters": self.parameters})[:-1]
        part = self.path.with_suffix(".part")
        part.write_text(f'{head}, "rows": {{\n{lines}\n}}}}\n')
        part.replace(self.path)


if __name__ == "__main__":
    main()
