"""Labelled images, read as examples from a folder of class folders, a table or a study file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from camscope.cohort.tables import LINE, located, read_table
from camscope.errors import SettingError, nearest
from camscope.models.model import Model
from camscope.study.cohort import read_truth
from camscope.study.study import Study

SPLITS = ("train", "val", "test")
IMAGE, PATIENT, SPLIT, CLASS = (
    ("path", "image", "file", "filename"),
    ("patient_id", "patient", "subject"),
    ("split",),
    ("label", "class"),
)
"""Column names that are recognised without options, in order of preference."""

UNKNOWN = "its label is unknown"

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    "": "",
}

Row = Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """An image with known labels.

    Attributes:
        name: name in the table or folder.
        source: path or address that the image is read from.
        patient: patient of the image; without a column of patients, each image is its own patient.
        truth: for each label 1, 0, or NaN if unknown.
        split: "train", "val" or "test"; "" for none.
        masks: name -> cell with a mask file, boxes or run lengths (`read_annotation`); only those that are given.
        sha256: of the file; "" before it has been read.
        problem: why the image cannot be used, one sentence; "" if it can.
    """

    name: str
    source: str
    patient: str
    truth: tuple[float, ...]
    split: str = ""
    masks: Row = field(default_factory=dict)
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Dataset:
    """Examples of the same labels.

    Attributes:
        path: folder, table or study file that was read.
        root: folder that the paths of masks are relative to.
        labels: names, in the order of each example's truth.
        outcome: "one" of the labels is right, or "any" number of them.
        examples: all examples, including those that cannot be used.
        masks: names that masks can have.
    """

    path: Path
    root: str
    labels: tuple[str, ...]
    outcome: Literal["one", "any"]
    examples: tuple[Example, ...] = field(repr=False)
    masks: tuple[str, ...] = ()

    @property
    def problems(self) -> dict[str, str]:
        """Return the problems of examples, by name; an unknown label is no problem."""
        return {example.name: example.problem for example in self.examples if example.problem not in ("", UNKNOWN)}

    @property
    def usable(self) -> tuple[Example, ...]:
        """Return the examples without a problem."""
        return tuple(example for example in self.examples if not example.problem)

    def of(self, split: str) -> tuple[Example, ...]:
        """Return the usable examples of a split."""
        return tuple(example for example in self.usable if example.split == split)

    def only(self, label: str) -> Dataset:
        """Return the same images for one label, present or absent."""
        column = self.labels.index(label)
        return self._of_columns([column], (label,), "any")

    def for_model(self, model: Model) -> Dataset:
        """Return the same images with the labels of a model, in its order.

        Raises:
            SettingError: the model has no labels, or lacks a class of the data where one class is right; or the data
                lack a label of the model where any number is right.
        """
        if not model.labels:
            raise SettingError(f"{model.name} has no class names: make a bundle with --labels first")
        wanted = {name.strip().lower(): name for name in model.labels}
        have = {name.strip().lower(): n for n, name in enumerate(self.labels)}
        one = model.outcome == "one"
        unknown = [self.labels[n] for name, n in have.items() if name not in wanted]
        missing = [name for low, name in wanted.items() if low not in have]
        if (one and unknown) or len(missing) == len(wanted) or (not one and missing):
            odd, known = (unknown[0], model.labels) if one and unknown else (missing[0], self.labels)
            whose = model.name if one and unknown else str(self.path)
            raise SettingError(f"{whose}: {nearest('class', odd, known)}")
        return self._of_columns([have.get(low, -1) for low in wanted], model.labels, "one" if one else "any")

    def _of_columns(self, columns: Sequence[int], labels: tuple[str, ...], outcome: Literal["one", "any"]) -> Dataset:
        """Return the dataset with the given columns as labels; -1 is a label that no image has."""
        changed = []
        for example in self.examples:
            truth = tuple(0.0 if column < 0 else example.truth[column] for column in columns)
            problem = example.problem or _truth_problem(truth, outcome)
            changed.append(dataclasses.replace(example, truth=truth, problem=problem))
        return dataclasses.replace(self, labels=labels, outcome=outcome, examples=tuple(changed))


def read_dataset(path: str | Path, *, labels: Sequence[str] = (), patient: str | None = None) -> Dataset:
    """Read labelled images.

    * A folder of class folders: one class is right per image. ``CLASS/images`` with ``CLASS/masks`` beside it is
      recognised, and so are folders ``train``, ``val`` and ``test`` with class folders in them.
    * A table (CSV, TSV, Parquet): one row per image, paths relative to the table. A column of names, such as ``label``,
      gives classes of which one is right. Columns of 1, 0 and blank (unknown) give labels of which any number is right.
      Every other column can be named as a mask.
    * A study file: the images and the labels of the study.

    Args:
        path: folder, table or study file.
        labels: columns of a table, or labels of a study; none: ``label`` or ``class``, or else all columns of 1 and 0.
        patient: column of patients; None: ``patient_id``, ``patient`` or ``subject`` if the table has one.

    Raises:
        SettingError: a column or label that does not exist, or a split other than train, val and test.
        StudyError: a table or study file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        if labels or patient:
            raise SettingError(f"{path} is a folder of class folders, which has no columns: leave --label out")
        return _class_folders(path)
    if path.suffix.lower() == ".toml":
        return _study(path, labels)
    return _table(path, labels, patient)


def _class_folders(path: Path) -> Dataset:
    parts = {found.name: split for found in sorted(path.iterdir()) if (split := _SPLIT_NAMES.get(found.name.lower()))}
    rows = []
    for name, split in (parts or {"": ""}).items():
        table, _ = read_table(str(path / name))
        rows += [(str(Path(name, row["path"])), split, row) for row in table.iter_rows(named=True)]
    labels = tuple(sorted({row["class"] for _, _, row in rows}))
    if len(labels) < 2:
        raise SettingError(f"{path} holds one class, {labels[0]!r}: give a folder with a folder for each class")
    examples = []
    for name, split, row in rows:
        truth = tuple(float(label == row["class"]) for label in labels)
        folder = name.removesuffix(row["path"])
        masks = {"mask": str(Path(folder, row["mask"]))} if row["mask"] else {}
        examples.append(Example(name, str(path / name), name, truth, split, masks))
    return Dataset(path, str(path), labels, "one", tuple(examples), ("mask",))


def _study(path: Path, wanted: Sequence[str]) -> Dataset:
    study = Study.read(path)
    names = tuple(wanted) or tuple(study.file.labels)
    for name in names:
        if name not in study.file.labels:
            raise SettingError(f"{nearest('label', name, study.file.labels)} in {path}")
    own = f"label:{names[0]}" if len(names) == 1 else ""
    examples = []
    for case in study.cohort.cases():
        truth = tuple(_number(case.truth[name]) for name in names)
        masks = {"label" if name == own else name.removeprefix("cue:"): cell for name, cell in case.masks.items()}
        problem = next((case.problems[name] for name in ("", *names) if name in case.problems), "")
        problem = problem or _truth_problem(truth, "any")
        examples.append(
            Example(case.image, case.source, case.patient or case.image, truth, masks=masks, problem=problem)
        )
    cohort = study.file.cohort
    own_mask = ("label",) if len(names) == 1 and study.file.labels[names[0]].mask else ()
    masks_known = (*cohort.masks, *(name for name, cue in cohort.cues.items() if cue.mask), *own_mask)
    return Dataset(path, str(study.cohort.root), names, "any", tuple(examples), masks_known)


def _table(path: Path, wanted: Sequence[str], patient: str | None) -> Dataset:
    table, ragged = read_table(str(path))
    columns = [name for name in table.columns if name != LINE]
    for name in (*wanted, *([patient] if patient else [])):
        if name not in columns:
            raise SettingError(f"{nearest('column', name, columns)} in {path}")
    image = _first(IMAGE, columns)
    if image is None:
        raise SettingError(f"{path} has no column of pictures: call it one of {', '.join(IMAGE)}")
    patient = patient or _first(PATIENT, columns)
    split = _first(SPLIT, columns)
    named = tuple(wanted) or _label_columns(table, [c for c in columns if c not in (image, patient, split)], path)
    one = len(named) == 1 and not _is_truth(table[named[0]])
    labels = tuple(sorted({cell.strip() for cell in table[named[0]]} - {""})) if one else named
    if one and len(labels) < 2:
        raise SettingError(f"{path} has one class in {named[0]!r}, {', '.join(labels) or 'none'}: it takes two")
    others = [c for c in columns if c not in (image, patient, split, *named)]
    root = str(path.parent)
    examples = []
    for number, row in enumerate(table.iter_rows(named=True)):
        truth, problem = _truth(row, named, labels, one=one)
        problem = ragged.get(number, "") or _row_problem(row, image, patient) or problem
        name = row[image].strip()
        examples.append(
            Example(
                name,
                located(name, root),
                row[patient].strip() if patient else name,
                truth,
                _split_of(row[split], path, row[LINE]) if split else "",
                {c: row[c].strip() for c in others if row[c].strip()},
                problem=problem or _truth_problem(truth, "one" if one else "any"),
            )
        )
    return Dataset(path, root, labels, "one" if one else "any", tuple(examples), tuple(others))


def _label_columns(table: pl.DataFrame, columns: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the columns that hold labels, if none was named."""
    known = _first(CLASS, columns)
    found = (known,) if known else tuple(c for c in columns if _is_truth(table[c]))
    if not found:
        raise SettingError(f"{path} has no column of labels: name it with --label; columns are {', '.join(columns)}")
    return found


def _is_truth(column: pl.Series) -> bool:
    """Return whether a column holds only truth values, such as 1, 0 and blank, and no other names or numbers."""
    cells = {cell.strip() for cell in column}
    return bool(cells - {""}) and not any(read_truth(cell)[1] for cell in cells)


def _truth(row: Row, named: Sequence[str], labels: Sequence[str], *, one: bool) -> tuple[tuple[float, ...], str]:
    if one:
        cell = row[named[0]].strip()
        return tuple(float(cell == label) if cell else math.nan for label in labels), ""
    read = [read_truth(row[column]) for column in named]
    problems = [f"{column} = {text}" for column, (_, text) in zip(named, read, strict=True) if text]
    return tuple(_number(value) for value, _ in read), "; ".join(problems)


def _truth_problem(truth: Sequence[float], outcome: str) -> str:
    if all(math.isnan(value) for value in truth):
        return UNKNOWN
    if outcome == "one" and sum(truth) != 1:
        return f"{sum(value == 1 for value in truth)} classes are right, where one must be"
    return ""


def _row_problem(row: Row, image: str, patient: str | None) -> str:
    if not row[image].strip():
        return f"{image} is blank: name the picture file"
    if patient and not row[patient].strip():
        return f"{patient} is blank: name the patient"
    return ""


def _split_of(cell: str, path: Path, line: object) -> str:
    name = cell.strip().lower()
    if name not in _SPLIT_NAMES:
        raise SettingError(f"{path}:{line}: no split called {cell!r}; possible are train, val, test and blank")
    return _SPLIT_NAMES[name]


def _number(there: bool | None) -> float:  # noqa: FBT001
    return math.nan if there is None else float(there)


def _first(names: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)
