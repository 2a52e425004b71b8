"""Read the tables of a cohort once, and provide one case per row."""

from __future__ import annotations

import copy
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.assemble import assemble
from camscope.cohort.case import Case
from camscope.cohort.locate import Missing, missing_images
from camscope.cohort.overlay_paths import picture_name
from camscope.cohort.sections import CohortSection, LabelRule, Problem
from camscope.cohort.tables import CASE, FAULT, LINE, NAME, SPLIT, located
from camscope.cohort.truth import read_truth
from camscope.images.source import is_address
from camscope.naming import fingerprint, unique_file_name

_HEADER = "patient of the header"
_ODD = 0.2  # above this share of patients with several values, a column may differ within patients


class Cohort:
    """The cases of a cohort, created on demand to save memory.

    A case depends only on its own row, so parts of a cohort can be explained on other machines.

    Args:
        section: settings of the cohort.
        labels: label -> rule for reading it.
        folder: folder or address to which paths are relative.
        files: pattern of the paths of overlays, which must be unique; "" for no overlays.
        options: options that name the columns of images and patients, for errors.
        repeats: whether several rows may have the same image and patient.

    Attributes:
        path: path of the table.
        root: folder to which the paths of images are relative.
        section: settings of the cohort, with the recognised columns of images and patients.
        labels: label -> rule for reading it.
        table: the columns from which cases are created.
        missing: columns that settings name but no table has; they are read as blank.
        notes: remarks, such as rows that were left out.

    Raises:
        StudyError: a table cannot be read or joined.
    """

    def __init__(
        self,
        section: CohortSection,
        labels: Mapping[str, LabelRule],
        folder: str | Path,
        *,
        files: str = "",
        options: tuple[str, str] = ("cohort.image", "cohort.patient"),
        repeats: bool = False,
    ) -> None:
        content = assemble(section, labels, folder, options=options)
        self.labels, self.path, self.root = dict(labels), content.path, content.root
        self.missing, self.notes = list(content.missing), content.notes
        self._image, self._patient = content.image.name, content.patient.name if content.patient else None
        self._labels, self._masks, self._cues = content.labels, content.masks, content.cues
        self.section = section.model_copy(update={"image": content.image, "patient": content.patient})
        columns = [self._image, *([self._patient] if self._patient else []), *section.group, *section.strata]
        columns += [*content.labels.values(), *content.masks.values(), *content.cues.values()]
        columns += [SPLIT] if SPLIT in content.table.columns else []
        self.table = content.table.select([LINE, FAULT, *dict.fromkeys(columns)]).with_row_index(CASE)
        faults = ({} if repeats else self._repeated()) | self._blank()
        names = self._image_names(files)
        size = range(len(self.table))
        self.table = self.table.with_columns(
            pl.coalesce(pl.col(FAULT), pl.Series([faults.get(row) for row in size], dtype=pl.String)).alias(FAULT),
            pl.Series(NAME, [names.get(row) for row in size], pl.String),
        )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def patients(self) -> bool:
        """Return whether the patients are known."""
        return self._patient is not None

    @property
    def content(self) -> pl.DataFrame:
        """Return the columns of the tables, without added columns."""
        return self.table.drop(CASE, FAULT, NAME, SPLIT, strict=False)

    def with_patients(self, names: Sequence[str]) -> Cohort:
        """Return this cohort with the given patient of each row; "" is unknown."""
        cohort = copy.copy(self)
        column = pl.Series(
            _HEADER, [name or image for name, image in zip(names, self._trimmed(self._image), strict=True)]
        )
        cohort.table, cohort._patient = self.table.with_columns(column), _HEADER
        return cohort

    def part(self, table: pl.DataFrame) -> Cohort:
        """Return this cohort with some rows of its table; paths become absolute, for processes in other folders."""
        part = copy.copy(self)
        part.table = table
        part.root = self.root if is_address(self.root) else os.path.abspath(self.root)  # noqa: PTH100  may be long
        return part

    def cases(self, rows: Iterable[int] | None = None) -> Iterator[Case]:
        """Yield the cases of all rows, or of the given rows in their order."""
        for row in range(len(self)) if rows is None else rows:
            yield self._case(self.table.row(row, named=True))

    def missing_images(self) -> Missing | None:
        """Return the missing images, with a suggestion how to find them; None if no image is missing."""
        images = dict.fromkeys(filter(None, self._trimmed(self._image)))
        return missing_images({image: located(image, self.root) for image in images}, self.root)

    def problems(self) -> list[Problem]:
        """Return the problems of single rows, sorted by line."""
        name, problems = self.path, []
        for case in self.cases():
            problems += [Problem(text, name, case.line, fatal=False) for text in dict.fromkeys(case.problems.values())]
        positives = {name: rule.column is None for name, rule in self.labels.items()}
        for case in self.cases():
            for label, present in case.truth.items():
                positives[label] |= bool(present)
        problems += [
            Problem(f"label {label!r} has no positive case", name, fatal=False)
            for label, positive in positives.items()
            if not positive
        ]
        return problems + self.shared_images() + self._conflicts()

    def _case(self, cells: dict[str, Any]) -> Case:
        image = cells[self._image].strip()
        problems = {"": text} if (text := cells[FAULT]) else {}
        truth: dict[str, bool | None] = {}
        for label, rule in self.labels.items():
            truth[label], text = read_truth(cells[self._labels[label]], uncertain=rule.uncertain)
            if text:
                problems[label] = f"{rule.column} = {text}"
        cues: dict[str, bool | None] = {}
        for name, column in self._cues.items():
            cues[name], text = read_truth(cells[column])
            if text:
                problems.setdefault("", f"{self.section.cues[name].column} = {text}")
        return Case(
            number=cells[CASE],
            line=cells[LINE],
            image=image,
            source=located(image, self.root),
            patient=cells[self._patient].strip() if self._patient else "",
            group=tuple(cells[column].strip() for column in self.section.group),
            name=cells[NAME] or unique_file_name(_stem(image)),
            truth=truth,
            masks={name: cell for name, column in self._masks.items() if (cell := cells[column].strip())},
            root=str(self.root),
            cues=cues,
            strata={column: cells[column].strip() for column in self.section.strata},
            split=cells.get(SPLIT, ""),
            problems=problems,
        )

    def _blank(self) -> dict[int, str]:
        """Return row -> problem, for rows without an image or patient."""
        faults: dict[int, str] = {}
        for column, what in ((self._patient, "patient"), (self._image, "image file")):
            if column:
                rows = (self.table[column].str.strip_chars() == "").arg_true()
                faults |= dict.fromkeys(rows, f"{column} is blank: name the {what}")
        return faults

    def _repeated(self) -> dict[int, str]:
        """Return row -> problem, for rows with the same image and patient as an earlier row."""
        lines = self.table[LINE]
        first = _first_of_each(self._normal_images(), self._trimmed(self._patient))
        return {
            row: f"the same image and patient as line {lines[original]}: a case counts once, unless votes defines "
            "how its rows are merged"
            for row, original in first.items()
        }

    def alike_patients(self) -> list[tuple[str, ...]]:
        """Return the names of patients that may be those of one patient: "P1" and "p1"; "7", "07" and "7.0"."""
        spellings: dict[str, set[str]] = defaultdict(set)
        for name in dict.fromkeys(filter(None, self._trimmed(self._patient))):
            spellings[re.sub(r"^0+(?=\d)|(?<=\d)\.0+$|\s", "", name).casefold()].add(name)
        return [tuple(sorted(names)) for names in spellings.values() if len(names) > 1]

    def _normal_images(self) -> list[str]:
        """Return the paths of the images as the tables have them, without parts such as "./"."""
        return [image and posixpath.normpath(image) for image in self._trimmed(self._image)]

    def _trimmed(self, column: str | None) -> list[str]:
        return self.table[column].str.strip_chars().to_list() if column else [""] * len(self.table)

    def _image_names(self, pattern: str) -> dict[int, str]:
        """Return unique names for images whose file names would give several overlays the same name."""
        if not pattern:
            return {}
        images, patients = self._trimmed(self._image), self._trimmed(self._patient)
        groups = list(zip(*map(self._trimmed, self.section.group), strict=True)) or [()] * len(images)
        if not self._patient:
            # Each image counts as a separate patient, unless its header has the patient.
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

    def shared_images(self) -> list[Problem]:
        """Return images with several patients."""
        if not self._patient:
            return []
        lines: dict[str, dict[str, int]] = defaultdict(dict)
        patients = self._trimmed(self._patient)
        for image, patient, line in zip(self._normal_images(), patients, self.table[LINE], strict=True):
            if image and patient:
                lines[image].setdefault(patient, line)
        return [
            Problem(
                f"image {image!r} has {len(owners)} patients: {', '.join(map(repr, owners))}",
                self.path,
                line,
                fatal=False,
            )
            for image, owners in lines.items()
            if len(owners) > 1
            for line in [max(owners.values())]
        ]

    def _conflicts(self) -> list[Problem]:
        """Return patients with several values in a column that is constant for most patients, such as the sex."""
        if not self._patient:
            return []
        problems = []
        patients, lines = self._trimmed(self._patient), self.table[LINE].to_list()
        for column in dict.fromkeys((*self.section.group, *self.section.strata)):
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


def _first_of_each(images: list[str], patients: list[str]) -> dict[int, int]:
    """Return row -> earlier row with the same image and patient."""
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
