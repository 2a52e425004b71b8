"""Guess the content of columns without a known layout: images, labels, masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from camscope.cohort.annotations import BOX_FORMS, is_shape, mask_files
from camscope.cohort.assemble import CohortTable
from camscope.cohort.locate import is_missing, places_by_name, searched
from camscope.cohort.mask_columns import has_no_mask
from camscope.cohort.shapes import is_relative
from camscope.cohort.tables import LINE, located, read_table
from camscope.cohort.truth import lists_of, read_truth, values_of
from camscope.errors import CamscopeError

_SAMPLE = 40  # cells of a column
_FILES, _MOST_CODES = 5, 64  # number of mask files that are read, and of their values
_MOST_PARTS = 10  # values of mask files that are numbered; more are sums of bits
_MOST_VALUES = 30  # of a column that holds labels
_NAMES = {
    "view": r"view|viewposition|projection|position",
    "stratum": r"sex|gender|patientsex|patientgender|site|hospital|scanner|manufacturer|device|split",
    "label": r"(.*(label|class|finding|diagnos|patholog|disease|target).*)|dx",
    "mask": r".*(mask|segmentation|contour|rle|encodedpixels|box).*",
}


def named_like(columns: Sequence[str], kind: str) -> list[str]:
    """Return the columns whose names match a kind: "view", "stratum", "label" or "mask".

    >>> named_like(["View Position", "Sex", "rsna_class", "age"], "label")
    ['rsna_class']
    """
    plain = {name: re.sub(r"[\s_-]", "", name).lower() for name in columns}
    return [name for name in columns if re.fullmatch(_NAMES[kind], plain[name])]


def image_by_content(path: Path, folder: Path) -> str | None:
    """Return the column in which most cells name images of a folder; None if there is none."""
    try:
        table, _ = read_table(str(path))
    except CamscopeError:
        return None
    places = places_by_name(str(folder))
    files = set(places.get("", ()))
    for name in table.columns:
        if name != LINE and (cells := _sample(table[name])):
            hits = sum(searched(cell, places) in files for cell in cells)
            if hits > len(cells) / 2:
                return name
    return None


def guessed_masks(
    table: pl.DataFrame, content: CohortTable, names: Sequence[str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Return the columns with masks, and notes on columns that are named like masks but contain none.

    Args:
        table: the columns that may have masks.
        content: the table of the cohort.
        names: columns that have masks, by their origin; None to recognise them by their names.
    """
    masks, notes = {}, []
    for name in named_like(table.columns, "mask") if names is None else names:
        cells = _sample(cell for cell in table[name] if not has_no_mask(cell))
        files = [located(file, content.root) for cell in cells for file in mask_files(cell)]
        shapes = all(map(is_shape, cells))
        if cells and (shapes or (files and not any(map(is_missing, files)))):
            if shapes and (odd := next((cell for cell in cells if _is_relative(cell)), None)):
                notes.append(
                    f"{name!r} has boxes as parts of the image's size, such as {odd[:60]!r}: give them in pixels"
                )
                continue
            masks[name] = name
            notes += _several_values(name, files)
        elif cells:
            odd = next((cell for cell in cells if not is_shape(cell)), cells[0])
            hint = f"; {BOX_FORMS}" if odd.startswith("[") else ""
            notes.append(f"{name!r} has the name of a mask, but its cells cannot be read as masks: {odd[:60]!r}{hint}")
    return masks, notes


def _is_relative(cell: str) -> bool:
    """Return whether a cell has boxes as parts of the image's size."""
    numbers = [] if cell.startswith("{") else re.findall(r"[-+]?\d*\.?\d+", cell)
    return bool(numbers) and is_relative(np.array(numbers, np.float64))


def _several_values(name: str, files: Sequence[str]) -> list[str]:
    """Return a note on mask files with several pixel values, each of which may be a separate structure."""
    values: set[int] = set()
    for file in files[:_FILES]:
        if file.lower().endswith((".jpg", ".jpeg")):
            continue  # compression makes many values of two
        try:
            values |= set(np.unique(np.asarray(Image.open(file))).tolist())
        except (OSError, ValueError):
            return []
    if not 2 < len(values) <= _MOST_CODES:
        return []
    some = ", ".join(map(str, sorted(values)[:12]))
    part = f"values = [{max(values)}]" if len(values) <= _MOST_PARTS else "bits = 4"
    example = f'masks = {{ part = {{ from = "{name}", {part} }} }}'
    text = f"the files of {name!r} have pixels of {len(values)} values ({some}), each may be a separate structure"
    return [f"{text}: name them, as in {example}"]


def guessed_labels(
    table: pl.DataFrame, ask: Callable[[str, Sequence[str]], str | None]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the recognised labels, and notes on further columns that may contain labels."""
    named = [name for name in named_like(table.columns, "label") if _few_values(table[name]) or _is_grade(table[name])]
    truths = [name for name in table.columns if _is_truth(table[name])]
    chosen = [name for name in named if name not in truths]
    notes = []
    if not named and not truths:
        words = [name for name in table.columns if _few_values(table[name])]
        chosen = [name] if (name := ask("Which column has the labels?", words)) else []
    labels: dict[str, dict[str, Any]] = {}
    for name in truths if not chosen else [name for name in truths if name in named]:
        labels[name] = {"column": name}
    for column in chosen:
        for value in values_of(table[column])[0]:
            labels.setdefault(value, {"column": column, "contains": value})
    if chosen and (others := [name for name in truths if name not in (*named, *labels)]):
        notes.append(f"columns of 1 and 0 that may be labels too: {', '.join(others)}")
    if len(labels) > _MOST_VALUES:
        lists = {column: lists_of(table[column])[0] for column in chosen}
        count = Counter(
            value for column in chosen for cell in table[column] for value in lists[column].get(cell.strip(), ())
        )
        kept = sorted(labels, key=lambda value: -count[value])[:_MOST_VALUES]
        notes.append(f"of {len(labels)} labels the {_MOST_VALUES} most frequent were taken")
        labels = {name: labels[name] for name in labels if name in kept}
    return labels, notes


def _few_values(column: pl.Series) -> bool:
    """Return whether a column contains a few different words that are repeated."""
    cells = [cell.strip() for cell in column if cell.strip()]
    values, joined = values_of(cells)
    numbers = all(re.fullmatch(r"[-+\d.,eE\s\[\]]+", value) for value in values)
    most = 200 if joined else _MOST_VALUES
    return bool(values) and not numbers and len(values) <= most and len(set(cells)) < max(len(cells), 2)


def _is_grade(column: pl.Series) -> bool:
    """Return whether a column has a few whole numbers that are repeated, such as grades 0 to 4 or classes 1 and 2."""
    cells = [cell.strip() for cell in column if cell.strip()]
    values = set(cells)
    whole = all(re.fullmatch(r"\d{1,3}", value) for value in values)
    return whole and not _is_truth(column) and 1 < len(values) <= min(_MOST_VALUES, len(cells) // 2)


def _is_truth(column: pl.Series) -> bool:
    answers = [read_truth(cell) for cell in column.unique()]
    return any(value for value, _ in answers) and not any(problem for _, problem in answers)


def _sample(column: Iterable[str]) -> list[str]:
    cells = [cell.strip() for cell in column if cell.strip()]
    return cells[:: max(len(cells) // _SAMPLE, 1)]
