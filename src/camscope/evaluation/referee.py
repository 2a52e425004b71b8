"""Rows of a batch of images: read, explain, measure. Valid results of earlier runs are reused."""

from __future__ import annotations

import hashlib
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
from camscope.cohort.annotations import Mask
from camscope.cohort.case import Case
from camscope.cohort.store import FAILED, NOT_ASKED, OK, Known, Row, key_of
from camscope.errors import CamscopeError
from camscope.evaluation.baselines import AVERAGE, AverageMasks, null_maps
from camscope.evaluation.candidates import Contestant, Made, drawn_again, made
from camscope.evaluation.compute_metrics import Draw, Subject, judged
from camscope.evaluation.plan import Plan, goal_of, sample_of
from camscope.explanation.batch import BatchExplainer, ResolvedTarget, Sample
from camscope.files import StoreError
from camscope.heatmap import place
from camscope.images import Picture, Window, fetch
from camscope.images.source import split
from camscope.models.model import Model

_THUMBNAIL, _QUALITY = 160, 80


@dataclass
class _Opened:
    """An image that was read: its known rows, or why it cannot be used."""

    case: Case
    sha256: str | None = None
    fault: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    known: dict[str, Row] = field(default_factory=dict)
    sample: Sample | None = None
    mask: Mask | None = None
    goal: ResolvedTarget | None = None


class Referee:
    """Compute the rows of batches.

    Args:
        plan: model, data and settings of the evaluation.
        contestants: its methods and nulls.
        known: rows of earlier runs.
    """

    def __init__(self, plan: Plan, contestants: Sequence[Contestant], known: Known) -> None:
        self.plan, self.contestants, self.known = plan, contestants, known
        self.average = AverageMasks(plan.data.cases)
        self._averaged = self.average.fingerprint
        self._few = plan.chosen_few
        self._made_with = plan.made_with
        self._layer = plan.layer

    def rows(self, batch: Sequence[Case]) -> Iterator[tuple[Contestant, Callable[[], Iterator[Row]]]]:
        """Yield each method, with a function that computes its rows of a batch."""
        opened = [self._opened(case) for case in batch]
        run, shared = self._pass(opened)
        for contestant in self.contestants:
            yield contestant, partial(self._rows, contestant, opened, run, shared=shared)

    def _rows(
        self, contestant: Contestant, opened: Sequence[_Opened], run: BatchExplainer | None, *, shared: float
    ) -> Iterator[Row]:
        asked = [one for one in opened if not one.fault and self._asked(contestant, one)]
        lacking = [one for one in asked if contestant.name not in one.known]
        found = {} if run is None else self._judged(contestant, run, lacking, shared=shared)
        for one in opened:
            yield self._row(contestant, one, found.get(one.case.number))

    def _asked(self, contestant: Contestant, one: _Opened) -> bool:
        if contestant.refused or (contestant.name == AVERAGE and self.average.without(one.case.patient) is None):
            return False
        return not contestant.restricted or one.case.number in self._few

    def _opened(self, case: Case) -> _Opened:
        """Read an image's file, look up its known rows, and prepare it for the model if a row is missing."""
        one = _Opened(case)
        try:
            if case.problem:
                raise CamscopeError(case.problem)
            content = fetch(case.source)
            one.sha256 = hashlib.sha256(content).hexdigest()
            where = [case.mask_content(name) for name in case.masks]
            for contestant in self.contestants:
                if not self._asked(contestant, one):
                    continue
                one.keys[contestant.name] = key = self._key(contestant, one, where)
                if (row := self.known.get(key, image=case.image)) is not None:
                    one.known[contestant.name] = row
            if len(one.known) < len(one.keys):
                one.sample = sample_of(self.plan.model, case, content)
                one.mask = case.annotation(one.sample.picture.size)
        except Exception as error:  # any file may fail; the other images go on
            one.fault = _words(error)
        return one

    def _key(self, contestant: Contestant, one: _Opened, where: Sequence[str]) -> str:
        case = one.case
        more = self._averaged + case.patient if contestant.name == AVERAGE else ""
        role = self._repeated(contestant, case.number)
        made_with = (contestant.name, dict(contestant.settings), self._made_with, more, role)
        return key_of(one.sha256, split(case.source)[1], where, case.target, made_with)

    def _repeated(self, contestant: Contestant, number: int) -> bool:
        """Return whether an image is one of the few for which a method's maps are computed again."""
        return number in self._few[: contestant.repeats(self.plan.few)]

    def _pass(self, opened: Sequence[_Opened]) -> tuple[BatchExplainer | None, float]:
        """Run one forward pass over the images with missing rows; return it with the seconds per image that it took."""
        ready = [one for one in opened if one.sample is not None and not one.fault]
        if not ready:
            return None, 0.0
        functions = [one.function for one in self.contestants if not one.null and not one.refused]
        start = time.perf_counter()
        try:
            samples = [one.sample for one in ready if one.sample is not None]
            run = BatchExplainer.over(self.plan.model, samples, functions=functions, layer=self._layer)
            self._layer = self._layer or (run.seen.layer if run.seen else None)
            outputs = run.outputs.cpu()
            for one, output in zip(ready, outputs, strict=True):
                try:
                    one.goal = goal_of(self.plan.model, one.case, output)
                    if not output.isfinite().all():
                        raise CamscopeError("the model returns values that are not finite on this picture")
                except CamscopeError as error:
                    one.fault = _words(error)
        except Exception as error:  # find the image that fails
            for one in ready[1:] and ready:
                self._pass([one])
            sound = [one for one in ready if not one.fault]
            if ready[1:] and len(sound) < len(ready):
                return self._pass(sound)
            for one in ready:
                one.fault = _words(error)
            return None, 0.0
        return run, (time.perf_counter() - start) / len(ready)

    def _judged(
        self, contestant: Contestant, run: BatchExplainer, lacking: Sequence[_Opened], *, shared: float
    ) -> dict[int, Row]:
        """Return what a method's rows contain beyond the image; if a batch fails, each image is tried alone."""
        if not lacking:
            return {}
        try:
            return self._measured(contestant, run, lacking, shared=shared)
        except StoreError:
            raise
        except Exception as error:  # any method or metric may fail; the other rows go on
            if len(lacking) == 1:
                return {lacking[0].case.number: {"message": _words(error)}}
            return {
                number: row
                for one in lacking
                for number, row in self._judged(contestant, run, [one], shared=shared).items()
            }

    def _measured(
        self, contestant: Contestant, run: BatchExplainer, lacking: Sequence[_Opened], *, shared: float
    ) -> dict[int, Row]:
        places = [next(i for i, s in enumerate(run.samples) if s is one.sample) for one in lacking]
        goals = {i: one.goal for i, one in zip(places, lacking, strict=True) if one.goal is not None}
        samples = [run.samples[i] for i in places]
        cases = [one.case for one in lacking]
        found = self._maps(contestant, run, goals, cases=cases, shared=shared)
        subject = Subject(
            run.model,
            samples,
            list(goals.values()),
            run.outputs[places],
            found.maps.float(),
            [one.mask for one in lacking],
            self._draw(contestant, found.maps.float(), samples),
            [k for k, case in enumerate(cases) if self._repeated(contestant, case.number)],
            self._layer,
            self.plan.engine,
        )
        columns = judged(subject, self.plan.metrics, batch_size=self.plan.batch_size, seed=self.plan.seed)
        probabilities = run.model.probability(run.outputs.float())
        rows = {}
        for k, (i, one) in enumerate(zip(places, lacking, strict=True)):
            goal, grid = goals[i], found.maps[k]
            rows[one.case.number] = columns[k] | {
                "class": goal.label,
                "index": goal.index,
                "score": float(run.outputs[i, goal.index]),
                "probability": None if probabilities is None else float(probabilities[i, goal.index]),
                "layer": found.layer,
                "grid_height": grid.shape[0],
                "grid_width": grid.shape[1],
                "empty": not bool((grid.nan_to_num(0.0, 0.0, 0.0) > 0).any()),
                "notes": list(found.notes[k]),
                "passes": found.passes,
                "seconds": found.seconds,
                "area": None if one.mask is None else float(one.mask.mean()),
                "overlay": thumbnail(samples[k], grid),
            }
        return rows

    def _maps(
        self,
        contestant: Contestant,
        run: BatchExplainer,
        goals: Mapping[int, ResolvedTarget],
        *,
        cases: Sequence[Case],
        shared: float,
    ) -> Made:
        if not contestant.null:
            return made(contestant, run, goals, shared=shared)
        windows = [run.samples[i].window for i in goals]
        grids = null_maps(contestant.name, cases=list(cases), windows=windows, average=self.average)
        return Made(torch.stack([grids[k] for k in range(len(cases))]), "none", [[] for _ in cases], 0, 0.0)

    def _draw(self, contestant: Contestant, maps: Tensor, samples: Sequence[Sample]) -> Draw:
        sources = [sample.picture for sample in samples]

        def draw(model: Model, wanted: Sequence[Sample], goals: Sequence[ResolvedTarget]) -> Tensor:
            if contestant.null:
                return torch.stack([maps[next(i for i, p in enumerate(sources) if p is s.picture)] for s in wanted])
            return drawn_again(contestant, model, wanted, goals, layer=self._layer)

        return draw

    def _row(self, contestant: Contestant, one: _Opened, found: Row | None) -> Row:
        case = one.case
        row: Row = {
            "case": case.number,
            "line": case.line,
            "image": case.image,
            "patient": case.patient,
            "method": contestant.name,
            "model": self.plan.model.name,
            "image_sha256": one.sha256,
        }
        if one.fault:
            return row | {"status": FAILED, "message": one.fault}
        if not self._asked(contestant, one):
            why = contestant.refused or contestant.restricted or "no other picture has an annotation"
            return row | {"status": NOT_ASKED, "message": why}
        row["key"] = one.keys[contestant.name]
        if contestant.name in one.known:
            return one.known[contestant.name] | row | {"status": OK, "message": contestant.restricted or None}
        if found is None or "score" not in found:
            return row | {"status": FAILED, "message": (found or {}).get("message") or "was not measured"}
        if not math.isfinite(found["score"]):
            return row | {"status": FAILED, "message": f"the score is {found['score']}: the model overflows here"}
        return row | found | {"status": OK, "message": contestant.restricted or None}


def _words(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if isinstance(error, CamscopeError) else f"{type(error).__name__}: {words}"


def thumbnail(sample: Sample, grid: Tensor) -> bytes:
    """Return the overlay of a map on its image, small, as JPEG."""
    image = Image.fromarray(sample.picture.rgb)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small = Picture(np.asarray(image, np.float32) / np.float32(255))
    factors = [now / before for now, before in zip(small.size, sample.picture.size, strict=True)]
    start = tuple(s * f for s, f in zip(sample.window.start, factors, strict=True))
    extent = tuple(e * f for e, f in zip(sample.window.extent, factors, strict=True))
    window = Window(small.size, start, extent)
    heat = place(grid.nan_to_num(0.0, 0.0, 0.0).relu(), window).numpy()
    values = np.zeros(small.size, np.float32)
    values[window.seen()] = render.scale(heat[window.seen()], "minmax")[0]
    buffer = BytesIO()
    render.overlay(small, values, window=window).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
