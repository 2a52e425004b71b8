"""The step of an evaluation: the maps of its methods on a batch of images, and their metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camscope import render
from camscope.array_types import Mask
from camscope.cohort.case import Case
from camscope.cohort.runner import Task, Work, attempt, note, read_cases
from camscope.cohort.store import FAILED, NOT_ASKED, OK, Known, Row, key_of
from camscope.errors import CamscopeError
from camscope.evaluation.baselines import AVERAGE, AverageMasks, baseline_maps
from camscope.evaluation.candidates import EvaluatedMethod, TimedMaps, drawn_again, timed_maps
from camscope.evaluation.compute_metrics import Draw, MapBatch, judged
from camscope.evaluation.plan import EvaluationPlan, goal_of, sample_of
from camscope.explanation.batch import BatchExplainer, ResolvedTarget, Sample
from camscope.heatmap import place
from camscope.images import Picture
from camscope.images.source import split
from camscope.models.model import Model

_THUMBNAIL, _QUALITY = 160, 80


@dataclass
class _MethodTask(Task):
    """The row of one method; ``values`` holds what was computed."""

    contestant: EvaluatedMethod = field(kw_only=True)
    values: Row | None = None


@dataclass
class _ImageWork(Work[_MethodTask]):
    """An image of an evaluation, its annotation and its target."""

    mask: Mask | None = None
    goal: ResolvedTarget | None = None


@dataclass(frozen=True)
class _Pass:
    """A forward pass over some images, and the seconds per image that it took."""

    run: BatchExplainer
    seconds: float


class EvaluationStep:
    """Make the rows of batches of images.

    Args:
        plan: model, data and settings of the evaluation.
        contestants: its methods and baselines.
        known: rows of earlier runs.
    """

    def __init__(self, plan: EvaluationPlan, contestants: Sequence[EvaluatedMethod], known: Known) -> None:
        self.plan, self.contestants, self.known = plan, contestants, known
        self.average = AverageMasks(plan.data.cases)
        self._averaged = self.average.fingerprint
        self._few = plan.chosen_few
        self._made_with = plan.made_with
        self._layer = plan.layer

    def rows(self, batch: Sequence[Case]) -> Iterator[tuple[EvaluatedMethod, Callable[[], Iterator[Row]]]]:
        """Yield each method, with a function that computes its rows of a batch.

        The images are read before the clock of the methods starts, since reading would slow them down.
        """
        works = list(read_cases(self, batch, ahead=len(batch)))
        passes = self._passes([work for work in works if work.samples and not work.failed])
        for number, contestant in enumerate(self.contestants):
            yield contestant, partial(self._rows, number, works, passes)

    def _rows(
        self, number: int, works: Sequence[_ImageWork], passes: Sequence[tuple[_Pass, Sequence[_ImageWork]]]
    ) -> Iterator[Row]:
        """Yield the rows of one method."""
        contestant = self.contestants[number]
        for batch_pass, members in passes:
            tasks = [(work, work.tasks[number]) for work in members]
            lacking = [work for work, task in tasks if task.wanted and task.cached is None and not task.fault]
            for rows, measured in attempt(
                partial(self._measure, contestant, batch_pass),
                lacking,
                fail=lambda work, error: note([work.tasks[number]], error),
            ):
                for work, values in zip(measured, rows, strict=True):
                    work.tasks[number].values = values
        for work in works:
            yield self._row(work, work.tasks[number])

    def begin(self, case: Case) -> _ImageWork:
        """Return the rows of an image, before its file is read."""
        return _ImageWork(
            case,
            [
                _MethodTask(contestant.name, wanted=self._is_wanted(contestant, case), contestant=contestant)
                for contestant in self.contestants
            ],
        )

    def reuse(self, work: _ImageWork) -> bool:
        """Look up the rows of an image from earlier runs."""
        case = work.case
        annotations = [case.mask_content(name) for name in case.masks]
        tasks = [task for task in work.tasks if task.wanted]
        for task in tasks:
            task.key = self._key(task.contestant, work, annotations)
            task.cached = self.known.get(task.key, image=case.image)
        return any(task.cached is None for task in tasks)

    def prepare(self, work: _ImageWork, content: bytes) -> None:
        """Decode the image, and read its annotation."""
        sample = sample_of(self.plan.model, work.case, content)
        work.mask = work.case.annotation(sample.picture.size)
        work.samples[self.plan.model.name] = sample

    def _is_wanted(self, contestant: EvaluatedMethod, case: Case) -> bool:
        if contestant.refused or (contestant.name == AVERAGE and self.average.without(case.patient) is None):
            return False
        return not contestant.restricted or case.number in self._few

    def _key(self, contestant: EvaluatedMethod, work: _ImageWork, annotations: Sequence[str]) -> str:
        case = work.case
        extra = self._averaged + case.patient if contestant.name == AVERAGE else ""
        role = self._repeated(contestant, case.number)
        made_with = (contestant.name, dict(contestant.settings), self._made_with, extra, role)
        return key_of(work.sha256, split(case.source)[1], annotations, case.target, made_with)

    def _repeated(self, contestant: EvaluatedMethod, number: int) -> bool:
        """Return whether an image is one of the few for which a method's maps are computed again."""
        return number in self._few[: contestant.repeats(self.plan.few)]

    def _passes(self, works: Sequence[_ImageWork]) -> list[tuple[_Pass, Sequence[_ImageWork]]]:
        """Run one forward pass over the images with missing rows; where an image fails, over the others again."""
        passes = list(attempt(self._pass, works, fail=lambda work, error: work.fail(error)))
        if len(passes) > 1:
            sound = [work for _, members in passes for work in members]
            passes = list(attempt(self._pass, sound, fail=lambda work, error: work.fail(error)))
        return passes

    def _pass(self, works: Sequence[_ImageWork]) -> _Pass:
        """Run one forward pass, and settle what is explained in each image."""
        functions = [
            contestant.function for contestant in self.contestants if not contestant.baseline and not contestant.refused
        ]
        samples = [work.samples[self.plan.model.name] for work in works]
        start = time.perf_counter()
        run = BatchExplainer.over(self.plan.model, samples, functions=functions, layer=self._layer)
        self._layer = self._layer or (run.recorded.layer if run.recorded else None)
        for work, output in zip(works, run.scores.cpu(), strict=True):
            try:
                work.goal = goal_of(self.plan.model, work.case, output)
                if not output.isfinite().all():
                    raise CamscopeError("the model returns values that are not finite on this image")
            except CamscopeError as error:
                work.fail(error)
        return _Pass(run, (time.perf_counter() - start) / len(works))

    def _measure(self, contestant: EvaluatedMethod, batch_pass: _Pass, works: Sequence[_ImageWork]) -> list[Row]:
        """Return the columns of a method's rows beyond those of the image."""
        run = batch_pass.run
        samples = [work.samples[self.plan.model.name] for work in works]
        places = [next(i for i, s in enumerate(run.samples) if s is sample) for sample in samples]
        goals = {i: work.goal for i, work in zip(places, works, strict=True) if work.goal is not None}
        result = self._maps(contestant, run, goals, cases=[work.case for work in works], shared=batch_pass.seconds)
        subject = MapBatch(
            run.model,
            samples,
            list(goals.values()),
            run.scores[places],
            result.maps.float(),
            [work.mask for work in works],
            self._draw(contestant, result.maps.float(), samples),
            [k for k, work in enumerate(works) if self._repeated(contestant, work.case.number)],
            self._layer,
            self.plan.engine,
        )
        columns = judged(subject, self.plan.metrics, batch_size=self.plan.batch_size, seed=self.plan.seed)
        scores, probabilities = run.model.class_scores(run.scores), run.model.probability(run.scores)
        rows = []
        for k, (i, work) in enumerate(zip(places, works, strict=True)):
            goal, grid = goals[i], result.maps[k]
            values = {
                "class": goal.label,
                "index": goal.index,
                "score": float(scores[i, goal.index]),
                "probability": None if probabilities is None else float(probabilities[i, goal.index]),
                "layer": result.layer,
                "grid_height": grid.shape[0],
                "grid_width": grid.shape[1],
                "empty": not bool((grid.nan_to_num(0.0, 0.0, 0.0) > 0).any()),
                "notes": list(result.notes[k]),
                "passes": result.passes,
                "seconds": result.seconds,
                "area": None if work.mask is None else float(work.mask.mean()),
                "overlay": thumbnail(samples[k], grid),
            }
            rows.append(columns[k] | values)
        return rows

    def _maps(
        self,
        contestant: EvaluatedMethod,
        run: BatchExplainer,
        goals: Mapping[int, ResolvedTarget],
        *,
        cases: Sequence[Case],
        shared: float,
    ) -> TimedMaps:
        if not contestant.baseline:
            return timed_maps(contestant, run, goals, shared=shared)
        windows = [run.samples[i].window for i in goals]
        grids = baseline_maps(contestant.name, cases=list(cases), windows=windows, average=self.average)
        return TimedMaps(torch.stack([grids[k] for k in range(len(cases))]), "none", [[] for _ in cases], 0, 0.0)

    def _draw(self, contestant: EvaluatedMethod, maps: Tensor, samples: Sequence[Sample]) -> Draw:
        sources = [sample.picture for sample in samples]

        def draw(model: Model, group: Sequence[Sample], goals: Sequence[ResolvedTarget]) -> Tensor:
            if contestant.baseline:
                return torch.stack([maps[next(i for i, p in enumerate(sources) if p is s.picture)] for s in group])
            return drawn_again(contestant, model, group, goals, layer=self._layer)

        return draw

    def _row(self, work: _ImageWork, task: _MethodTask) -> Row:
        case, contestant = work.case, task.contestant
        row: Row = {
            "case": case.number,
            "line": case.line,
            "image": case.image,
            "patient": case.patient,
            "method": contestant.name,
            "model": self.plan.model.name,
            "image_sha256": work.sha256,
            "key": task.key or None,
        }
        if task.values is not None and not math.isfinite(task.values["score"]):
            task.fault = f"the score is {task.values['score']}: the model overflows here"
        if task.fault:
            return row | {"status": FAILED, "message": task.fault}
        if not task.wanted:
            why = contestant.refused or contestant.restricted or "no other image has an annotation"
            return row | {"status": NOT_ASKED, "message": why}
        values = task.values if task.cached is None else task.cached
        if values is None:
            raise AssertionError(f"{contestant.name} of {case.image} has neither values nor a reason")
        return values | row | {"status": OK, "message": contestant.restricted or None}


def thumbnail(sample: Sample, grid: Tensor) -> bytes:
    """Return the overlay of a map on its image, small, as JPEG."""
    image = Image.fromarray(sample.picture.rgb)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small = Picture(np.asarray(image, np.float32) / np.float32(255))
    window = sample.window.resized(small.size)
    heat = place(grid.nan_to_num(0.0, 0.0, 0.0).relu(), window).numpy()
    values = np.zeros(small.size, np.float32)
    values[window.visible()] = render.scale(heat[window.visible()], "minmax")[0]
    buffer = BytesIO()
    render.overlay(small, values, window=window).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
