"""Read the tables of cohorts in many formats, as text."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.folders import class_folder_rows, fitting_rows
from camscope.cohort.hub_dataset import dataset_records, is_dataset
from camscope.cohort.records import json_records, xml_records
from camscope.delimited import read_records
from camscope.errors import CamscopeError, DelimitedError, TableError, reason, require
from camscope.images import fetch
from camscope.images.limits import MAX_BYTES
from camscope.images.registry import READERS
from camscope.images.source import is_address

LINE = "__line__"
"""Column with the line of each row."""

CASE, FAULT, NAME, SPLIT = "__case__", "__fault__", "__name__", "__split__"
"""Columns that a cohort adds: the number of the row, its problem, the name of its image for files, and its split."""

RESERVED = (LINE, CASE, FAULT, NAME, SPLIT)

_SEPARATOR = re.compile(r"sep=(.)\r?\n")  # a line for Excel

Ragged = dict[int, str]

_IMAGES = tuple(suffix for suffix in READERS if suffix)
_EXACT = 2**53  # smaller whole numbers are exact as float64


def read_table(
    path: str,
    *,
    sheet: str | None = None,
    each: str | None = None,
    columns: Mapping[str, str] | None = None,
    files: str | None = None,
) -> tuple[pl.DataFrame, Ragged]:
    """Read a file or a folder as a table of text.

    * CSV and TSV: commas, semicolons, tabs or bars between the cells; UTF-8 (with or without a byte order mark), UTF-16
      or Windows-1252. Also compressed, ``.csv.gz``.
    * Excel (``.xlsx``), Parquet, JSON lines.
    * JSON: a list of objects; an object of objects, whose keys become the column ``key``; or COCO annotations, which
      become one row per image (see `coco_records`).
    * XML, one file or ``folder/*.xml``: see `xml_records`.
    * ``datasets:NAME``: a dataset of Hugging Face's `datasets` (see `dataset_records`); ``fiftyone:NAME``: of FiftyOne.
    * A folder of class folders, or of folders of splits with class folders in them: see `class_folder_rows`. With
      ``files``, any folder: one row per image whose path matches, with one column per name in braces.

    Args:
        path: path of the file or folder, or the address of a file.
        sheet: sheet of an Excel file; None for the first.
        each: for XML files, path of the elements that become rows.
        columns: for XML files, column -> path.
        files: for a folder, pattern of the paths of its images, such as ``"{patient}/{study}_{view}.png"``; ``*``
            matches any name.

    Returns:
        The table, with the column `LINE`; and row -> problem, for rows with too few or too many cells.

    Raises:
        TableError: the table cannot be read, or has no rows.
    """
    ragged: Ragged = {}
    if is_dataset(path):
        table = _of_records(dataset_records(path), path)
    elif os.path.isdir(path):  # noqa: PTH112  Path.is_dir() raises on names that are too long
        rows = class_folder_rows(Path(path)) if files is None else fitting_rows(Path(path), files)
        table = _of_records(rows, path)
    elif path.lower().endswith(".xml"):
        table = _of_records(xml_records(path, each=each, columns=columns or {}), path)
    elif path.lower().endswith(_IMAGES):
        raise TableError("is an image, where a folder or a table of images is expected: give its folder", path)
    else:
        content, name = _content(path)
        if name.endswith((".parquet", ".pq")):
            table = _parquet(content, path)
        elif name.endswith((".xlsx", ".xlsm")):
            table, ragged = _excel(content, path, sheet)
        elif name.endswith((".json", ".jsonl", ".ndjson")):
            table = _of_records(json_records(decoded(content), path, lines=not name.endswith(".json")), path)
        else:
            table, ragged = _csv(content, path)
    if not len(table):
        raise TableError("has no rows", path)
    return table, ragged


def _content(path: str) -> tuple[bytes, str]:
    """Return the unpacked content of a file, and its name in lower case without ``.gz``."""
    try:
        content = fetch(path)
    except CamscopeError as error:
        raise TableError(f"the table cannot be read: {error}", path) from None
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as fault:
            raise TableError(f"the table cannot be unpacked: {reason(fault)}", path) from None
        if len(content) > MAX_BYTES:
            raise TableError(f"the table has more than {MAX_BYTES:,} bytes when it is unpacked", path)
    return content, path.lower().removesuffix(".gz")


def located(name: str, folder: str | Path) -> str:
    """Return the path of a file whose name is relative to a folder; both may be addresses.

    >>> located("a.png", "s3://bucket/images"), located("gs://b/a.png", "images"), located("a.png", "images")
    ('s3://bucket/images/a.png', 'gs://b/a.png', 'images/a.png')
    """
    if is_address(name):
        return name
    if is_address(str(folder)):
        return f"{str(folder).rstrip('/')}/{name}"
    return str(Path(folder, name))


def _csv(content: bytes, path: str) -> tuple[pl.DataFrame, Ragged]:
    text = decoded(content)
    if "\0" in text:
        raise TableError("is no text: save the table as CSV, Excel or Parquet", path)
    separator = _SEPARATOR.match(text)
    try:
        records = read_records(
            text if separator is None else f"\n{text[separator.end() :]}", delimiter=separator and separator[1]
        )
    except DelimitedError as error:
        raise TableError(error.text, path, error.line) from None
    return _of_cells([(record.line, record.cells) for record in records], path)


def _of_cells(records: list[tuple[int, list[str]]], path: str) -> tuple[pl.DataFrame, Ragged]:
    """Return the table of lines of cells; the first line is the header."""
    header = [name.strip() for name in records[0][1]] if records else []
    _check_header(header, records, path)
    records = [(line, cells) for line, cells in records[1:] if any(cell.strip() for cell in cells)]
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise TableError(f"has two columns called {twice[0]!r}: rename one", path, 1)
    columns: list[list[str]] = [[] for _ in header]
    ragged: Ragged = {}
    for row, (_, cells) in enumerate(records):
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            ragged[row] = f"has {len(cells)} cells and the table {len(header)} columns"
        for column, cell in zip(columns, cells + [""] * len(header), strict=False):
            column.append(cell)
    cells_by_name = {name: column for name, column in zip(header, columns, strict=True) if name}
    _refuse_reserved(cells_by_name, path)
    lines = [line for line, _ in records]
    return pl.DataFrame(cells_by_name | {LINE: lines}, schema_overrides=dict.fromkeys(cells_by_name, pl.String)), ragged


def _check_header(header: Sequence[str], records: Sequence[tuple[int, list[str]]], path: str) -> None:
    """Raise an error if the first line has no names of columns, but a title, a comment or values."""
    line, named = (records[0][0] if records else 1), [name for name in header if name]
    if odd := next((name for name in named if name.lower().endswith(_IMAGES)), None):
        raise TableError(f"the first line has no names of columns, but {odd!r}: add a line with names", path, line)
    wide = sum(sum(bool(cell.strip()) for cell in cells) > 1 for _, cells in records[1:])
    if header[:1] == named and wide > len(records[1:]) / 2:
        text = f"the first line has one cell, {named[0]!r}, and others have several: begin with the names of columns"
        raise TableError(text, path, line)


def _excel(content: bytes, path: str, sheet: str | None) -> tuple[pl.DataFrame, Ragged]:
    openpyxl = require("openpyxl", f"reading {path}", "excel")
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        if sheet is not None and sheet not in book.sheetnames:
            raise TableError(f"has no sheet called {sheet!r}, but {', '.join(map(repr, book.sheetnames))}", path)
        page = book.worksheets[0] if sheet is None else book[sheet]
        rows = list(page.iter_rows(values_only=True))
        _refuse_uncomputed(openpyxl, content, page.title, rows, path)
    except CamscopeError:
        raise
    except Exception as fault:  # the parsers of ZIP and XML raise errors of many kinds
        raise TableError(f"the Excel file cannot be read: {reason(fault)}", path) from None
    lines = ((line, row) for line, row in enumerate(rows, 1) if any(value is not None for value in row))
    return _of_cells([(line, [_cell(value) for value in row]) for line, row in lines], path)


def _refuse_uncomputed(openpyxl: Any, content: bytes, sheet: str, rows: Sequence[Sequence[Any]], path: str) -> None:
    """Raise an error if a formula has no stored value, as in files that no spreadsheet program has saved."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        if not any(re.search(rb"<f[ >/]", archive.read(name)) for name in sheets):
            return
    formulas = openpyxl.load_workbook(io.BytesIO(content), read_only=True)[sheet].iter_rows()
    for line, (cells, values) in enumerate(zip(formulas, rows, strict=False), 1):
        for cell, value in zip(cells, values, strict=False):
            if value is None and cell.data_type == "f":
                text = f"the formula {cell.value!r} has no value: open and save the file in a spreadsheet program"
                raise TableError(text, path, line)


def _of_records(records: Sequence[Mapping[str, Any]], path: str) -> pl.DataFrame:
    """Return the table of records, each a dictionary from column to value."""
    names = list(dict.fromkeys(name for record in records for name in record))
    _refuse_reserved(names, path)
    columns = {name: [_cell(record.get(name)) for record in records] for name in names}
    table = pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))
    return table.with_columns(pl.int_range(1, len(records) + 1).alias(LINE))


def _refuse_reserved(columns: Iterable[str], path: str) -> None:
    """Raise an error if a column has a name that is used internally."""
    if clash := next((name for name in columns if name in RESERVED), None):
        raise TableError(f"a column cannot be called {clash!r}, which is used internally: rename it", path, 1)


def decoded(content: bytes) -> str:
    """Return the text of a file in UTF-8 (with or without a byte order mark), UTF-16 or Windows-1252."""
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


def _cell(value: Any) -> str:
    """Return a value as text: "" for None, 1 and 0 for booleans, 7 for 7.0, JSON for lists and objects."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer() and abs(value) < _EXACT):
        return str(int(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _as_text(column: pl.Series) -> pl.Series | None:
    """Return a column as text: "" for null and NaN, lists of numbers joined by commas; None for others."""
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    elif column.dtype.is_float():
        column = column.fill_nan(None)
        whole = (column == column.round()) & (column.abs() < _EXACT)
        column = column.cast(pl.Int64, strict=False).cast(pl.String).zip_with(whole, column.cast(pl.String))
    elif column.dtype == pl.Duration:
        column = column.dt.to_string("iso")
    elif isinstance(column.dtype, pl.List | pl.Array):
        if column.dtype.inner == pl.String:
            return pl.Series(column.name, [_cell(value) for value in column.to_list()], pl.String)
        try:
            column = column.cast(pl.List(pl.String)).list.join(",")
        except pl.exceptions.PolarsError:
            return None
    elif column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return None
    return column.cast(pl.String).fill_null("")
