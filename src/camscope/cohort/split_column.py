"""Assign the cases of a cohort to training, validation and test set, by a column or by lists of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from camscope.cohort.columns import find_column
from camscope.cohort.sections import Problem, SplitSource, TextSource
from camscope.cohort.sources import texts
from camscope.cohort.tables import LINE, SPLIT, located
from camscope.errors import CamscopeError, SettingError, StudyError
from camscope.images import fetch

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    "": "",
}
"""Word in lower case -> "train", "val", "test" or ""."""


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


def with_split(
    table: pl.DataFrame, source: SplitSource, image: TextSource, folder: str | Path, path: str, notes: list[str]
) -> pl.DataFrame:
    """Add the split of each row, "train", "val", "test" or "", as the columns `SPLIT` and, if it is new, "split".

    Lists are text files with one image per line, by its name or its file name.

    Raises:
        StudyError: a cell has another word; or a list cannot be read, no image is in a list, an image is in two lists,
            or a name in a list is the file name of several images.
    """
    if source.lists:
        cells = pl.Series(_listed(texts(table, image), source, folder, notes), dtype=pl.String)
    else:
        cells = texts(table, source)
    if (odd := _odd(cells, table[LINE], path)) is not None:
        raise StudyError([odd])
    words = [SPLIT_WORDS[_plain(cell)] for cell in cells]
    if source.pattern and (blank := words.count("")):
        notes.append(
            f"{blank} of {len(words)} images are in no split, the first in line {table[LINE][words.index('')]}"
        )
    columns = (SPLIT,) if "split" in table.columns else (SPLIT, "split")
    return table.with_columns(pl.Series(column, words, pl.String) for column in columns)


def refuse_two_splits(table: pl.DataFrame, path: str) -> None:
    """Raise an error if the merged rows of one image are in different splits."""
    if (odd := _odd(table[SPLIT], table[LINE], path)) is not None:
        raise StudyError([odd])


def _listed(images: pl.Series, source: SplitSource, folder: str | Path, notes: list[str]) -> list[str]:
    """Return the split of each image, from lists of images."""
    first = next(iter(source.lists.values()))[0]
    splits: dict[str, str] = {}
    for split, files in source.lists.items():
        for file in files:
            for name in _names(file, folder):
                if splits.setdefault(name, split) != split:
                    raise StudyError([Problem(f"{name!r} is in the lists of {splits[name]} and of {split}", file)])
    bases: dict[str, str] = {}
    for name in images:
        if name not in splits and bases.setdefault(_base(name), name) != name and _base(name) in splits:
            text = f"{_base(name)!r} is the file name of {bases[_base(name)]!r} and of {name!r}: give their whole names"
            raise StudyError([Problem(text, first)])
    cells = [splits.get(name) or splits.get(_base(name), "") for name in images]
    if not any(cells):
        text = f"no image is in a list: the first image is {images[0]!r}, the first of the lists {next(iter(splits))!r}"
        raise StudyError([Problem(text, first)])
    if missing := [name for name, cell in zip(images, cells, strict=True) if not cell]:
        notes.append(f"{len(missing)} of {len(cells)} images are in no list of a split, the first is {missing[0]!r}")
    return cells


def _odd(cells: pl.Series, lines: pl.Series, path: str) -> Problem | None:
    """Return the problem of the first cell with an unknown word."""
    for cell, line in zip(cells, lines, strict=True):
        if _plain(cell) not in SPLIT_WORDS:
            return Problem(f"no split called {cell!r}; expected train, val, test or blank", path, line)
    return None


def _names(file: str, folder: str | Path) -> Sequence[str]:
    try:
        text = fetch(located(file, folder)).decode("utf-8-sig", "replace")
    except CamscopeError as error:
        raise StudyError([Problem(f"the list cannot be read: {error}", file)]) from None
    names = [name for line in text.splitlines() if (name := line.strip())]
    if not names:
        raise StudyError([Problem("the list is empty", file)])
    return names


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _plain(cell: str) -> str:
    return cell.strip().lower()
