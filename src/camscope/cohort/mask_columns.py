"""Return the masks of a cohort's rows as cells for `read_annotation`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.records import union
from camscope.cohort.runs import is_empty
from camscope.cohort.sections import Boxes, MaskSource, Problem
from camscope.cohort.sources import check_columns, key_rows, read_source, texts
from camscope.cohort.truth import MISSING
from camscope.errors import StudyError, nearest

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_NO_MASK = (*MISSING, "none", "-1", "[]")


def mask_column(table: pl.DataFrame, source: MaskSource, boxes: Boxes | None, folder: str | Path) -> pl.Series:
    """Return the cells of a mask, one per row; "" for rows without the mask.

    Args:
        table: table of the cohort.
        source: source of the mask.
        boxes: the boxes of the cohort.
        folder: folder or address to which paths are relative.

    Raises:
        StudyError: the table of the boxes cannot be read, or lacks a column or label.
    """
    return _mask_cells(table, source) if source.boxes is None else _boxes(table, boxes, source, folder)


def _mask_cells(table: pl.DataFrame, source: MaskSource) -> pl.Series:
    """Return the cells of a mask, with the settings for reading them."""
    cells = ["" if has_no_mask(cell) or is_empty(cell) else cell for cell in texts(table, source)]
    if source.coding is not None:
        extra: dict[str, Any] = {"coding": source.coding} | ({"size": list(source.size)} if source.size else {})
        cells = [cell and json.dumps({"runs": cell, **extra}) for cell in cells]
    elif source.values is not None or source.bits is not None:
        extra = {"bits": source.bits} if source.values is None else {"values": list(source.values)}
        cells = [cell and json.dumps({"file": cell, **extra}) for cell in cells]
    return pl.Series(cells, dtype=pl.String)


def has_no_mask(cell: str) -> bool:
    """Return whether a cell says that there is no mask.

    >>> has_no_mask("-1"), has_no_mask("NA"), has_no_mask("1,2,3,4")
    (True, True, False)
    """
    return cell.strip().lower() in _NO_MASK


def box_columns(boxes: Boxes) -> list[str]:
    """Return the columns that a table of boxes needs."""
    return [
        *boxes.columns,
        *([boxes.label] if boxes.label else []),
        *(name for name in boxes.size or () if isinstance(name, str)),
    ]


def _boxes(table: pl.DataFrame, boxes: Boxes | None, source: MaskSource, folder: str | Path) -> pl.Series:
    """Return, per row of the cohort, the boxes with the label of a mask, as a cell."""
    if boxes is None:
        raise StudyError([Problem(f"a mask takes boxes of {source.boxes!r}, but [cohort.boxes] is missing: add it")])
    other = table if boxes.table is None else read_source(boxes.table, folder)[0]
    name = "the cohort's table" if boxes.table is None else boxes.table.path
    check_columns(other, [*box_columns(boxes), *boxes.on.values()], name)
    wanted = (source.boxes or "").strip().casefold()
    labels = [cell.strip().casefold() for cell in other[boxes.label]] if boxes.label else [wanted] * len(other)
    known = set(labels)
    cells = [
        _box_cell(row, boxes) if wanted in ("*", label) else ""
        for row, label in zip(other.select(box_columns(boxes)).iter_rows(named=True), labels, strict=True)
    ]
    if wanted != "*" and wanted not in known:
        options = other[boxes.label].str.strip_chars().unique(maintain_order=True).to_list() if boxes.label else []
        raise StudyError([Problem(f"{nearest('box label', source.boxes or '', filter(None, options))}", name)])
    if boxes.table is None:
        return pl.Series(cells, dtype=pl.String)
    by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key, cell in zip(key_rows(other, list(boxes.on.values())), cells, strict=True):
        by_key[key] += [cell] if cell else []
    return pl.Series([union(by_key.get(key, ())) for key in key_rows(table, list(boxes.on))], dtype=pl.String)


def _box_cell(row: Mapping[str, str], boxes: Boxes) -> str:
    """Return a box as a cell; "" if its numbers are blank."""
    words = [row[column].strip() for column in boxes.columns]
    words = _NUMBER.findall(words[0]) if len(words) == 1 else words
    if all(map(has_no_mask, words)):
        return ""
    try:
        x, y, *far = map(float, words)
        corners = [x, y, *far] if boxes.corners else [x, y, x + far[0], y + far[1]]
    except (ValueError, IndexError):
        return json.dumps({"boxes": [words]})  # read_annotation reports the error
    content: dict[str, object] = {"boxes": [corners]}
    if boxes.size:
        sides = [row[side].strip() if isinstance(side, str) else side for side in boxes.size]
        content["size"] = [int(float(side)) if _NUMBER.fullmatch(str(side)) else side for side in sides]
    return json.dumps(content)
