"""Labelled images, read as cases from a folder of class folders, a table or a study file."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from camscope.cohort.case import Case
from camscope.cohort.cohort import Cohort
from camscope.cohort.columns import find_column
from camscope.cohort.open_table import open_table, with_header_patients
from camscope.cohort.sections import LabelRule
from camscope.cohort.tables import LINE, read_table
from camscope.cohort.truth import lists_of, read_truth, values_of
from camscope.errors import SettingError, nearest
from camscope.models.model import Model
from camscope.study.study import Study

SPLITS = ("train", "val", "test")
UNKNOWN = "its label is unknown"


@dataclass(frozen=True)
class Dataset:
    """Cases with the same labels.

    Attributes:
        path: folder, table or study file that was read.
        labels: names of the labels that each case's truth has.
        outcome: "one" of the labels is right, or "any" number of them.
        cases: all cases, including those that cannot be used.
        masks: names that masks can have.
    """

    path: Path
    labels: tuple[str, ...]
    outcome: Literal["one", "any"]
    cases: tuple[Case, ...] = field(repr=False)
    masks: tuple[str, ...] = ()

    @property
    def problems(self) -> dict[str, str]:
        """Return the problems of cases, by image; an unknown label is no problem."""
        return {case.image: case.problem for case in self.cases if case.problem not in ("", UNKNOWN)}

    @property
    def usable(self) -> tuple[Case, ...]:
        """Return the cases without a problem."""
        return tuple(case for case in self.cases if not case.problem)

    def of(self, split: str) -> tuple[Case, ...]:
        """Return the usable cases of a split."""
        return tuple(case for case in self.usable if case.split == split)

    def truth(self, cases: Sequence[Case]) -> npt.NDArray[np.float64]:
        """Return the labels of some cases, (cases, labels): 1, 0, or NaN if unknown."""
        return truth_of(cases, self.labels)

    def only(self, label: str) -> Dataset:
        """Return the same images for one label, present or absent."""
        return self._of_columns([label], (label,), "any")

    def for_model(self, model: Model) -> Dataset:
        """Return the same images with the labels of a model, in its order.

        Raises:
            SettingError: the model has no labels, or lacks a class of the data where one class is right; or the data
                lack a label of the model where any number is right.
        """
        if not model.labels:
            raise SettingError(f"{model.name} has no class names: make a bundle with --labels first")
        model_names = {name.strip().lower(): name for name in model.labels}
        data_names = {name.strip().lower(): name for name in self.labels}
        single = model.outcome == "one"
        unknown = [name for low, name in data_names.items() if low not in model_names]
        missing = [name for low, name in model_names.items() if low not in data_names]
        if (single and unknown) or len(missing) == len(model_names) or (not single and missing):
            odd, choices = (unknown[0], model.labels) if single and unknown else (missing[0], self.labels)
            owner = model.name if single and unknown else str(self.path)
            raise SettingError(f"{owner}: {nearest('class', odd, choices)}")
        return self._of_columns([data_names.get(low) for low in model_names], model.labels, "one" if single else "any")

    def _of_columns(
        self, columns: Sequence[str | None], labels: tuple[str, ...], outcome: Literal["one", "any"]
    ) -> Dataset:
        """Return the dataset with these columns as labels; None is a label that no image has."""
        changed = []
        for case in self.cases:
            pairs = zip(labels, columns, strict=True)
            truth = {label: False if column is None else case.truth[column] for label, column in pairs}
            changed.append(_with_problem(dataclasses.replace(case, truth=truth), outcome))
        return dataclasses.replace(self, labels=labels, outcome=outcome, cases=tuple(changed))


def read_dataset(
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    image: str | None = None,
    patient: str | None = None,
    cue: str | None = None,
) -> Dataset:
    """Read labelled images.

    * A folder of class folders: one class is right per image. ``CLASS/images`` with ``CLASS/masks`` beside it is
      recognised, and so are folders ``train``, ``val`` and ``test`` with class folders in them.
    * A table (see `read_table`): one row per image, paths relative to the table. A column of names, such as ``label``,
      gives classes of which one is right. A column of lists of names (``Mass|Effusion``), and columns of 1, 0 and blank
      (unknown), give labels of which any number is right. Every other column can be named as a mask.
    * A study file: the images and the labels of the study.

    Args:
        path: folder, table or study file.
        labels: columns of a table, or labels of a study; none: ``label`` or ``class``, or else all columns of 1 and 0,
            or the only column of lists of names.
        image: column of images, or a template such as ``"{id}.png"``; None: recognised by its name (see `find_column`).
        patient: column of patients; None: recognised by its name.
        cue: column of a table, or cue or stratum of a study, whose cells become ``strata[cue]`` of the cases; such a
            column is no label unless ``labels`` names it.

    Raises:
        SettingError: a column or label that does not exist, several columns that could hold the images, patients or
            labels, or a split other than train, val and test.
        StudyError: a table or study file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        if labels or image or patient:
            raise SettingError(
                f"{path} is a folder of class folders, without columns: leave --label out, and --image and --patient"
            )
        if cue:
            raise SettingError(f"{path} is a folder of class folders, without the column {cue!r}: give a table")
        return _class_folders(path)
    if path.suffix.lower() == ".toml":
        return _study(path, labels, cue)
    return _table(path, labels, image, patient, cue)


def _class_folders(path: Path) -> Dataset:
    table, _ = read_table(str(path))
    labels = tuple(sorted({name for name in table["class"] if name}))
    if len(labels) < 2:
        held = f"one class, {labels[0]!r}" if labels else "no class"
        inner = f", or {path / labels[0]}, if the folders in it are the classes" if labels else ""
        raise SettingError(f"{path} holds {held}: give a folder with a folder for each class{inner}")
    rules = {name: LabelRule(column=name) for name in labels}
    masks = tuple(name for name in table.columns if name not in (*labels, "path", "class", "split", LINE))
    cohort = open_table(str(path), labels=rules, masks={name: {"from": name} for name in masks})
    return _of_cohort(cohort, path, labels, "one", masks)


def _study(path: Path, label_names: Sequence[str], cue: str | None) -> Dataset:
    study = Study.read(path)
    names = tuple(label_names) or tuple(study.file.labels)
    for name in names:
        if name not in study.file.labels:
            raise SettingError(f"{nearest('label', name, study.file.labels)} in {path}")
    sections = study.file.cohort
    if cue is not None and cue not in (*sections.cues, *sections.strata):
        raise SettingError(f"{nearest('cue or stratum', cue, [*sections.cues, *sections.strata])} in {path}")
    own_mask = ("label",) if len(names) == 1 and study.file.labels[names[0]].mask else ()
    with_mask = (name for name, section in sections.cues.items() if section.mask)
    mask_names = (*sections.masks, *with_mask, *own_mask)
    return _of_cohort(with_header_patients(study.cohort), path, names, "any", mask_names)


def _table(path: Path, label_names: Sequence[str], image: str | None, patient: str | None, cue: str | None) -> Dataset:
    table, _ = read_table(str(path))
    columns = [name for name in table.columns if name != LINE]
    for name in (*label_names, *([] if cue is None else [cue])):
        if name not in columns:
            raise SettingError(f"{nearest('column', name, columns)} in {path}")
    split = find_column(columns, "split", option="", table=str(path))
    taken = {image, patient, split, cue, *_recognised(columns, image, patient)}
    label_columns = tuple(label_names) or _label_columns(table, [c for c in columns if c not in taken], path)
    rules, outcome = _label_rules(table, label_columns, path)
    masks = [name for name in columns if name not in (*taken, *label_columns)]
    cohort = open_table(
        str(path),
        labels=rules,
        image=image,
        patient=patient,
        masks={name: {"from": name} for name in masks if name != "label"},
        strata=(cue,) if cue else (),
        split=split,
    )
    return _of_cohort(cohort, path, tuple(rules), outcome, tuple(masks))


def _recognised(columns: Sequence[str], image: str | None, patient: str | None) -> set[str | None]:
    """Return the columns of images and patients that are recognised by their names; several are none here."""
    found = set()
    for role, name in (("image", image), ("patient", patient)):
        with suppress(SettingError):
            found.add(find_column(columns, role, option="") if name is None else name)  # type: ignore[arg-type]
    return found


def _of_cohort(
    cohort: Cohort, path: Path, names: tuple[str, ...], outcome: Literal["one", "any"], masks: tuple[str, ...]
) -> Dataset:
    """Return the cases of a cohort for some of its labels; the mask of a lone label is called "label"."""
    mask_name = f"label:{names[0]}" if len(names) == 1 else ""
    cases = []
    for case in cohort.cases():
        problem = next((case.problems[name] for name in ("", *names) if name in case.problems), "")
        labelled_case = dataclasses.replace(
            case,
            patient=case.patient or case.image,
            truth={name: case.truth[name] for name in names},
            masks={
                "label" if name == mask_name else name.removeprefix("cue:"): cell for name, cell in case.masks.items()
            },
            strata={**case.strata, **{name: _cell(value) for name, value in case.cues.items()}},
            problems={"": problem} if problem else {},
        )
        cases.append(_with_problem(labelled_case, outcome))
    return Dataset(path, names, outcome, tuple(cases), masks)


def _cell(value: bool | None) -> str:  # noqa: FBT001
    return "" if value is None else str(int(value))


def _label_rules(
    table: pl.DataFrame, columns: Sequence[str], path: Path
) -> tuple[dict[str, LabelRule], Literal["one", "any"]]:
    """Return how each label is read, and whether one or any number of them is right."""
    if len(columns) > 1 or _is_truth(table[columns[0]]):
        return {name: LabelRule(column=name) for name in columns}, "any"
    (column,) = columns
    values, joined = values_of(table[column])
    if not joined and len(values) < 2:
        raise SettingError(f"{path} has one class in {column!r}, {', '.join(values) or 'none'}: it takes two")
    rules = {value: LabelRule(column=column, contains=(value,)) for value in values}
    return rules, "any" if joined else "one"


def _label_columns(table: pl.DataFrame, columns: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the columns that hold labels, if none was named."""
    class_column = find_column(columns, "class", option="--label", table=str(path))
    if class_column:
        return (class_column,)
    of_truth = tuple(c for c in columns if _is_truth(table[c]))
    of_lists = tuple(c for c in columns if _is_lists(table[c]))
    if not of_truth + of_lists:
        raise SettingError(f"{path} has no column of labels: name it with --label; columns are {', '.join(columns)}")
    if of_lists[1:] or (of_lists and of_truth):
        names = ", ".join([*(f"{name} (lists of names)" for name in of_lists), *(f"{c} (1 and 0)" for c in of_truth)])
        raise SettingError(f"{path} has several columns that could be labels: choose with --label from {names}")
    return of_truth or of_lists


def _is_lists(column: pl.Series) -> bool:
    """Return whether a column holds lists of names, which recur as those of files do not."""
    lists, joined = lists_of(column)
    names = [name for cell in column for name in lists.get(cell.strip(), ())]
    return joined and len(set(names)) < len(names) and all(re.search(r"[^\W\d_]", name) for name in names)


def _is_truth(column: pl.Series) -> bool:
    """Return whether a column holds truth values alone, such as 1, 0 and blank, and at least one of 1 and 0."""
    answers = [read_truth(cell) for cell in column.unique()]
    return any(value is not None for value, _ in answers) and not any(problem for _, problem in answers)


def _with_problem(case: Case, outcome: str) -> Case:
    """Return a case with what is wrong with its truth as its problem, unless it has one."""
    present = sum(value is True for value in case.truth.values())
    if case.problem:
        return case
    if all(value is None for value in case.truth.values()):
        return dataclasses.replace(case, problems={"": UNKNOWN})
    if outcome == "one" and present != 1:
        return dataclasses.replace(case, problems={"": f"{present} classes are right, where one must be"})
    return case


def truth_of(cases: Sequence[Case], labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return labels of some cases, (cases, labels): 1, 0, or NaN if unknown."""
    truths = [[case.truth[label] for label in labels] for case in cases]
    rows = [[math.nan if truth is None else float(truth) for truth in row] for row in truths]
    return np.array(rows, np.float64).reshape(len(cases), len(labels))
