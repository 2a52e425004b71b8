"""The cohort: a table read once, and one case for each of its rows."""

from __future__ import annotations

import copy
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.case import Case
from camscope.cohort.columns import find_column, image_column
from camscope.cohort.tables import CASE, FAULT, LINE, NAME, located, read_table
from camscope.errors import SettingError, StudyError, TableError, nearest
from camscope.images.source import is_address
from camscope.naming import fingerprint, unique_file_name
from camscope.study.config import Problem, StudyFile
from camscope.study.overlay_paths import picture_name

_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": None}
_UNCERTAIN = {"-1", "-1.0"}

_ODD = 0.2  # a column that differs within more of the patients than this is meant to


class Cohort:
    """The rows of a table as cases; they are made when asked for, so that large tables stay small in memory.

    A case needs its own row alone, so that a part of a cohort can be explained elsewhere.

    Args:
        file: the study file; columns of images and patients that it does not name are found by their names.
        folder: where the study file lies: relative paths start there.

    Attributes:
        path: of the table.
        root: where the images' paths start.
        image: name of the column with the images.
        table: the columns that the study names, and what is known of each row.
        missing: columns that the study names and the table lacks; they read as blank.

    Raises:
        StudyError: the table cannot be read.
    """

    def __init__(self, file: StudyFile, folder: Path) -> None:
        self.file = file
        self.path = located(file.cohort.table, folder)
        self.root = located(file.cohort.root, folder)
        try:
            table, ragged = read_table(self.path)
        except TableError as error:
            raise StudyError([Problem(error.text, error.path, error.line)]) from None
        if os.path.isdir(self.path):  # noqa: PTH112  as in read_table
            self.root = self.path
        self.image, patient = _recognised_columns(file, table.columns, self.path)
        if file.cohort.patient is None and patient and (table[patient].str.strip_chars() == "").all():
            patient = None  # headers may know more than an empty column
        columns = {"image": self.image, "patient": patient}
        self.file = file = file.model_copy(update={"cohort": file.cohort.model_copy(update=columns)})
        self.missing = _missing_columns(file, table.columns, self.path)
        column_names = list(dict.fromkeys(_columns(file)))
        blank = [pl.lit("").alias(column) for column in column_names if column not in table.columns]
        self.table = table.with_columns(blank).select([LINE, *column_names]).with_row_index(CASE)
        faults = self._repeated() | self._blank() | ragged
        names = self._image_names()
        self.table = self.table.with_columns(
            pl.Series(FAULT, [faults.get(row) for row in range(len(table))], pl.String),
            pl.Series(NAME, [names.get(row) for row in range(len(table))], pl.String),
        )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def content(self) -> pl.DataFrame:
        """Return what the table itself says, without what was found out about it."""
        return self.table.drop(CASE, FAULT, NAME)

    def part(self, table: pl.DataFrame) -> Cohort:
        """This cohort with some rows of its table, wherever the process works that explains them."""
        part = copy.copy(self)
        part.table = table
        part.root = self.root if is_address(self.root) else os.path.abspath(self.root)  # noqa: PTH100  may be long
        return part

    def cases(self, rows: Iterable[int] | None = None) -> Iterator[Case]:
        """Yield the cases of some rows of the table, or of all, in that order."""
        for row in range(len(self)) if rows is None else rows:
            yield self._case(self.table.row(row, named=True))

    def problems(self) -> list[Problem]:
        """Return what is wrong with rows, not with the study as a whole, by line."""
        name, problems = self.path, []
        for case in self.cases():
            problems += [Problem(text, name, case.line, fatal=False) for text in dict.fromkeys(case.problems.values())]
        positives = dict.fromkeys(self.file.labels, False)
        for case in self.cases():
            for label, present in case.truth.items():
                positives[label] |= bool(present)
        problems += [
            Problem(f"label {label!r} has no positive case", name, fatal=False)
            for label, positive in positives.items()
            if not positive
        ]
        return problems + self._shared_images() + self._conflicts()

    def _case(self, cells: dict[str, Any]) -> Case:
        cohort = self.file.cohort
        image = cells[self.image].strip()
        problems = {"": text} if (text := cells[FAULT]) else {}
        truth: dict[str, bool | None] = {}
        masks = {name: cell for name, column in cohort.masks.items() if (cell := cells[column].strip())}
        for label, section in self.file.labels.items():
            truth[label], text = read_truth(cells[section.column], uncertain=section.uncertain)
            if text:
                problems[label] = f"{section.column} = {text}"
            if section.mask and (cell := cells[section.mask].strip()):
                masks[f"label:{label}"] = cell
        cues: dict[str, bool | None] = {}
        for name, cue in cohort.cues.items():
            cues[name], text = read_truth(cells[cue.column])
            if text:
                problems.setdefault("", f"{cue.column} = {text}")
            if cue.mask and (cell := cells[cue.mask].strip()):
                masks[f"cue:{name}"] = cell
        return Case(
            number=cells[CASE],
            line=cells[LINE],
            image=image,
            source=located(image, self.root),
            patient=cells[cohort.patient].strip() if cohort.patient else "",
            group=tuple(cells[column].strip() for column in cohort.group),
            name=cells[NAME] or unique_file_name(_stem(image)),
            truth=truth,
            masks=masks,
            root=str(self.root),
            cues=cues,
            strata={column: cells[column].strip() for column in cohort.strata},
            problems=problems,
        )

    def _blank(self) -> dict[int, str]:
        """Return the rows without an image or patient -> what is missing."""
        cohort = self.file.cohort
        faults: dict[int, str] = {}
        for column, what in ((cohort.patient, "patient"), (self.image, "image file")):
            if column:
                rows = (self.table[column].str.strip_chars() == "").arg_true()
                faults |= dict.fromkeys(rows, f"{column} is blank: name the {what}")
        return faults

    def _repeated(self) -> dict[int, str]:
        """Return the rows that repeat an earlier row's image and patient -> which."""
        cohort, lines = self.file.cohort, self.table[LINE]
        first = _first_of_each(self._trimmed(self.image), self._trimmed(cohort.patient))
        return {
            row: f"the same image and patient as line {lines[original]}: a case counts once"
            for row, original in first.items()
        }

    def _trimmed(self, column: str | None) -> list[str]:
        return self.table[column].str.strip_chars().to_list() if column else [""] * len(self.table)

    def _image_names(self) -> dict[int, str]:
        """Return names for the images whose files' own names would give the overlays of several cases one name."""
        cohort, pattern = self.file.cohort, self.file.explain.files
        if not pattern:
            return {}
        images, patients = self._trimmed(self.image), self._trimmed(cohort.patient)
        groups = list(zip(*map(self._trimmed, cohort.group), strict=True)) or [()] * len(images)
        if not cohort.patient:
            # Each image is a patient of its own, unless its header says whose it is.
            pattern = "{image}"
        names = [unique_file_name(_stem(image)) for image in images]
        places = [
            fingerprint(
                picture_name(pattern, group=group, patient=patient, image=name, method="", label="", model="").lower()
            )
            for name, patient, group in zip(names, patients, groups, strict=True)
        ]
        count = Counter(places)
        return {row: f"{names[row]}-{fingerprint(images[row])}" for row, place in enumerate(places) if count[place] > 1}

    def _shared_images(self) -> list[Problem]:
        """Images that several patients are said to have."""
        cohort = self.file.cohort
        if not cohort.patient:
            return []
        lines: dict[str, dict[str, int]] = defaultdict(dict)
        images, patients = self._trimmed(self.image), self._trimmed(cohort.patient)
        for image, patient, line in zip(images, patients, self.table[LINE], strict=True):
            if image and patient:
                lines[image].setdefault(patient, line)
        return [
            Problem(
                f"image {image!r} stands for {len(owners)} patients: {', '.join(map(repr, owners))}",
                self.path,
                line,
                fatal=False,
            )
            for image, owners in lines.items()
            if len(owners) > 1
            for line in [max(owners.values())]
        ]

    def _conflicts(self) -> list[Problem]:
        """Patients with several values in a column that has one value for nearly every patient, such as the sex."""
        cohort = self.file.cohort
        if not cohort.patient:
            return []
        problems = []
        patients, lines = self._trimmed(cohort.patient), self.table[LINE].to_list()
        for column in dict.fromkeys((*cohort.group, *cohort.strata)):
            values: dict[str, list[str]] = defaultdict(list)
            deviates: dict[str, int] = {}
            for patient, value, line in zip(patients, self._trimmed(column), lines, strict=True):
                if value and patient:
                    values[patient].append(value)
                    if value != values[patient][0]:
                        deviates.setdefault(patient, line)
            several = [patient for patient, entries in values.items() if len(entries) > 1]
            if len(deviates) <= max(1, _ODD * len(several)):
                problems += [
                    Problem(
                        f"patient {patient!r} has several values of {column}: "
                        f"{', '.join(map(repr, dict.fromkeys(values[patient])))}",
                        self.path,
                        line,
                        fatal=False,
                    )
                    for patient, line in deviates.items()
                ]
        return problems


def read_truth(cell: str, *, uncertain: str = "drop") -> tuple[bool | None, str]:
    """Return what a cell of a label says: 1, 0, blank (unknown) or -1 (uncertain), and what is wrong with it.

    >>> read_truth("1"), read_truth(""), read_truth("-1", uncertain="positive"), read_truth("maybe")
    ((True, ''), (None, ''), (True, ''), (None, "'maybe': expected 1, 0, -1 or blank"))
    """
    value = cell.strip().lower()
    if value in _UNCERTAIN:
        return {"drop": None, "positive": True, "negative": False}[uncertain], ""
    if value in _TRUTH:
        return _TRUTH[value], ""
    return None, f"{cell.strip()!r}: expected 1, 0, -1 or blank"


def _recognised_columns(file: StudyFile, columns: Sequence[str], path: str) -> tuple[str, str | None]:
    """Return the columns of images and patients, found by their names where the study file does not name them.

    Raises:
        StudyError: several columns could be one of them, or none is recognised as that of the images.
    """
    names, cohort = [column for column in columns if column != LINE], file.cohort
    try:
        image = cohort.image or image_column(names, option="cohort.image")
        patient = cohort.patient or find_column(names, "patient", option="cohort.patient")
    except SettingError as error:
        raise StudyError([Problem(str(error), path, 1)]) from None
    return image, patient


def _columns(file: StudyFile) -> Iterator[str]:
    return (column for _, column in _named(file))


def _named(file: StudyFile) -> Iterator[tuple[str, str]]:
    """Yield each column that the study names, with the setting that names it."""
    cohort = file.cohort
    yield "cohort.image", cohort.image or ""
    if cohort.patient:
        yield "cohort.patient", cohort.patient
    for column in cohort.group:
        yield "cohort.group", column
    for column in cohort.strata:
        yield "cohort.strata", column
    for name, column in cohort.masks.items():
        yield f"cohort.masks.{name}", column
    for name, cue in cohort.cues.items():
        yield f"cohort.cues.{name}", cue.column
        if cue.mask:
            yield f"cohort.cues.{name}.mask", cue.mask
    for label, section in file.labels.items():
        yield f"labels.{label}.column", section.column
        if section.mask:
            yield f"labels.{label}.mask", section.mask


def _missing_columns(file: StudyFile, columns: list[str], name: str) -> list[Problem]:
    names = [column for column in columns if column != LINE]
    return [
        Problem(f"{nearest('column', column, names)} ({setting} names it)", name, 1)
        for setting, column in _named(file)
        if column not in names
    ]


def _first_of_each(images: list[str], patients: list[str]) -> dict[int, int]:
    """Return the rows that repeat an earlier row's image and patient -> that row."""
    first_rows: dict[tuple[str, str], int] = {}
    repeated = {}
    for row, pair in enumerate(zip(images, patients, strict=True)):
        if pair[0] and first_rows.setdefault(pair, row) != row:
            repeated[row] = first_rows[pair]
    return repeated


def _stem(image: str) -> str:
    """Return a file's name without folders and suffix: "a/b.png" -> "b", "c.dcm#3" -> "c"."""
    name = image.replace("\\", "/").rsplit("/", 1)[-1]
    return name.rpartition(".")[0] or name
