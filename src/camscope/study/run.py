"""A study run from end to end, on this machine or on a Ray cluster: explained shard by shard, resumed by content."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camscope.cohort.open_table import patient_source
from camscope.cohort.store import FAILED, Known, Row, Store
from camscope.errors import DamagedError, StoreError, check_count
from camscope.explanation.result import versions
from camscope.files import read_parquet
from camscope.models.device import device_of, on_device
from camscope.models.engines import resolve
from camscope.study.cluster import Cluster, Workers, connected, explained_by
from camscope.study.rows import SCHEMA_VERSION, schema
from camscope.study.step import StudyStep
from camscope.study.study import Study, recorded_models

_SMALLEST_SHARD, _MOST_SHARDS = 32, 1024


@dataclass
class StudyProgress:
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
    cluster: Cluster | None = None,
    progress: Callable[[StudyProgress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Explain a cohort, or continue where an earlier run was stopped.

    Rows are written to ``out/rows/*.parquet`` in shards; a shard is there as a whole or not at all, and whatever an
    earlier run computed from the same image with the same model and settings is used again, wherever that was.

    Args:
        study: from ``Study.read``.
        out: folder of the results, or an address, such as ``s3://bucket/results``.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: pictures in one forward pass.
        engine: "eager", "packed", "openvino", or "auto": settled once by the number of cases, and kept in study.json.
        seed: of everything random.
        cluster: the Ray cluster that explains; None: this process.
        progress: called as labels are begun and cases are done.
        say: called with what the user must know, such as that rows of a damaged file are computed again.

    Yields:
        Every row: for each case each label, for each label each method. Cases come in the order of the table; from a
        cluster in that order within each shard, shards as they are done.

    Raises:
        StudyError: a model cannot be loaded or lacks a class.
        StoreError: another process is at work in ``out``, or it cannot be written.
        ClusterError: the cluster cannot be reached, or cannot load the models.
    """
    check_count("batch_size", batch_size)
    check_count("seed", seed, least=0)
    store = Store(out)
    with store.locked(), contextlib.nullcontext() if cluster is None else connected(cluster) as workers:
        device = _used(study, device, workers)
        settings: dict[str, Any] = {"device": device, "batch_size": batch_size, "seed": seed}
        settings["engine"] = resolve(engine, len(study.cohort), device=device.partition(":")[0])
        record = _record(study) | {"run": settings, "versions": versions()}
        store.begin(study.plan)
        store.record(record | {"finished": False})
        state = StudyProgress(total=len(study.cohort))

        def watch(label: str) -> None:
            state.label = label
            progress(state)

        size = max(_SMALLEST_SHARD, math.ceil(len(study.cohort) / _MOST_SHARDS))
        if workers is None:
            step = StudyStep(study, store, watch=watch, **settings)
            earlier_rows = _known(store, say)
            yield from _explained_here(step, size, earlier_rows, lambda rows: _counted(rows, study, state, progress))
        else:
            rows = explained_by(workers, study, store, size=size, watch=watch, **settings)
            yield from _counted(rows, study, state, progress)
        store.finish()
        store.record(record | {"finished": True})


def _record(study: Study) -> dict[str, Any]:
    """Return what is written down of a study, whatever runs it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": study.plan,
        "study": study.file.model_dump(mode="json", by_alias=True),
        "study_file": str(study.path.absolute()),
        "cases": len(study.cohort),
        "patients": patient_source(study.cohort),
        "models": recorded_models(study),
    }


def _known(store: Store, say: Callable[[str], None]) -> Known:
    """Return the rows of earlier runs; say which files are damaged."""
    earlier_rows = store.known()
    for text in earlier_rows.damaged:
        say(f"{text}: its rows are computed again")
    return earlier_rows


def _used(study: Study, device: str, workers: Workers | None) -> str:
    """Put the models on the device, unless workers do that; which one "auto" is."""
    if workers is not None:
        return workers.device if device == "auto" else device
    kinds = {device_of(on_device(model, device)) for model in study.models.values()}
    return kinds.pop() if device == "auto" else device


def _explained_here(
    step: StudyStep, size: int, earlier_rows: Known, counted: Callable[[Iterator[Row]], Iterator[Row]]
) -> Iterator[Row]:
    """Yield the rows of all cases, handed on when their shard is written."""
    study, store, columns = step.study, step.store, schema(step.study.file)
    rows = counted(step.rows(study.cohort.cases(), known=earlier_rows))
    numbers = itertools.count()
    while shard := list(itertools.islice(rows, size * _rows_of_a_case(study))):
        store.write(study.plan, next(numbers), rows=shard, columns=columns)
        yield from shard


def _rows_of_a_case(study: Study) -> int:
    return len(study.file.labels) * len(study.file.explain.methods)


def _counted(
    rows: Iterator[Row], study: Study, state: StudyProgress, progress: Callable[[StudyProgress], None]
) -> Iterator[Row]:
    """Yield the rows of all cases; says how far they are after each case."""
    while case := list(itertools.islice(rows, _rows_of_a_case(study))):
        state.done += 1
        state.failed += any(row["status"] == FAILED for row in case)
        progress(state)
        yield from case


def status(out: str | Path) -> dict[str, Any]:
    """Return how far a study has come: cases, rows by status, damaged files of rows, whether it is finished or runs.

    Raises:
        StoreError: there is no study, or its record is damaged.
    """
    store = Store(out)
    record = study_record(store)
    counts: Counter[str] = Counter()
    damaged = []
    for shard in store.shards(str(record.get("plan"))):
        try:
            counts.update(read_parquet(shard, columns=["status"])["status"].to_list())
        except (OSError, DamagedError):
            damaged.append(shard.name)
    return {
        "cases": record.get("cases", 0),
        "rows": dict(counts),
        "damaged": damaged,
        "finished": bool(record.get("finished")),
        "running": store.busy,
    }


def study_record(store: Store) -> dict[str, Any]:
    """Return what a study's folder says of it.

    Raises:
        StoreError: there is no study, or its record is damaged.
    """
    record = store.read_record()
    if not record:
        raise StoreError(f"there is no study in {store.folder}: name what was given as --out to `camscope study`")
    return record


def study_of(out: str | Path, file: Path | None = None) -> Study:
    """Return the study that was run into a folder.

    Args:
        out: the folder.
        file: its study file; None: the one that it was run with.

    Raises:
        StoreError: the folder holds no study, or its study file is gone.
    """
    if file is None:
        file = Path(str(study_record(Store(out)).get("study_file")))
        if not file.is_file():
            raise StoreError(f"the study file {file} is gone: name it with --study")
    return Study.read(file)
