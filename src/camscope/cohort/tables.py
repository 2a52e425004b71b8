"""Tables of cohorts: CSV, TSV, Parquet, and folders of class folders, all read as text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from camscope.cohort.store import EVALUATION, STUDY
from camscope.delimited import read_records
from camscope.errors import CamscopeError, DelimitedError, TableError, reason
from camscope.images import fetch, find_pictures
from camscope.images.source import is_address

LINE = "__line__"
"""The column that holds the line of each row."""

CASE, FAULT, NAME = "__case__", "__fault__", "__name__"
"""Columns that a cohort adds: the row's number, what is wrong with it, and its image's name for files."""

RESERVED = (LINE, CASE, FAULT, NAME)


def read_table(path: str) -> tuple[pl.DataFrame, dict[int, str]]:
    """Read a CSV, TSV or Parquet file, or a folder of class folders, as text.

    Args:
        path: of the file or folder, or the address of a file. CSV files may have commas, semicolons, tabs or bars
            between the cells, and be UTF-8 (with or without a byte order mark), UTF-16 or Windows-1252. A folder of
            class folders becomes a table with the columns ``path``, ``class``, ``mask`` (from a folder ``masks``
            beside the pictures' own, ``images``) and one column of 1 and 0 per class.

    Returns:
        The table, with the column ``LINE``; and what is wrong with rows that have too few or too many cells, by row.

    Raises:
        TableError: it cannot be read, or has no rows.
    """
    ragged: dict[int, str] = {}
    if os.path.isdir(path):  # noqa: PTH112  Path.is_dir() raises on names that are too long
        table = _class_folders(Path(path))
    else:
        try:
            content = fetch(path)
        except CamscopeError as error:
            raise TableError(f"the table cannot be read: {error}", path) from None
        if path.lower().endswith((".parquet", ".pq")):
            table = _parquet(content, path)
        else:
            table, ragged = _csv(content, path)
    if not len(table):
        raise TableError("has no rows", path)
    return table, ragged


def located(name: str, folder: str | Path) -> str:
    """Return where a file lies whose name is relative to a folder; each may be an address.

    >>> located("a.png", "s3://bucket/images"), located("gs://b/a.png", "images"), located("a.png", "images")
    ('s3://bucket/images/a.png', 'gs://b/a.png', 'images/a.png')
    """
    if is_address(name):
        return name
    if is_address(str(folder)):
        return f"{str(folder).rstrip('/')}/{name}"
    return str(Path(folder, name))


def _csv(content: bytes, path: str) -> tuple[pl.DataFrame, dict[int, str]]:
    text = _decoded(content)
    if "\0" in text:
        raise TableError("is no text: save the table as CSV or Parquet", path)
    try:
        records = read_records(text)
    except DelimitedError as error:
        raise TableError(error.text, path, error.line) from None
    header = [name.strip() for name in records[0].cells] if records else []
    records = [record for record in records[1:] if any(cell.strip() for cell in record.cells)]
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise TableError(f"has two columns called {twice[0]!r}: rename one", path, 1)
    columns: list[list[str]] = [[] for _ in header]
    ragged: dict[int, str] = {}
    for row, (_, cells) in enumerate(records):
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            ragged[row] = f"has {len(cells)} cells and the table {len(header)} columns"
        for column, cell in zip(columns, cells + [""] * len(header), strict=False):
            column.append(cell)
    cells_by_name = {name: column for name, column in zip(header, columns, strict=True) if name}
    _refuse_reserved(cells_by_name, path)
    lines = [record.line for record in records]
    return pl.DataFrame(cells_by_name | {LINE: lines}, schema_overrides=dict.fromkeys(cells_by_name, pl.String)), ragged


def _refuse_reserved(columns: Iterable[str], path: str) -> None:
    """Raise where a column has one of the names that tables of cases use for themselves."""
    if clash := next((name for name in columns if name in RESERVED), None):
        raise TableError(f"a column cannot be called {clash!r}, which is used internally: rename it", path, 1)


def _decoded(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _parquet(content: bytes, path: str) -> pl.DataFrame:
    try:
        table = pl.read_parquet(content)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as fault:
        raise TableError(f"the table cannot be read: {reason(fault)}", path) from None
    _refuse_reserved(table.columns, path)
    columns = [text for name in table.columns if (text := _as_text(table[name])) is not None]
    return pl.DataFrame(columns).with_columns(pl.int_range(1, len(table) + 1).alias(LINE))


def _as_text(column: pl.Series) -> pl.Series | None:
    """Return a column as text, "" for null and NaN, lists joined by commas; None if it holds anything else."""
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    elif column.dtype.is_float():
        column = column.fill_nan(None)
    elif column.dtype == pl.Duration:
        column = column.dt.to_string("iso")
    elif isinstance(column.dtype, pl.List | pl.Array):
        try:
            column = column.cast(pl.List(pl.String)).list.join(",")
        except pl.exceptions.PolarsError:
            return None
    elif column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return None
    return column.cast(pl.String).fill_null("")


def _class_folders(path: Path) -> pl.DataFrame:
    results = [record.parent for name in (STUDY, EVALUATION) for record in path.rglob(name)]
    try:
        pictures = [file.relative_to(path) for file, _ in find_pictures([path], exclude=results)]
    except CamscopeError as error:
        raise TableError(str(error), str(path)) from None
    rows = [file for file in pictures if len(file.parts) > 1 and "masks" not in file.parts[1:-1]]
    masks = {file.with_suffix(""): file for file in pictures if "masks" in file.parts[1:-1]}
    table = {"path": [file.as_posix() for file in rows], "class": [file.parts[0] for file in rows]}
    mask_of = [Path(*("masks" if part == "images" else part for part in file.with_suffix("").parts)) for file in rows]
    table["mask"] = [masks[mask].as_posix() if mask in masks else "" for mask in mask_of]
    for name in sorted(set(table["class"])):
        if name in table:
            raise TableError(f"a class folder cannot be called {name!r}: rename it", str(path))
        table[name] = [str(int(file.parts[0] == name)) for file in rows]
    return pl.DataFrame(table).with_columns(pl.int_range(1, len(rows) + 1).alias(LINE))
