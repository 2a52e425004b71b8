"""The step of a scan: score, map and measurements of a batch of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor

from camscope.cohort.case import Case
from camscope.cohort.runner import Task, Work, attempt, read_cases
from camscope.cohort.store import FAILED, OK, Known, Row, key_of
from camscope.errors import CamscopeError
from camscope.evaluation.plan import goal_of
from camscope.evaluation.step import thumbnail
from camscope.explanation.batch import BatchExplainer, Sample
from camscope.explanation.method_lookup import find_method
from camscope.images import decode
from camscope.images.source import split
from camscope.models.model import Model
from camscope.naming import method_spelling
from camscope.scan.features import IMAGE, MAP, image_values, map_values

SCHEMA: dict[str, Any] = (
    {
        "case": pl.Int64,
        "image": pl.String,
        "status": pl.String,
        "message": pl.String,
        "class": pl.String,
        "predicted": pl.Boolean,
        "score": pl.Float64,
        "probability": pl.Float64,
        "margin": pl.Float64,
    }
    | IMAGE
    | MAP
    | {"overlay": pl.Binary, "image_sha256": pl.String, "key": pl.String}
)

_THRESHOLD = 0.5


@dataclass
class _ScanTask(Task):
    """The row of an image; ``image`` has the measurements of the image, ``values`` what the model adds."""

    image: Row | None = None
    values: Row | None = None


class ScanStep:
    """Compute the rows of batches of images.

    Args:
        model: the model, on its device.
        method: name of the method.
        known: rows of earlier runs.
        made_with: everything that a row depends on, except the image.
    """

    def __init__(self, model: Model, method: str, known: Known, made_with: tuple[Any, ...]) -> None:
        self.model, self.known, self.made_with = model, known, made_with
        self._name, self._function = method_spelling(method), find_method(method)
        self._layer: str | None = None

    def rows(self, batch: Sequence[Case]) -> Iterator[Row]:
        """Yield the rows of a batch of images."""
        works = list(read_cases(self, batch, ahead=len(batch)))
        lacking = [work for work in works if work.samples and not work.failed]
        for rows, members in attempt(self._explained, lacking, fail=lambda work, error: work.fail(error)):
            for work, values in zip(members, rows, strict=True):
                work.tasks[0].values = values
        for work in works:
            task = work.tasks[0]
            row: Row = {
                "case": work.case.number,
                "image": work.case.image,
                "image_sha256": work.sha256,
                "key": task.key or None,
            }
            if task.cached is not None:
                yield task.cached | row | {"status": OK, "message": None}
            elif task.fault or task.values is None:
                yield (task.image or {}) | row | {"status": FAILED, "message": task.fault}
            else:
                yield (task.image or {}) | task.values | row | {"status": OK, "message": None}

    def begin(self, case: Case) -> Work[_ScanTask]:
        """Return the row of an image, before its file is read."""
        return Work(case, [_ScanTask("")])

    def reuse(self, work: Work[_ScanTask]) -> bool:
        """Look up the row of an image from earlier runs."""
        task = work.tasks[0]
        task.key = key_of(work.sha256, split(work.case.source)[1], self.made_with)
        task.cached = self.known.get(task.key, image=work.case.image)
        return task.cached is None

    def prepare(self, work: Work[_ScanTask], content: bytes) -> None:
        """Decode and measure the image; what is odd about it does not depend on the model."""
        picture = decode(content, work.case.source)
        work.tasks[0].image = image_values(picture)
        work.samples[self.model.name] = Sample.of(self.model, picture, source=work.case.source)

    def _explained(self, works: Sequence[Work[_ScanTask]]) -> list[Row]:
        """Return the values of some images from one forward pass: the predicted class, its map, and measurements."""
        samples = [work.samples[self.model.name] for work in works]
        run = BatchExplainer.over(self.model, samples, functions=[self._function], layer=self._layer)
        self._layer = self._layer or (run.recorded.layer if run.recorded else None)
        outputs = run.scores.cpu()
        if not outputs.isfinite().all():
            raise CamscopeError("the model returns values that are not finite on this image")
        goals = [goal_of(self.model, work.case, output) for work, output in zip(works, outputs, strict=True)]
        maps = run.maps(self._name, self._function, goals=dict(enumerate(goals)), settings={})
        scores, probabilities = run.model.class_scores(outputs), run.model.probability(outputs)
        rows = []
        for k, (sample, goal, grid) in enumerate(zip(samples, goals, maps.raw.cpu(), strict=True)):
            index, several = goal.index or 0, outputs.shape[1] > 1
            p = None if probabilities is None else float(probabilities[k, index])
            score = {
                "class": goal.label,
                "predicted": None if p is None else (run.model.outcome == "one" and several) or p >= _THRESHOLD,
                "score": float(scores[k, index]),
                "probability": p,
                "margin": _margin(outputs[k], None if probabilities is None else probabilities[k]),
                "overlay": thumbnail(sample, grid),
            }
            rows.append(score | map_values(grid.numpy(), sample.window))
        return rows


def _margin(output: Tensor, probability: Tensor | None) -> float | None:
    """Return how far the prediction is from another one, in log-odds; None for a model without probabilities.

    For several classes of which one is right, the highest score minus the second; else the log-odds nearest to 0.

    >>> _margin(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([0.11, 0.84, 0.05]))
    2.0
    """
    if probability is None:
        return None
    if len(output) > 1 and math.isclose(float(probability.sum()), 1, abs_tol=1e-4):
        first, second = output.topk(2).values.tolist()
        return float(first - second)
    return float(torch.logit(probability.double(), eps=1e-12).abs().min())
