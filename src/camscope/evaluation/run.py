"""Evaluation of methods and baselines on annotated images, batch by batch; valid results of earlier runs are reused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from camscope.cohort.runner import case_bytes
from camscope.cohort.store import EVALUATION, Row, Store, as_written
from camscope.errors import CamscopeError, OutputError, PictureError
from camscope.evaluation.candidates import EvaluatedMethod, try_method
from camscope.evaluation.plan import EvaluationPlan, goal_of, sample_of
from camscope.evaluation.rows import SCHEMA_VERSION, schema
from camscope.evaluation.step import EvaluationStep
from camscope.explanation.batch import BatchExplainer
from camscope.explanation.result import versions
from camscope.images import fetch
from camscope.prefetch import batched
from camscope.progress import Progress


def evaluate(
    plan: EvaluationPlan,
    out: str | Path,
    *,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Evaluate methods on images, or resume an earlier run.

    Rows are written to ``out/rows/*.parquet``, one shard per batch and method. A shard is written as a whole or not at
    all. Results of an earlier run with the same image, model and settings are reused.

    Args:
        plan: model, data and settings of the evaluation.
        out: output folder.
        progress: called with the name of the current method, the number of rows done, and their total.
        say: called with each message for the user, such as that rows of a damaged file are computed again.

    Yields:
        Every row: by batch, then by method, then by image.

    Raises:
        StoreError: another process uses ``out``, or it cannot be written.
        PictureError: no image can be read.
        OutputError: the model returns no score per class.
    """
    store = Store(Path(out), record=EVALUATION)
    with store.locked():
        torch.manual_seed(plan.seed)
        last_record = store.read_record()
        if last_record.get("plan") == plan.fingerprint:
            with as_written(store.folder):
                contestants = [EvaluatedMethod(**facts) for facts in last_record["contestants"]]
        else:
            contestants = _try_methods(plan, progress)
        store.begin(plan.fingerprint)
        content = recorded(plan, contestants)
        store.record(content | {"finished": False})
        cached_rows = store.known()
        for text in cached_rows.damaged:
            say(f"{text}: its rows are computed again")
        step = EvaluationStep(plan, contestants, cached_rows)
        columns, total, row_count = schema(plan.metrics), len(plan.data.cases) * len(contestants), 0
        numbers = itertools.count()
        for batch in batched(plan.data.cases, plan.batch_size, weigh=case_bytes):
            for contestant, rows in step.rows(batch):
                progress(contestant.name, row_count, total)
                new_rows = list(rows())
                store.write(plan.fingerprint, next(numbers), rows=new_rows, columns=columns)
                row_count += len(new_rows)
                yield from new_rows
        progress("", row_count, total)
        store.finish()
        store.record(content | {"finished": True})


def recorded(plan: EvaluationPlan, contestants: Sequence[EvaluatedMethod]) -> dict[str, Any]:
    """Return the record of an evaluation that is written before its table."""
    model = plan.model
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": plan.fingerprint,
        "model": {
            "name": model.name,
            "spec": None if model.recipe is None else model.recipe.spec,
            "weights_sha256": model.digest,
            "preprocess": model.preprocess.to_dict(),
            "outcome": model.outcome,
            "layer": plan.layer or model.layer,
        },
        "data": {
            "path": plan.data.path,
            "pictures": len(plan.data.cases),
            "annotated": plan.data.annotated,
            "patients": plan.data.patients,
        },
        "metrics": list(plan.metrics),
        "contestants": [contestant.to_dict() for contestant in contestants],
        "run": {
            "device": str(next(model.net.parameters(), torch.empty(0)).device),
            "threads": torch.get_num_threads(),
            "batch_size": plan.batch_size,
            "engine": plan.engine,
            "seed": plan.seed,
            "few": plan.few,
            "most_passes": plan.most_passes,
            "settings": dict(plan.settings),
        },
        "versions": versions(),
    }


def _try_methods(plan: EvaluationPlan, progress: Progress) -> list[EvaluatedMethod]:
    """Try each method on the first image that can be read."""
    fault: CamscopeError | None = None
    for case in plan.data.cases:
        try:
            if case.problem:
                raise PictureError(case.problem)
            sample = sample_of(plan.model, case, fetch(case.source))
            goal = goal_of(plan.model, case, BatchExplainer.over(plan.model, [sample]).scores[0])
        except OutputError:
            raise
        except CamscopeError as error:
            fault = fault or error
            continue
        contestants = []
        for name in plan.methods:
            progress(f"{name}, once", 0, len(plan.methods) * len(plan.data.cases))
            contestants.append(
                try_method(
                    name,
                    model=plan.model,
                    sample=sample,
                    goal=goal,
                    layer=plan.layer,
                    settings=plan.settings,
                    most=plan.most_passes,
                )
            )
        return contestants
    raise PictureError(f"none of the {len(plan.data.cases)} images can be used; of the first: {fault}")
