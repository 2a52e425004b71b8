"""Run a study on this machine or on a Ray cluster, shard by shard; valid results of earlier runs are reused."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camscope.arguments import checked
from camscope.cohort.open_table import patient_source
from camscope.cohort.store import FAILED, Known, Row, Store
from camscope.errors import DamagedError, StoreError, check_count
from camscope.explanation.result import versions
from camscope.files import read_parquet
from camscope.models.device import device_of, on_device
from camscope.models.engines import resolve, resolve_precision
from camscope.study.cluster import Cluster, Workers, connected, explained_by
from camscope.study.rows import SCHEMA_VERSION, schema
from camscope.study.step import StudyStep
from camscope.study.study import Study, recorded_models

_SMALLEST_SHARD, _MOST_SHARDS = 32, 1024


@dataclass
class StudyProgress:
    """The progress of a study.

    Attributes:
        done: number of cases done.
        failed: number of these cases with a failed row.
        total: number of cases.
        label: the label that is being explained.
    """

    done: int = 0
    failed: int = 0
    total: int = 0
    label: str = ""


@checked
def run(
    study: Study,
    out: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 16,
    engine: str = "auto",
    precision: str = "float32",
    seed: int = 0,
    cluster: Cluster | None = None,
    progress: Callable[[StudyProgress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Explain a cohort, or resume an earlier run.

    Rows are written to ``out/rows/*.parquet`` in shards, each shard completely or not at all. Results of earlier runs
    are reused if image, model and settings are the same, even if the table or the order of the cases changed.

    Args:
        study: a study from ``Study.read``.
        out: folder of the results, or an address such as ``s3://bucket/results``.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: images per forward pass.
        engine: "eager", "openvino" or "auto", which is chosen once by the number of cases and kept in study.json.
        precision: of the part of a network before the layer: "float32", "bfloat16", "float16", or "auto" for bfloat16
            if the device computes it. Rows of another precision are computed again.
        seed: random seed.
        cluster: the Ray cluster that explains the study; None for this process.
        progress: called when a label is begun and when a case is done.
        say: called with messages to the user, such as that rows of a damaged file are computed again.

    Yields:
        Every row, by case, label and method. Cases are in the order of the table. From a cluster, shards arrive in the
        order in which they are done.

    Raises:
        StudyError: a model cannot be loaded or lacks a class.
        StoreError: another process writes to ``out``, or the folder cannot be written.
        ClusterError: the cluster cannot be reached, or cannot load the models.
    """
    check_count("batch_size", batch_size)
    check_count("seed", seed, least=0)
    store = Store(out)
    with store.locked(), contextlib.nullcontext() if cluster is None else connected(cluster) as workers:
        device = _used(study, device, workers)
        settings: dict[str, Any] = {"device": device, "batch_size": batch_size, "seed": seed}
        settings["precision"] = resolve_precision(precision, device=device.partition(":")[0])
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
    """Return the record of a study, without device and engine."""
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
    """Return the rows of earlier runs; report damaged files."""
    earlier_rows = store.known()
    for text in earlier_rows.damaged:
        say(f"{text}: its rows are computed again")
    return earlier_rows


def _used(study: Study, device: str, workers: Workers | None) -> str:
    """Put the models on the device, unless workers do that; return the device that "auto" stands for."""
    if workers is not None:
        return workers.device if device == "auto" else device
    kinds = {device_of(on_device(model, device)) for model in study.models.values()}
    return kinds.pop() if device == "auto" else device


def _explained_here(
    step: StudyStep, size: int, earlier_rows: Known, counted: Callable[[Iterator[Row]], Iterator[Row]]
) -> Iterator[Row]:
    """Yield the rows of all cases, after their shard is written."""
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
    """Yield the rows of all cases; report the progress after each case."""
    while case := list(itertools.islice(rows, _rows_of_a_case(study))):
        state.done += 1
        state.failed += any(row["status"] == FAILED for row in case)
        progress(state)
        yield from case


def status(out: str | Path) -> dict[str, Any]:
    """Return the status of a study: cases, rows by status, damaged files of rows, whether it is finished or running.

    Raises:
        StoreError: the folder has no study, or its record is damaged.
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
    """Return the record of a study from its folder.

    Raises:
        StoreError: the folder has no study, or its record is damaged.
    """
    record = store.read_record()
    if not record:
        raise StoreError(f"there is no study in {store.folder}: name what was given as --out to `camscope study`")
    return record


def study_of(out: str | Path, file: Path | None = None) -> Study:
    """Return the study whose results are in a folder.

    Args:
        out: the folder.
        file: the study file; None for the file that the study was run with.

    Raises:
        StoreError: the folder has no study, or its study file does not exist.
    """
    if file is None:
        file = Path(str(study_record(Store(out)).get("study_file")))
        if not file.is_file():
            raise StoreError(f"the study file {file} is gone: name it with --study")
    return Study.read(file)
