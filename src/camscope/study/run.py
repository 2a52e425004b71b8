"""A study run on this machine: explained shard by shard, resumed by content."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from camscope.explanation.result import versions
from camscope.models.engines import resolve
from camscope.store import FAILED, Row, Store, StoreError
from camscope.study.explainer import Explainer
from camscope.study.rows import SCHEMA_VERSION, schema
from camscope.study.study import Study, recorded_models

_SMALLEST_SHARD, _MOST_SHARDS = 32, 1024


@dataclass
class Progress:
    """How far a study has come.

    Attributes:
        done: cases whose rows are made.
        failed: of these, the ones with a row that failed.
        total: cases in all.
        label: what is being explained.
    """

    done: int = 0
    failed: int = 0
    total: int = 0
    label: str = ""


def run(
    study: Study,
    out: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 16,
    engine: str = "auto",
    seed: int = 0,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Iterator[Row]:
    """Explain a cohort, or continue where an earlier run was stopped.

    Rows are written to ``out/rows/*.parquet`` in shards; a shard is there as a whole or not at all, and whatever an
    earlier run computed from the same image with the same model and settings is used again.

    Args:
        study: from ``Study.read``.
        out: folder of the results.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: pictures in one forward pass.
        engine: "eager", "packed", "openvino", or "auto" by the number of cases (see `camscope.models.engines`); it is
            settled once and stands in study.json.
        seed: of everything random.
        progress: called as labels are begun and cases are done.

    Yields:
        Every row, in the order of the table; for each case each label, for each label each method.

    Raises:
        StudyError: a model cannot be loaded or lacks a class.
        StoreError: another process is at work in ``out``, or it cannot be written.
    """
    store = Store(Path(out))
    with store.locked():
        columns = schema(study.file)
        device = _resolved(device, store.read_record())
        engine = resolve(engine, len(study.cohort), device=device.partition(":")[0])
        record = {
            "schema_version": SCHEMA_VERSION,
            "plan": study.plan,
            "study": study.file.model_dump(mode="json", by_alias=True),
            "study_file": str(study.path.absolute()),
            "cases": len(study.cohort),
            "models": recorded_models(study),
            "run": {"engine": engine, "device": device, "batch_size": batch_size, "seed": seed},
            "versions": versions(),
        }
        known = store.begin(study.plan)
        store.record(record | {"finished": False})
        state = Progress(total=len(study.cohort))

        def watch(label: str) -> None:
            state.label = label
            progress(state)

        given: dict[str, Any] = {"device": device, "batch_size": batch_size, "engine": engine, "seed": seed}
        explainer = Explainer(study, store, known=known, watch=watch, **given)
        rows = _counted(explainer, study, state, progress)
        size = max(_SMALLEST_SHARD, math.ceil(len(study.cohort) / _MOST_SHARDS)) * _rows_of_a_case(study)
        number = 0
        while shard := list(itertools.islice(rows, size)):
            store.write(study.plan, number, rows=shard, columns=columns)
            number += 1
            yield from shard
        store.finish()
        store.record(record | {"finished": True})


def _resolved(device: str, record: Mapping[str, Any]) -> str:
    """The device; "auto" stays with that of the record where it is there, so that all rows come from one engine."""
    if device != "auto":
        return device
    there = "cuda" if torch.cuda.is_available() else "cpu"
    before = str(record.get("run", {}).get("device", there))
    return before if before == "cpu" else there


def _rows_of_a_case(study: Study) -> int:
    return len(study.file.labels) * len(study.file.explain.methods)


def _counted(
    explainer: Explainer, study: Study, state: Progress, progress: Callable[[Progress], None]
) -> Iterator[Row]:
    """The rows of all cases; says how far they are after each case."""
    rows = explainer.rows(study.cohort.cases())
    while case := list(itertools.islice(rows, _rows_of_a_case(study))):
        state.done += 1
        state.failed += any(row["status"] == FAILED for row in case)
        progress(state)
        yield from case


def status(out: str | Path) -> dict[str, Any]:
    """How far the study in a folder has come: cases in all, rows by status, whether it is finished or running.

    Raises:
        StoreError: there is no study, or its record is damaged.
    """
    store = Store(Path(out))
    record = store.read_record()
    if not record:
        raise StoreError(f"there is no study in {out}: name the folder that was given as --out")
    counts: dict[str, int] = {}
    if shards := [path for path in store.shards() if path.name.startswith(f"{record.get('plan')}-")]:
        counts = dict(pl.scan_parquet(shards).group_by("status").len().collect().rows())
    return {
        "cases": record.get("cases", 0),
        "rows": counts,
        "finished": bool(record.get("finished")),
        "running": store.busy,
    }
