"""Peak memory and time of the audit and the report of a large study, each in a process of its own.

    python benchmarks/scale/memory.py                # 500,000 cases of two labels: 1,000,000 rows
    python benchmarks/scale/memory.py --cases 25000

writes memory.json next to it. The rows are made up in the study's own schema, every one with a map; the images are
few and real files that many rows share. The label goes with a token on the image, so that the audit has work to do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

HERE = Path(__file__).parent
PICTURES, SIDE, CELLS = 64, 64, 8
STUDY = """\
[cohort]
table = "cohort.csv"
patient = "patient_id"
group = "view"
strata = ["sex"]
[cohort.cues.token]
column = "token"
mask = "token_box"
[labels.A]
column = "a"
mask = "box"
model = "model"
[labels.B]
column = "b"
model = "model"
class = 0
[explain]
when = "all"
[audit]
disease = ["mask:label"]
shortcuts = ["border:0.10", "cue:token"]
"""


def write_table(folder: Path, cases: int) -> Path:
    """A model, a few images, a table of two images a patient, and the study file, which is returned."""
    sys.path.insert(0, str(HERE.parent / "phantom_models"))
    from train_phantom_models import new_model

    new_model("A").save(folder / "model")
    draw = np.random.default_rng(0)
    (folder / "images").mkdir()
    for n in range(PICTURES):
        pixels = draw.integers(40, 160, (SIDE, SIDE), np.uint8)
        if n % 2:
            pixels[2:10, 2:14] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
    number = np.arange(cases)
    picture = (7 * number + number // PICTURES) % PICTURES
    token = picture % 2 == 1
    truth = {name: draw.random(cases) < np.where(token, 0.2, 0.1) for name in "ab"}
    table = {
        "path": [f"images/{n}.png" for n in picture],
        "patient_id": [f"P{n:07}" for n in number // 2],
        "view": np.where(number % 2, "PA", "AP"),
        "sex": np.where(number // 2 % 2, "F", "M"),
        **{name: there.astype(int) for name, there in truth.items()},
        "token": token.astype(int),
        "token_box": np.where(token, "2,2,12,8", ""),
        "box": np.where(truth["a"], "20,20,24,24", ""),
    }
    pl.DataFrame(table).write_csv(folder / "cohort.csv")
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


def write_rows(file: Path, out: Path) -> int:
    """The rows that a finished study of this file would have, in as many shards; returns how many rows."""
    from camscope.cohort.store import ROWS, Store
    from camscope.explanation.result import versions
    from camscope.files import write_parquet
    from camscope.study.rows import SCHEMA_VERSION, schema
    from camscope.study.study import Study, recorded_models

    study, store = Study.read(file), Store(out)
    (out / ROWS).mkdir(parents=True)
    table, columns = pl.read_csv(file.parent / "cohort.csv").with_row_index("case"), schema(study.file)
    digests = {
        f"images/{n}.png": hashlib.sha256((file.parent / "images" / f"{n}.png").read_bytes()).hexdigest()
        for n in range(PICTURES)
    }
    for number, part in enumerate(table.iter_slices(max(32, math.ceil(len(table) / 1024)))):
        both = [_rows(part, label, digests, seed=number) for label in study.file.labels]
        rows = pl.concat(both).sort("case", maintain_order=True).select(pl.col(n).cast(t) for n, t in columns.items())
        write_parquet(store.shard(study.plan, number), rows)
    record = {
        "schema_version": SCHEMA_VERSION,
        "plan": study.plan,
        "study": study.file.model_dump(mode="json", by_alias=True),
        "study_file": str(file.absolute()),
        "cases": len(table),
        "models": recorded_models(study),
        "run": {"device": "cpu", "batch_size": 16, "seed": 0, "engine": "eager"},
        "versions": versions(),
    }
    store.record(record | {"finished": True})
    return 2 * len(table)


def _rows(part: pl.DataFrame, label: str, digests: dict[str, str], *, seed: int) -> pl.DataFrame:
    """Rows of one label: the score knows the truth and the token, one in 200 failed."""
    n, draw = len(part), np.random.default_rng([seed, ord(label)])
    truth, token = (part[name].to_numpy() > 0 for name in (label.lower(), "token"))
    failed = draw.random(n) < 0.005
    patient = np.repeat(draw.normal(size=n), 2)[:n]
    score = -1 + 1.2 * truth + 0.5 * token + 0.7 * patient + draw.normal(size=n)
    grids = draw.normal(size=(n, CELLS * CELLS)).astype(np.float32)
    grids[:, :9] += (2 * token)[:, None]
    heat = np.maximum(grids, 0)
    outcome = np.where(truth, np.where(score > 0, "TP", "FN"), np.where(score > 0, "FP", "TN"))
    values: dict[str, Any] = {
        "line": part["case"] + 2,
        "image": part["path"],
        "patient": part["patient_id"],
        "group": part["view"],
        "label": [label] * n,
        "method": ["gradcam"] * n,
        "truth": truth,
        "stratum:sex": part["sex"],
        "cue:token": token,
        "model": ["model"] * n,
        "class": ["A"] * n,
        "score": score,
        "probability": 1 / (1 + np.exp(-score)),
        "log_odds": score,
        "prediction": score > 0,
        "outcome": outcome,
        "computed": ["2026-01-01T00:00:00"] * n,
        "layer": ["stages.3"] * n,
        "grid": pl.Series(grids).arr.to_list(),
        "grid_height": [CELLS] * n,
        "grid_width": [CELLS] * n,
        "window": [[0.0, 0.0, float(SIDE), float(SIDE)]] * n,
        "map_min": grids.min(1),
        "map_max": grids.max(1),
        "map_sum": grids.sum(1),
        "positive_share": (grids > 0).mean(1),
        "peak_row": draw.random(n) * SIDE,
        "peak_column": draw.random(n) * SIDE,
        "file": [f"{g}/{p}/{label}-{seed}.jpg" for g, p in zip(part["view"], part["patient_id"], strict=True)],
        "image_sha256": [digests[path] for path in part["path"]],
    }
    mass = heat[:, :9].sum(1) / heat.sum(1)
    values |= _regions(mass, {"mask:label": truth & (label == "A"), "border:0.10": truth | True, "cue:token": token})
    rows = part.select("case").with_columns(**{k: pl.Series(v) for k, v in values.items()})
    keys = [hashlib.blake2b(f"{label}{case}".encode(), digest_size=16).hexdigest() for case in part["case"]]
    rows = rows.with_columns(pl.Series("key", keys), pl.Series("display_key", keys), pl.Series("region_key", keys))
    rows = rows.with_columns(
        pl.lit(SIDE).alias("height"),
        pl.lit(SIDE).alias("width"),
        pl.lit([], dtype=pl.List(pl.String)).alias("notes"),
        pl.when(pl.Series(failed)).then(pl.lit("failed")).otherwise(pl.lit("ok")).alias("status"),
        pl.when(pl.Series(failed)).then(pl.lit("made up: the mask cannot be read")).alias("message"),
    )
    maps = "^(outcome|layer|grid.*|window|score|probability|log_odds|prediction|mass:.*|area:.*|enrichment:.*|peak:.*)$"
    return rows.with_columns(pl.when(~pl.Series(failed)).then(pl.col(maps)).name.keep())


def _regions(mass: np.ndarray, there: dict[str, np.ndarray]) -> dict[str, pl.Series]:
    """The columns of each region, where it is there."""
    values = {}
    for (region, shown), area in zip(there.items(), (0.14, 0.36, 0.02), strict=True):
        numbers = {"mass": mass, "area": np.full(len(mass), area), "enrichment": mass / area, "peak": mass > 0.5}
        for name, column in numbers.items():
            values[f"{name}:{region}"] = pl.select(pl.when(pl.Series(shown)).then(pl.Series(column))).to_series()
    return values


MEASURED = """\
import sys
from camscope.cli import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        print(*(line for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def measured(command: str, out: Path) -> dict[str, float]:
    """Run one command of camscope on a folder; its peak resident memory and its time.

    The command tells its own peak, since ``ru_maxrss`` of a new process begins with the memory of its parent.
    """
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-c", MEASURED, command, str(out)]
    ended = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"camscope {command} ended with {ended.returncode}: {ended.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(re.findall(r"VmHWM:\s+(\d+)", ended.stderr)[-1])
    return {"peak_mb": peak // 1024, "seconds": round(time.perf_counter() - start), "cpu_seconds": round(cpu)}


def main(cases: int, folder: Path) -> None:
    file = write_table(folder, cases)
    rows = write_rows(file, folder / "out")
    shards = list((folder / "out" / "rows").iterdir())
    size = sum(path.stat().st_size for path in shards)
    found: dict[str, Any] = {"rows": rows, "cases": cases, "shards": len(shards), "rows_mb": round(size / 2**20)}
    print(json.dumps(found), flush=True)
    for command in ("audit", "report"):
        found[command] = measured(command, folder / "out")
        print(command, found[command], flush=True)
    found["page_mb"] = round((folder / "out" / "report.html").stat().st_size / 2**20, 1)
    found["machine"] = {"cpu": platform.processor() or platform.machine(), "threads": os.environ.get("OMP_NUM_THREADS")}
    (HERE / "memory.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=500_000)
    parser.add_argument("--folder", type=Path, help="keep the study here")
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True)
        main(given.cases, given.folder)
    else:
        with tempfile.TemporaryDirectory() as made:
            main(given.cases, Path(made))
