"""Cases in, rows out: what one process does for one part of a cohort, however it is fed."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from camscope.cohort.case import Case
from camscope.cohort.store import FAILED, NOT_ASKED, OK, Known, Row, Store, key_of
from camscope.errors import CamscopeError
from camscope.explanation.batch import BatchExplainer, ResolvedTarget, Sample
from camscope.explanation.method_lookup import find_method
from camscope.files import write_atomically
from camscope.images import Picture, Window, decode, fetch
from camscope.images.source import split
from camscope.methods import Method, NetworkMethod
from camscope.models.device import device_of, on_device
from camscope.prefetch import prefetch
from camscope.study.dicom_identity import Identities
from camscope.study.measure import Places, drawn, measured
from camscope.study.overlay_paths import picture_name
from camscope.study.rows import FILES, MAP, SCHEMA_VERSION, is_region, map_values, region_names
from camscope.study.study import Study
from camscope.study.task import Opened, Task, grid_of, mark_same, note, noted
from camscope.targets import category

_JPEG_QUALITY = 90
_SCORED = ("score", "probability", "prediction", "outcome", "computed")
_THREADS = 2

_Named = tuple[str, Method | NetworkMethod]


class Explainer:
    """Explains cases with the models of a study; each model is loaded once and kept.

    Args:
        study: the study.
        store: its folder, for the overlays.
        device: "cpu", "cuda" or "auto".
        batch_size: pictures in one forward pass.
        engine: what computes the part of a network before the layer, "eager", "packed" or "openvino".
        seed: of everything random.
        watch: called with what is being explained.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        *,
        device: str = "auto",
        batch_size: int = 16,
        engine: str = "eager",
        seed: int = 0,
        watch: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.study, self.store, self.known = study, store, Known([])
        self.batch_size, self.engine, self.watch = batch_size, engine, watch
        torch.manual_seed(seed)
        explain = study.file.explain
        self._functions = [(method, find_method(method)) for method in explain.methods]
        self._regions = region_names(study.file)
        self._identities = Identities(study, store)
        self._display = key_of(explain.scale, explain.cmap, explain.opacity)
        self._classes: dict[str, dict[str, int]] = {}
        self._keys: dict[str, str] = {}
        self._computed: dict[str, str] = {}
        for label, section in study.file.labels.items():
            model, index = study.model(label)
            self._computed[label] = f"{engine}:{device_of(on_device(model, device))}"
            self._classes.setdefault(section.model.key, {})[label] = index
            made_with = (model.digest, model.preprocess.to_dict(), model.outcome, index, model.layer)
            self._keys[label] = key_of(SCHEMA_VERSION, made_with, explain.layer, explain.settings, seed)

    def rows(self, cases: Iterable[Case], *, known: Known) -> Iterator[Row]:
        """Explain cases: for each case each label, for each label each method.

        Pictures are read ahead and measured and drawn behind, in threads; every overlay is written before its row
        is handed on.

        Args:
            cases: of the study.
            known: what was computed before.

        Raises:
            StoreError: an overlay cannot be written.
        """
        self.known = known
        with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
            opened = prefetch(readers, self._open, cases, depth=self.batch_size)
            finished: deque[Future[list[Row]]] = deque()
            while batch := list(itertools.islice(opened, self.batch_size)):
                for key in self._classes:
                    if members := [one for one in batch if key in one.samples]:
                        self.watch(", ".join(self._classes[key]))
                        self._explain(key, members)
                for one in batch:
                    one.samples.clear()
                finished.extend(writers.submit(self._finish, one) for one in batch)
                while len(finished) > self.batch_size:
                    yield from finished.popleft().result()
            for rows in finished:
                yield from rows.result()

    def failed(self, case: Case, error: Exception) -> list[Row]:
        """The rows of a case that could not be explained at all."""
        opened = self._begun(case)
        note(opened.tasks, error)
        return self._finish(opened)

    def _begun(self, case: Case) -> Opened:
        tasks = [Task(label, method) for label in self.study.file.labels for method, _ in self._functions]
        return Opened(case, tasks, Places(case, self.study))

    def _open(self, case: Case) -> Opened:
        """Read a case's file, look up what is known of it, and make ready what is not."""
        opened = self._begun(case)
        tasks = opened.tasks
        with noted(tasks):
            if text := case.problems.get(""):
                raise CamscopeError(text)
            content = fetch(case.source)
            opened.sha256 = hashlib.sha256(content).hexdigest()
            opened.case = self._identities.completed(case)
            self._recall(opened)
            if not all(task.settled for task in tasks):
                opened.picture = decode(content, case.source)
                self._prepare(opened, opened.picture)
        return opened

    def _recall(self, opened: Opened) -> None:
        """What is known of a case from before, and what it is worth now."""
        case = opened.case
        for task in opened.tasks:
            task.fault = case.problems.get(task.label, "")
            task.key = key_of(opened.sha256, split(case.source)[1], self._keys[task.label], task.method)
            task.row = self.known.get(task.key, label=task.label, image=case.image) or {}
        for task in opened.tasks:
            scored = next((other.row for other in opened.of([task.label]) if other.scored), {})
            task.row |= {name: scored.get(name) for name in ("score", "probability")}
            task.row.setdefault("computed", scored.get("computed"))
            self._judge(task, case)
            task.settled = self._is_settled(task, opened)

    def _prepare(self, opened: Opened, picture: Picture) -> None:
        """The picture as input of each model that has something to do."""
        for key, classes in self._classes.items():
            tasks = opened.of(classes)
            if all(task.done for task in tasks):
                continue
            with noted([task for task in tasks if not task.done]):
                opened.samples[key] = Sample.of(self.study.models[key], picture, source=opened.case.source)

    def _judge(self, task: Task, case: Case) -> None:
        """Prediction and outcome by the score, and whether a map is asked for."""
        section, truth = self.study.file.labels[task.label], case.truth[task.label]
        value = task.row.get("probability")
        value = task.row.get("score") if value is None else value
        prediction = None if value is None else bool(value >= section.threshold)
        outcome = None
        if prediction is not None and truth is not None:
            outcome = ("T" if prediction == truth else "F") + ("P" if prediction else "N")
        task.row |= {"prediction": prediction, "outcome": outcome}
        asked = {"present": truth, "predicted": prediction, "all": True}
        task.wanted = bool(asked[self.study.file.explain.when])

    def _is_settled(self, task: Task, opened: Opened) -> bool:
        """Whether all of a row is known already."""
        if not task.scored or not task.wanted:
            return task.scored
        row, name = task.row, self._file(task, opened.case)
        drawn_alike = (row.get("file"), row.get("display_key")) == (name, self._display)
        return (
            task.mapped
            and row.get("region_key") == self._region_key(task, opened)
            and (not name or (drawn_alike and (self.store.folder / name).exists()))
        )

    def _explain(self, key: str, members: list[Opened]) -> None:
        """Scores and maps of one model; where a batch fails as a whole, each of its pictures has its own chance."""
        model, explain = self.study.models[key], self.study.file.explain
        tasks = [task for one in members for task in one.of(self._classes[key])]
        functions = self._functions if explain.when != "present" or any(t.lacks_map for t in tasks) else []
        try:
            samples = [one.samples[key] for one in members]
            run = BatchExplainer.over(
                model, samples, functions=[f for _, f in functions], layer=explain.layer, engine=self.engine
            )
            self._score(run, key, members)
        except Exception as error:
            if len(members) > 1:
                for one in members:
                    self._explain(key, [one])
                return
            note([task for task in tasks if not task.done], error)
            return
        for label, index in self._classes[key].items():
            for method, function in functions:
                lacking = {
                    i: task
                    for i, one in enumerate(members)
                    for task in one.tasks
                    if (task.label, task.method) == (label, method) and task.lacks_map and not task.fault
                }
                self._map(run, (method, function), lacking, goal=ResolvedTarget(label, index, category(index)))

    def _score(self, run: BatchExplainer, key: str, members: list[Opened]) -> None:
        outputs = run.outputs.float()
        if outputs.ndim != 2:
            shape = tuple(outputs.shape[1:])
            raise CamscopeError(
                f"{run.model.name} returns {shape} values per picture; a study needs one for each class"
            )
        probabilities = run.model.probability(outputs)
        for i, one in enumerate(members):
            for task in one.of(self._classes[key]):
                index = self._classes[key][task.label]
                if not task.scored:
                    task.row |= {"score": float(outputs[i, index]), "computed": self._computed[task.label]}
                    task.row["probability"] = None if probabilities is None else float(probabilities[i, index])
                self._judge(task, one.case)

    def _map(self, run: BatchExplainer, method: _Named, lacking: dict[int, Task], *, goal: ResolvedTarget) -> None:
        """The maps of one method and label; where they fail together, each has its own chance."""
        if not lacking:
            return
        name, function = method
        try:
            settings = self.study.file.explain.settings
            maps = run.maps(name, function, goals=dict.fromkeys(lacking, goal), settings=settings)
        except Exception as error:
            if len(lacking) > 1:
                for i, task in lacking.items():
                    self._map(run, method, {i: task}, goal=goal)
                return
            note(lacking.values(), error)
            return
        for (i, task), grid, notes in zip(lacking.items(), maps.raw.cpu().numpy(), maps.notes, strict=True):
            window = run.samples[i].window
            task.row |= map_values(grid, (*window.start, *window.extent))
            task.row |= {"layer": maps.layer, "notes": notes, "computed": self._computed[goal.label]}

    def _finish(self, opened: Opened) -> list[Row]:
        """The rows of a case; measures the maps and writes the overlays."""
        rows = []
        mark_same(opened.tasks)
        for task in opened.tasks:
            row = self._described(opened, task)
            if not task.fault and not np.isfinite(task.row["score"]):
                task.fault = f"the score is {task.row['score']}: the model overflows on this picture"
            if not task.fault and task.wanted:
                with noted([task]):
                    row |= self._measured(opened, task)
            row["status"] = FAILED if task.fault else OK if task.wanted else NOT_ASKED
            row["message"] = task.fault or (None if task.wanted else self._why_not(truth=row["truth"]))
            rows.append(row)
        return rows

    def _described(self, opened: Opened, task: Task) -> Row:
        """What a row says without its map."""
        case, (model, index) = opened.case, self.study.model(task.label)
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
            "key": task.key or None,
            "image_sha256": opened.sha256,
        }
        row |= {f"stratum:{name}": value for name, value in case.strata.items()}
        row |= {f"cue:{name}": value for name, value in case.cues.items()}
        return row | {name: task.row.get(name) for name in _SCORED}

    def _measured(self, opened: Opened, task: Task) -> Row:
        """The columns of a map, of its regions and of its overlay."""
        if task.settled:
            kept = {name: value for name, value in task.row.items() if name in MAP or name in FILES or is_region(name)}
            return kept if self.study.file.explain.files else kept | {"file": None}
        picture = opened.picture
        if picture is None:
            raise CamscopeError(f"{opened.case.source!r} was not read")
        grid = grid_of(task)
        window = Window(picture.size, tuple(task.row["window"][:2]), tuple(task.row["window"][2:]))
        row = {name: task.row.get(name) for name in MAP}
        row |= measured(grid, opened.places.scene(task.label, window, picture=picture), regions=self._regions)
        if name := self._file(task, opened.case):
            image = drawn(picture, grid, window, display=self.study.file.explain)
            kind = "PNG" if name.lower().endswith(".png") else "JPEG"
            write_atomically(self.store.folder / name, lambda file: image.save(file, kind, quality=_JPEG_QUALITY))
        return row | {
            "file": name or None,
            "height": picture.size[0],
            "width": picture.size[1],
            "display_key": self._display,
            "region_key": self._region_key(task, opened),
        }

    def _file(self, task: Task, case: Case) -> str:
        """The name of an overlay; "" where none are drawn."""
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
        )

    def _region_key(self, task: Task, opened: Opened) -> str:
        return key_of(self._regions, opened.places.fingerprint(task.label))

    def _why_not(self, *, truth: bool | None) -> str:
        """Why no map was asked for."""
        if self.study.file.explain.when == "predicted":
            return "not predicted"
        return "the label is blank or uncertain" if truth is None else "not present"
