"""Assign the cases of a cohort to training, validation and test set, by a column or by lists of images."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from camscope.cohort.columns import find_column, split_of
from camscope.cohort.locate import matches, places_of
from camscope.cohort.sections import Problem, SplitSource
from camscope.cohort.tables import LINE, SPLIT, decoded, located
from camscope.errors import CamscopeError, SettingError, StudyError
from camscope.images import fetch


def split_source(
    section_split: SplitSource | None, table: pl.DataFrame, path: str, notes: list[str]
) -> SplitSource | None:
    """Return the source of the splits: the setting, or else a column called "split" in which all words are known.

    Raises:
        StudyError: several columns could hold the splits, or lists are given although the table has a column "split".
    """
    if section_split is not None:
        if section_split.lists and section_split.name in table.columns:
            text = f"has a column {section_split.name!r}: leave cohort.split.lists out"
            raise StudyError([Problem(text, path, 1)])
        return section_split
    try:
        name = find_column(table.columns, "split", option="cohort.split")
    except SettingError as error:
        raise StudyError([Problem(str(error), path, 1)]) from None
    if name is None:
        return None
    if (odd := _odd(table[name], table[LINE], path)) is not None:
        notes.append(f"the column {name!r} assigns no image to a split: {odd}")
        return None
    return SplitSource(from_=name)


def with_split(table: pl.DataFrame, source: SplitSource, cells: pl.Series, path: str, notes: list[str]) -> pl.DataFrame:
    """Add the split of each row, "train", "val", "test" or "", as the columns `SPLIT` and, if it is new, "split".

    Args:
        table: the table.
        source: source of the splits.
        cells: the word of each row.
        path: path of the table, for errors.
        notes: remarks, to which the number of rows that a pattern misses is added.

    Raises:
        StudyError: a cell has another word.
    """
    if (odd := _odd(cells, table[LINE], path)) is not None:
        raise StudyError([odd])
    words = [split_of(cell) or "" for cell in cells]
    if source.pattern and (blank := words.count("")):
        notes.append(
            f"{blank} of {len(words)} images are in no split, the first in line {table[LINE][words.index('')]}"
        )
    columns = (SPLIT,) if "split" in table.columns else (SPLIT, "split")
    return table.with_columns(pl.Series(column, words, pl.String) for column in columns)


def notes_on_patients(patients: pl.Series, table: pl.DataFrame) -> list[str]:
    """Return a note if patients have images in several splits.

    Args:
        patients: patient of each row; "" if unknown.
        table: the table, with the column `SPLIT`.
    """
    seen: dict[str, tuple[str, int]] = {}
    shared: dict[str, str] = {}
    for patient, split, line in zip(patients, table[SPLIT], table[LINE], strict=True):
        if patient and split:
            other, first = seen.setdefault(patient, (split, line))
            if other != split:
                shared.setdefault(patient, f"line {first} is of {other}, line {line} of {split}")
    if not shared:
        return []
    where = next(iter(shared.values()))
    return [f"patients with images in several splits: {len(shared)} (of the first, {where}); results may be too good"]


def refuse_two_splits(table: pl.DataFrame, path: str) -> None:
    """Raise an error if the merged rows of one image are in different splits."""
    if (odd := _odd(table[SPLIT], table[LINE], path)) is not None:
        raise StudyError([odd])


def listed_splits(images: pl.Series, source: SplitSource, folder: str | Path, notes: list[str]) -> pl.Series:
    """Return the split of each image, from text files with one image per line.

    Args:
        images: path of each row's image; lists have the path or its end, with or without suffix.
        source: source of the splits, with lists.
        folder: folder or address to which the lists' paths are relative.
        notes: remarks, to which the images and names without a partner are added.

    Raises:
        StudyError: a list cannot be read, no image is in a list, an image is in two lists, or a name in a list is the
            end of several paths.
    """
    paths = [_path(image) for image in images]
    known = dict.fromkeys(filter(None, paths))
    places = places_of(known)
    splits: dict[str, str] = {}
    unknown: list[str] = []
    total = 0
    for split, files in source.lists.items():
        for file in files:
            for name in _names(file, folder):
                total += 1
                found = [name] if name in known else matches(name, places)
                if len(found) > 1:
                    text = f"{name!r} is the file name of {found[0]!r} and of {found[1]!r}: give their whole names"
                    raise StudyError([Problem(text, file)])
                image = found[0] if found else name
                unknown += [] if found else [name]
                if splits.setdefault(image, split) != split:
                    text = f"{image!r} is in the lists of {splits[image]} and of {split}"
                    raise StudyError([Problem(text, file)])
    if len(unknown) == total:
        text = f"no image is in a list: the first image is {images[0]!r}, the first of the lists {unknown[0]!r}"
        raise StudyError([Problem(text, next(iter(source.lists.values()))[0])])
    if unknown:
        notes.append(f"{len(unknown)} of {total} names in lists of splits fit no image, the first is {unknown[0]!r}")
    if missing := [image for image, path in zip(images, paths, strict=True) if path not in splits]:
        notes.append(f"{len(missing)} of {len(paths)} images are in no list of a split, the first is {missing[0]!r}")
    return pl.Series([splits.get(path, "") for path in paths], dtype=pl.String)


def _odd(cells: pl.Series, lines: pl.Series, path: str) -> Problem | None:
    """Return the problem of the first cell with an unknown word."""
    for cell, line in zip(cells, lines, strict=True):
        if split_of(cell) is None:
            return Problem(f"no split called {cell!r}; expected train, val, test or blank", path, line)
    return None


def _names(file: str, folder: str | Path) -> Sequence[str]:
    try:
        text = decoded(fetch(located(file, folder)))
    except CamscopeError as error:
        raise StudyError([Problem(f"the list cannot be read: {error}", file)]) from None
    names = [_path(line) for line in text.splitlines() if line.strip()]
    if not names:
        raise StudyError([Problem("the list is empty", file)])
    return names


def _path(name: str) -> str:
    """Return a path with slashes, without "./" and the like."""
    return posixpath.normpath(name.strip().replace("\\", "/")) if name.strip() else ""
