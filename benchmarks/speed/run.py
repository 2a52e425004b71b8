"""All timings of camscope, as one JSON file and one table.

    python benchmarks/speed/run.py [--rounds 9] [--pictures FOLDER ...] [--only cnns vits ...]

writes results.json next to it and docs/speed.md. A part that is not run again keeps its figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import folder
import gradcam
import memory
import methods
import torch
from rounds import machine
from table import written

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs" / "speed.md"


def main() -> None:
    """Run the parts that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=Path, nargs="+", help="folders of photographs; without them none are timed")
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    number = given.rounds
    parts = {
        "cnns": lambda: gradcam.cnns(number),
        "vits": lambda: gradcam.vits(number),
        "classes": lambda: gradcam.many_classes(number),
        "methods": lambda: methods.quick(number),
        "ablationcam": lambda: methods.slow("Ablation-CAM"),
        "scorecam": lambda: methods.slow("Score-CAM"),
        "road": lambda: methods.road(3),
        "memory": memory.measured,
        "stream": lambda: folder.memory(20_000),
    }
    if given.pictures is not None:
        parts["folder"] = lambda: folder.folder(given.pictures, number=3)
    file = HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name, part in parts.items():
        if given.only and name not in given.only:
            continue
        print(name, flush=True)
        results[name] = {"machine": machine(), "rounds": number, "figures": part()}
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    DOCS.write_text(written(results), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
