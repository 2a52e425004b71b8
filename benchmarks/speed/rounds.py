"""Interleaved timing: see ../README.md for the contract."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

WARM_UP = 2
PAUSE = 0.1
"""Seconds between two contenders: threads that wait for work in a loop (OpenBLAS, OpenMP) fall asleep."""


def rounds(
    contenders: Mapping[str, Callable[[], Any]], *, base: str, number: int, warm_up: int = WARM_UP
) -> dict[str, dict[str, float]]:
    """Time contenders in rounds; of each its median seconds and its ratio to ``base`` with quartiles."""
    order = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    draw = random.Random(0)
    for turn in range(warm_up + number):
        draw.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            start = time.perf_counter()
            contenders[name]()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: _summary(taken, seconds[base]) for name, taken in seconds.items()}


def _summary(taken: list[float], base: list[float]) -> dict[str, float]:
    ratios = [own / other for own, other in zip(taken, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"seconds": statistics.median(taken), "ratio": middle, "low": low, "high": high}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    names = ("torch", "torchvision", "timm", "grad-cam", "torchcam", "openvino", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
