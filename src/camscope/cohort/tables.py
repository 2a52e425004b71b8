"""Read the tables of cohorts in many formats, as text."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import string
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.hub_dataset import dataset_records, is_dataset
from camscope.cohort.records import json_records, xml_records
from camscope.cohort.store import EVALUATION, STUDY
from camscope.delimited import read_records
from camscope.errors import CamscopeError, DelimitedError, TableError, reason, require
from camscope.images import fetch, find_pictures
from camscope.images.limits import MAX_BYTES
from camscope.images.source import is_address

LINE = "__line__"
"""Column with the line of each row."""

CASE, FAULT, NAME, SPLIT = "__case__", "__fault__", "__name__", "__split__"
"""Columns that a cohort adds: the number of the row, its problem, the name of its image for files, and its split."""

RESERVED = (LINE, CASE, FAULT, NAME, SPLIT)

Ragged = dict[int, str]


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
    * A folder of class folders: the columns ``path``, ``class``, ``mask`` (from a folder ``masks`` beside the folder
      ``images``) and one column of 1 and 0 per class. With ``files``, any folder: one row per image whose path matches,
      with one column per name in braces.

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
        table = _class_folders(Path(path)) if files is None else _fitting_files(Path(path), files)
    elif path.lower().endswith(".xml"):
        table = _of_records(xml_records(path, each=each, columns=columns or {}), path)
    else:
        content, name = _content(path)
        if name.endswith((".parquet", ".pq")):
            table = _parquet(content, path)
        elif name.endswith((".xlsx", ".xlsm")):
            table, ragged = _excel(content, path, sheet)
        elif name.endswith((".json", ".jsonl", ".ndjson")):
            table = _of_records(json_records(_decoded(content), path, lines=not name.endswith(".json")), path)
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
        except (OSError, EOFError) as fault:
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
    text = _decoded(content)
    if "\0" in text:
        raise TableError("is no text: save the table as CSV, Excel or Parquet", path)
    try:
        records = read_records(text)
    except DelimitedError as error:
        raise TableError(error.text, path, error.line) from None
    return _of_cells([(record.line, record.cells) for record in records], path)


def _of_cells(records: list[tuple[int, list[str]]], path: str) -> tuple[pl.DataFrame, Ragged]:
    """Return the table of lines of cells; the first line is the header."""
    header = [name.strip() for name in records[0][1]] if records else []
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


def _excel(content: bytes, path: str, sheet: str | None) -> tuple[pl.DataFrame, Ragged]:
    openpyxl = require("openpyxl", f"reading {path}", "excel")
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as fault:
        raise TableError(f"the Excel file cannot be read: {reason(fault)}", path) from None
    if sheet is not None and sheet not in book.sheetnames:
        raise TableError(f"has no sheet called {sheet!r}, but {', '.join(map(repr, book.sheetnames))}", path)
    page = book.worksheets[0] if sheet is None else book[sheet]
    rows = enumerate(page.iter_rows(values_only=True), 1)
    return _of_cells([(line, [_cell(value) for value in row]) for line, row in rows if any(row)], path)


def _of_records(records: list[dict[str, Any]], path: str) -> pl.DataFrame:
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


def _cell(value: Any) -> str:
    """Return a value as the text of a cell: "" for None, 1 and 0 for booleans, JSON for lists and objects."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _as_text(column: pl.Series) -> pl.Series | None:
    """Return a column as text: "" for null and NaN, lists of numbers joined by commas; None for other types."""
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    elif column.dtype.is_float():
        column = column.fill_nan(None)
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


def _fitting_files(path: Path, pattern: str) -> pl.DataFrame:
    """Return one row per image of a folder whose path matches a pattern, with one column per name in braces."""
    expression = ""
    names: list[str] = []
    for text, name, _, _ in string.Formatter().parse(pattern):
        expression += re.escape(text).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if name in names:
            expression += f"(?P=f{names.index(name)})"
        elif name is not None:
            expression += f"(?P<f{len(names)}>[^/]+?)"
            names.append(name)
    paths = [file.as_posix() for file in _pictures(path)]
    matches = [(name, match) for name in paths if (match := re.fullmatch(expression, name))]
    if not matches:
        raise TableError(f"no image fits {pattern!r}; the first is {paths[0]!r}", str(path))
    records = [{"path": name} | dict(zip(names, match.groups(), strict=True)) for name, match in matches]
    return _of_records(records, str(path))


def _pictures(path: Path) -> list[Path]:
    """Return the images below a folder, relative to it, without images of results."""
    results = [record.parent for name in (STUDY, EVALUATION) for record in path.rglob(name)]
    try:
        return [file.relative_to(path) for file, _ in find_pictures([path], exclude=results)]
    except CamscopeError as error:
        raise TableError(str(error), str(path)) from None


def _class_folders(path: Path) -> pl.DataFrame:
    pictures = _pictures(path)
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
