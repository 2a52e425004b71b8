"""Read and check a study: its file, cohort and models."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from camscope.cohort.cohort import Cohort
from camscope.cohort.open_table import announce
from camscope.cohort.regions import check_spec
from camscope.cohort.sections import Problem
from camscope.errors import CamscopeError, SettingError, StudyError, nearest, shortened
from camscope.explanation.method_lookup import check_settings, find_method
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.render import check_display
from camscope.study.checks import file_problems
from camscope.study.config import LabelSection, ModelSection, StudyFile, line_of, read_study_file
from camscope.study.rows import SCHEMA_VERSION, region_names

_SCHEME = re.compile(r"[a-z_]+:")


@dataclass(frozen=True)
class Study:
    """A cohort, and a model for each label.

    Attributes:
        path: path of the study file.
        file: content of the study file.
        cohort: the cohort.

    Examples:
        >>> study = Study.read("study.toml")  # doctest: +SKIP
        >>> len(study.cohort), list(study.file.labels)  # doctest: +SKIP
        (207, ['Effusion', 'Cardiomegaly'])
    """

    path: Path
    file: StudyFile
    cohort: Cohort = field(repr=False)

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """Read a study file and its table.

        Raises:
            StudyError: lists all problems of the study; rows that cannot be used do not raise an error.
        """
        study = cls._opened(path)
        if problems := study._setting_problems():
            raise StudyError(problems)
        announce(study.cohort, option="cohort.patient", level=3)
        return study

    @classmethod
    def check(cls, path: str | Path) -> tuple[Study | None, list[Problem]]:
        """Read a study and check its settings, models, rows and files.

        Only the headers of image files are read.

        Returns:
            The study (None if a fatal problem prevents a run), and all problems.
        """
        try:
            study = cls._opened(path)
        except StudyError as error:
            return None, list(error.problems)
        problems = [*study._setting_problems(), *study._model_problems()]
        if not study.cohort.missing:  # with a missing column, every row would be reported
            problems += study.cohort.problems()
        problems += file_problems(study.cohort)
        return None if any(problem.fatal for problem in problems) else study, problems

    @classmethod
    def _opened(cls, path: str | Path) -> Study:
        if not isinstance(path, (str, os.PathLike)):
            raise SettingError(f"path must be a text or a path, but got {shortened(path)}")
        path = Path(path)
        file = read_study_file(path)
        cohort = Cohort(file.cohort, file.labels, path.parent, files=file.explain.files)
        return cls(path, file.model_copy(update={"cohort": cohort.section}), cohort)

    @property
    def folder(self) -> Path:
        """Return the folder to which relative paths refer."""
        return self.path.parent

    @cached_property
    def plan(self) -> str:
        """Return a fingerprint (8 hexadecimal digits) of the table and all settings on which rows depend."""
        settings = self.file.model_dump_json(exclude={"audit"})
        content = hashlib.sha256(f"{SCHEMA_VERSION} {settings} {region_names(self.file)}".encode())
        content.update(self.cohort.content.write_csv().encode("utf-8", "replace"))
        return content.hexdigest()[:8]

    @cached_property
    def models(self) -> dict[str, Model]:
        """Return the models by the key of their section; each model is loaded once.

        Raises:
            StudyError: lists every model that cannot be loaded, and every class that a model lacks.
        """
        models: dict[str, Model] = {}
        problems = []
        for label, section in self.file.labels.items():
            if not section.model.spec:
                text = "has no model: add model = ..., or train one with `camscope train` on this study file"
                problems.append(self._problem(f"label {label!r} {text}", "labels", label))
                continue
            try:
                if section.model.key not in models:
                    models[section.model.key] = _load(section.model, self.folder)
                class_index(section, label, models[section.model.key])
            except CamscopeError as error:
                key = "class" if section.model.key in models and section.class_ is not None else "model"
                problems.append(self._problem(str(error), "labels", label, key))
        if problems:
            raise StudyError(problems)
        return models

    def model(self, label: str) -> tuple[Model, int]:
        """Return the model of a label, and the index of its class."""
        section = self.file.labels[label]
        model = self.models[section.model.key]
        return model, class_index(section, label, model)

    def _model_problems(self) -> Sequence[Problem]:
        try:
            _ = self.models
        except StudyError as error:
            return error.problems
        return ()

    def _setting_problems(self) -> list[Problem]:
        """Return the problems of the study file that depend on the table or the models."""
        file, problems = self.file, list(self.cohort.missing)
        if file.explain.when == "present":
            text = 'has no column, so no case is known to have it: add column = ..., or set explain.when = "all"'
            blind = [label for label, section in file.labels.items() if section.column is None]
            problems += [self._problem(f"label {label!r} {text}", "labels", label) for label in blind]
        for method in file.explain.methods:
            try:
                find_method(method)
            except CamscopeError as error:
                problems.append(self._problem(str(error), "explain", "methods"))
        if not problems:
            try:
                check_settings(file.explain.settings, file.explain.methods)
            except CamscopeError as error:
                problems.append(self._problem(str(error), "explain", "settings"))
        try:
            check_display(file.explain.scale, file.explain.cmap)
        except CamscopeError as error:
            problems.append(self._problem(str(error), "explain", "cmap" if "colour" in str(error) else "scale"))
        masks = [*file.cohort.masks, *(["label"] if any(section.mask for section in file.labels.values()) else [])]
        cues = list(file.cohort.cues)
        for region in region_names(file):
            try:
                check_spec(region, masks=masks, cues=cues)
            except CamscopeError as error:
                where = "disease" if file.audit and region in file.audit.disease else "shortcuts"
                problems.append(self._problem(str(error), "audit", where))
        return problems

    def _problem(self, text: str, *keys: str) -> Problem:
        source = self.path.read_text(encoding="utf-8-sig")
        return Problem(text, str(self.path), line_of(source, keys))


def class_index(section: LabelSection, label: str, model: Model) -> int:
    """Return the index of a label's class: the class of the settings, the only class, or the class with the same name.

    Raises:
        TargetError: the model has no such class.
        StudyError: the model has several classes, and the settings do not name one.
    """
    count = model.recipe.classes if model.recipe is not None else len(model.labels)
    if isinstance(section.class_, int):
        if not 0 <= section.class_ < count:
            raise StudyError([Problem(f"class = {section.class_}: {model.name} has the classes 0 to {count - 1}")])
        return section.class_
    if section.class_ is not None:
        return model.index(section.class_)
    if count == 1:
        return 0
    if label in model.labels:
        return model.index(label)
    text = f"{nearest('class', label, model.labels)}: {model.name} has {count} classes, say which with class ="
    raise StudyError([Problem(text)])


def _load(section: ModelSection, folder: Path) -> Model:
    """Load a model; paths are relative to the study file. If one logit has two names, the class is the second."""
    arguments: dict[str, Any] = section.model_dump(exclude_defaults=True)
    arguments["spec"] = _placed(section.spec, folder)
    if section.weights not in ("default", "none"):
        arguments["weights"] = folder / section.weights
    if isinstance(section.labels, str) and (folder / section.labels).is_file():
        arguments["labels"] = folder / section.labels
    spec = arguments.pop("spec")
    model = load(spec, **arguments)
    outputs = 0 if model.recipe is None else model.recipe.classes
    return replace(model, labels=model.labels[1:]) if model.has_opposite(outputs) else model


def _placed(spec: str, folder: Path) -> str | Path:
    return spec if _SCHEME.match(spec) and not (folder / spec).exists() else folder / spec


def recorded_models(study: Study) -> Mapping[str, Any]:
    """Return the record of each label's model."""
    result = {}
    for label in study.file.labels:
        model, index = study.model(label)
        result[label] = {
            "name": model.name,
            "spec": None if model.recipe is None else model.recipe.spec,
            "class": index,
            "outcome": model.outcome,
            "weights_sha256": model.digest,
            "preprocess": model.preprocess.to_dict(),
            "facts": dict(model.facts),
        }
    return result
