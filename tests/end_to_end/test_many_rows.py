"""The audit and the report of 50,000 rows, each in a process of its own, as benchmarks/scale/memory.py has them."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale" / "memory.py"
CASES, DRAWN, ROOM = 25_000, 300, 2000  # MB; PyTorch alone takes about 750


@pytest.mark.slow
def test_fifty_thousand_rows_fit_into_little_memory(tmp_path):
    spec = importlib.util.spec_from_file_location("memory", SCRIPT)
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    file, out = memory.write_table(tmp_path, CASES), tmp_path / "out"
    file.write_text(file.read_text() + f"cases = {DRAWN}\nreplicates = 199\n")
    assert memory.write_rows(file, out) == 2 * CASES
    assert memory.measured("audit", out)["peak_mb"] < ROOM
    assert memory.measured("report", out)["peak_mb"] < ROOM
    for one in json.loads((out / "audit.json").read_text())["labels"].values():
        assert one["drawn"] == DRAWN
        assert one["cases"] > 0.99 * CASES
        assert one["regions"]["cue:token"]["heat"]["cases"] > 1000
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "2,000 of 25,000 cases are shown" in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert len(data["cases"]["number"]) == 2000
    assert len(data["rows"]["case"]) == 4000
    assert len(list((out / "report_files").glob("*.jpg"))) <= memory.PICTURES
