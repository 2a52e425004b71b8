"""The GPU script, on the CPU: what it writes, what cannot run, and what no time is left for."""

import importlib
import json
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [5, 0])
def test_the_script_writes_a_table_and_says_what_is_left(tmp_path, monkeypatch, minutes):
    monkeypatch.syspath_prepend(SPEED)
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu, "NETWORKS", {"timm:test_resnet": "layer4"})
    monkeypatch.setattr(gpu, "ROUNDS", 2)
    options = f"--device cpu --minutes {minutes} --batches 2 --images 4 --networks timm:test_resnet --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options.split()])
    gpu.main()
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert results["study"]["with overlays"] > 0
    if not minutes:
        assert len(results["left"]) == len(gpu.PRECISIONS)
        assert "No time was left for: timm:test_resnet float32 2, " in table
        return
    seconds = {case["precision"]: case["seconds"] for case in results["cases"]}
    assert set(seconds) == set(gpu.PRECISIONS)
    assert set(seconds["float32"]) == {"forward", "camscope", "pytorch-grad-cam", "torch-cam"}
    assert all(seconds["float32"][name] > 0 for name in seconds["float32"])
    assert "bfloat16" in seconds["bfloat16"]["pytorch-grad-cam"].lower()  # NumPy has none: the reason is in the table
    assert f"| timm:test_resnet | bfloat16 | 2 | {1000 * seconds['bfloat16']['forward']:.1f} |" in table
