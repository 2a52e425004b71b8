"""Compute the rows of a study: scores and maps of its models, heat in regions, and overlays."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from camscope.cohort.case import Case
from camscope.cohort.overlay_paths import picture_name
from camscope.cohort.runner import attempt, note, noted, read_cases
from camscope.cohort.store import FAILED, NOT_ASKED, OK, Known, Row, Store, key_of
from camscope.errors import CamscopeError
from camscope.explanation.batch import BatchExplainer, ResolvedTarget, Sample
from camscope.explanation.method_lookup import find_method
from camscope.files import write_atomically
from camscope.images import decode
from camscope.images.source import split
from camscope.methods import Method, NetworkMethod
from camscope.models.device import device_of, on_device
from camscope.prefetch import batched
from camscope.study.dicom_identity import Identities
from camscope.study.measure import Places, drawn, measured
from camscope.study.rows import FILES, SCHEMA_VERSION, is_region, region_names
from camscope.study.study import Study
from camscope.study.task import MapResult, MapTask, Score, StudyWork, mark_same
from camscope.targets import category

_JPEG_QUALITY = 90
_WRITERS = 2


class StudyStep:
    """Compute the rows of cases with the models of a study; each model is loaded once and kept.

    Args:
        study: the study.
        store: folder of the study, for the overlays.
        device: "cpu", "cuda" or "auto".
        batch_size: images per forward pass.
        engine: backend for the part of a network before the layer, "eager" or "openvino".
        precision: of that part: "float32", "bfloat16" or "float16".
        seed: random seed.
        watch: called with the labels that are being explained.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        *,
        device: str = "auto",
        batch_size: int = 16,
        engine: str = "eager",
        precision: str = "float32",
        seed: int = 0,
        watch: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.study, self.store, self.known = study, store, Known([])
        self.batch_size, self.engine, self.precision, self.watch = batch_size, engine, precision, watch
        torch.manual_seed(seed)
        explain = study.file.explain
        self._methods = {method: find_method(method) for method in explain.methods}
        self._regions = region_names(study.file)
        self._identities = Identities(study, store)
        self._display = key_of(explain.scale, explain.cmap, explain.opacity)
        self._classes: dict[str, dict[str, int]] = {}
        self._keys: dict[str, str] = {}
        self._devices: dict[str, str] = {}
        for label, section in study.file.labels.items():
            model, index = study.model(label)
            self._devices[label] = device_of(on_device(model, device))
            self._classes.setdefault(section.model.key, {})[label] = index
            made_with = (model.digest, model.preprocess.to_dict(), model.outcome, index, model.layer)
            lower = [] if precision == "float32" else [precision]
            self._keys[label] = key_of(SCHEMA_VERSION, made_with, explain.layer, explain.settings, seed, *lower)

    def rows(self, cases: Iterable[Case], *, known: Known) -> Iterator[Row]:
        """Explain cases; yield rows by case, label and method.

        Threads read images ahead, and measure and draw maps afterwards. Every overlay is written before its row is
        yielded.

        Args:
            cases: cases of the study.
            known: rows of earlier runs.

        Raises:
            StoreError: an overlay cannot be written.
            OutputError: a model returns no score per class.
        """
        self.known = known
        works = read_cases(self, cases, ahead=self.batch_size)
        with ThreadPoolExecutor(_WRITERS) as writers:
            finished: deque[Future[list[Row]]] = deque()
            for batch in batched(works, self.batch_size, weigh=_bytes):
                for key in self._classes:
                    if members := [work for work in batch if key in work.samples]:
                        self.watch(", ".join(self._classes[key]))
                        self._explain(key, members)
                for work in batch:
                    work.samples.clear()
                finished.extend(writers.submit(self._finish, work) for work in batch)
                while len(finished) > len(batch):
                    yield from finished.popleft().result()
            for rows in finished:
                yield from rows.result()

    def failed(self, case: Case, error: Exception) -> list[Row]:
        """Return the failed rows of a case that could not be explained."""
        work = self.begin(case)
        work.fail(error)
        return self._finish(work)

    def begin(self, case: Case) -> StudyWork:
        """Return the rows of a case, before its file is read."""
        tasks = [MapTask(method, label=label) for label in self.study.file.labels for method in self._methods]
        return StudyWork(case, tasks, places=Places(case, self.study))

    def reuse(self, work: StudyWork) -> bool:
        """Look up the results of earlier runs for a case, and check which are valid."""
        work.case = case = self._identities.completed(work.case)
        for task in work.tasks:
            task.fault = case.problems.get(task.label, "")
            task.key = key_of(work.sha256, split(case.source)[1], self._keys[task.label], task.method)
            task.recall(self.known.get(task.key, label=task.label, image=case.image))
        for task in work.tasks:
            scored = next((candidate for candidate in work.of([task.label]) if candidate.score is not None), task)
            task.score, task.computed = scored.score, task.computed or scored.computed
            self._judge(task, case)
            task.settled = self._is_settled(task, work)
        return not all(task.settled for task in work.tasks)

    def prepare(self, work: StudyWork, content: bytes) -> None:
        """Decode the image, and prepare the input of each model that is needed."""
        work.picture = decode(content, work.case.source)
        for key, classes in self._classes.items():
            if tasks := [task for task in work.of(classes) if not task.done]:
                with noted(tasks):
                    work.samples[key] = Sample.of(self.study.models[key], work.picture, source=work.case.source)

    def _judge(self, task: MapTask, case: Case) -> None:
        threshold = self.study.file.labels[task.label].threshold
        task.judge(threshold=threshold, truth=case.truth[task.label], when=self.study.file.explain.when)

    def _is_settled(self, task: MapTask, work: StudyWork) -> bool:
        """Return whether the whole cached row is valid."""
        if task.score is None or not task.wanted:
            return task.score is not None
        row, name = task.cached or {}, self._file(task, work.case)
        drawn_alike = (row.get("file"), row.get("display_key")) == (name, self._display)
        return (
            task.map is not None
            and row.get("region_key") == self._region_key(task, work)
            and (not name or (drawn_alike and (self.store.folder / name).exists()))
        )

    def _explain(self, key: str, members: Sequence[StudyWork]) -> None:
        """Compute the scores and maps of one model."""

        def fail(work: StudyWork, error: Exception) -> None:
            note([task for task in work.of(self._classes[key]) if not task.done], error)

        for run, works in attempt(partial(self._scored, key), members, fail=fail):
            for (label, index), method in itertools.product(self._classes[key].items(), self._methods):
                lacking = [
                    (i, task)
                    for i, work in enumerate(works)
                    for task in work.of([label])
                    if task.method == method and task.lacks_map and not task.fault
                ]
                goal = ResolvedTarget(label, index, category(index))
                for _ in attempt(partial(self._map, run, goal), lacking, fail=lambda job, error: note([job[1]], error)):
                    pass

    def _scored(self, key: str, members: Sequence[StudyWork]) -> BatchExplainer:
        """Run one forward pass of a model, and set the scores of its labels."""
        model, explain = self.study.models[key], self.study.file.explain
        tasks = [task for work in members for task in work.of(self._classes[key])]
        functions: Mapping[str, Method | NetworkMethod] = self._methods
        if explain.when == "present" and not any(task.lacks_map for task in tasks):
            functions = {}
        run = BatchExplainer.over(
            model,
            [work.samples[key] for work in members],
            functions=functions.values(),
            layer=explain.layer,
            engine=self.engine,
            precision=self.precision,
        )
        outputs = run.scores
        probabilities = run.model.probability(outputs)
        for i, work in enumerate(members):
            for task in work.of(self._classes[key]):
                index = self._classes[key][task.label]
                if task.score is None:
                    probability = None if probabilities is None else float(probabilities[i, index])
                    log_odds = float(run.model.log_odds(outputs[i], index))
                    task.score = Score(float(outputs[i, index]), probability, log_odds)
                    task.computed = self._computed(run, task.label)
                self._judge(task, work.case)
        return run

    def _computed(self, run: BatchExplainer, label: str) -> str:
        """Return what computed a pass, such as "openvino:cpu" or "eager bfloat16:cuda"."""
        engine = None if run.recorded is None else run.recorded.engine
        name, precision = ("eager", "float32") if engine is None else (engine.name, engine.precision)
        return f"{name}{'' if precision == 'float32' else f' {precision}'}:{self._devices[label]}"

    def _map(self, run: BatchExplainer, goal: ResolvedTarget, lacking: Sequence[tuple[int, MapTask]]) -> None:
        """Compute the maps of one label and method; each task comes with the index of its image in the batch."""
        method, settings = lacking[0][1].method, self.study.file.explain.settings
        goals = {i: goal for i, _ in lacking}
        maps = run.maps(method, self._methods[method], goals=goals, settings=settings)
        for (i, task), grid, notes in zip(lacking, maps.raw.cpu().numpy(), maps.notes, strict=True):
            task.map = MapResult(grid, run.samples[i].window, maps.layer, notes)
            task.computed = self._computed(run, task.label)

    def _finish(self, work: StudyWork) -> list[Row]:
        """Return the rows of a case; measure the maps and write the overlays."""
        rows = []
        mark_same(work.tasks)
        for task in work.tasks:
            row = self._described(work, task)
            if not task.fault and task.score is not None and not np.isfinite(task.score.value):
                task.fault = f"the score is {task.score.value}: the model overflows on this image"
            if not task.fault and task.wanted:
                with noted([task]):
                    row |= self._measured(work, task)
            row["status"] = FAILED if task.fault else OK if task.wanted else NOT_ASKED
            row["message"] = task.fault or (None if task.wanted else self._why_not(truth=row["truth"]))
            rows.append(row)
        return rows

    def _described(self, work: StudyWork, task: MapTask) -> Row:
        """Return the columns of a row without its map."""
        case, (model, index) = work.case, self.study.model(task.label)
        row: Row = {
            "case": case.number,
            "line": case.line,
            "image": case.image,
            "patient": case.patient,
            "group": "/".join(case.group),
            "label": task.label,
            "method": task.method,
            "truth": case.truth[task.label],
            "model": model.name,
            "class": model.label(index),
            "score": None if task.score is None else task.score.value,
            "probability": None if task.score is None else task.score.probability,
            "log_odds": None if task.score is None else task.score.log_odds,
            "prediction": task.prediction,
            "outcome": task.outcome,
            "computed": task.computed,
            "key": task.key or None,
            "image_sha256": work.sha256,
        }
        row |= {f"stratum:{name}": value for name, value in case.strata.items()}
        return row | {f"cue:{name}": value for name, value in case.cues.items()}

    def _measured(self, work: StudyWork, task: MapTask) -> Row:
        """Return the columns of a map, its regions and its overlay."""
        if task.map is None:
            raise CamscopeError(f"{work.case.source!r} was not explained")
        row = task.map.columns()
        if task.settled and task.cached is not None:
            row |= {name: value for name, value in task.cached.items() if name in FILES or is_region(name)}
            return row if self.study.file.explain.files else row | {"file": None}
        picture = work.picture
        if picture is None:
            raise CamscopeError(f"{work.case.source!r} was not read")
        grid, window = task.map.grid, task.map.window
        row |= measured(grid, work.places.scene(task.label, window, picture=picture), regions=self._regions)
        if name := self._file(task, work.case):
            image = drawn(picture, grid, window, display=self.study.file.explain)
            kind = "PNG" if name.lower().endswith(".png") else "JPEG"
            write_atomically(self.store.folder / name, lambda file: image.save(file, kind, quality=_JPEG_QUALITY))
        return row | {
            "file": name or None,
            "height": picture.size[0],
            "width": picture.size[1],
            "display_key": self._display,
            "region_key": self._region_key(task, work),
        }

    def _file(self, task: MapTask, case: Case) -> str:
        """Return the name of an overlay; "" if overlays are not drawn."""
        model, _ = self.study.model(task.label)
        pattern = self.study.file.explain.files
        return pattern and picture_name(
            pattern,
            group=case.group,
            patient=case.patient,
            image=case.name,
            method=task.method,
            label=task.label,
            model=model.name,
            labels=list(self.study.file.labels),
        )

    def _region_key(self, task: MapTask, work: StudyWork) -> str:
        return key_of(self._regions, work.places.fingerprint(task.label))

    def _why_not(self, *, truth: bool | None) -> str:
        """Return the reason why no map was computed."""
        if self.study.file.explain.when == "predicted":
            return "not predicted"
        return "the label is blank or uncertain" if truth is None else "not present"


def _bytes(work: StudyWork) -> int:
    """Return the memory of the image of a case, if it was read."""
    return 0 if work.picture is None else work.picture.pixels.nbytes
