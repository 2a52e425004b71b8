"""Read the tables that a study file names, and compute texts of their rows."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from camscope.cohort.hub_dataset import dataset_place, is_dataset
from camscope.cohort.sections import Problem, TableSource, TextSource
from camscope.cohort.tables import RESERVED, located, read_table
from camscope.errors import StudyError, TableError, nearest


def source_place(source: TableSource, folder: str | Path) -> str:
    """Return the path or address of a table whose name is relative to a folder, or the name of a dataset."""
    return dataset_place(source.path, folder) if is_dataset(source.path) else located(source.path, folder)


def read_source(source: TableSource, folder: str | Path) -> tuple[pl.DataFrame, dict[int, str]]:
    """Read a table that a study file names, as `read_table` does.

    Raises:
        StudyError: it cannot be read.
    """
    try:
        return read_table(source_place(source, folder), **source.model_dump(exclude={"path"}))
    except TableError as error:
        raise StudyError([Problem(error.text, error.path, error.line)]) from None


def check_columns(table: pl.DataFrame, keys: Sequence[str], path: str) -> None:
    """Check that a table has some columns.

    Raises:
        StudyError: lists each missing column.
    """
    names = [name for name in table.columns if name not in RESERVED]
    if wrong := [Problem(nearest("column", key, names), path, 1) for key in keys if key not in names]:
        raise StudyError(wrong)


def key_rows(table: pl.DataFrame, columns: list[str]) -> list[tuple[str, ...]]:
    """Return the stripped cells of some columns, row by row."""
    return table.select(pl.col(columns).str.strip_chars()).rows()


def texts(table: pl.DataFrame, source: TextSource) -> pl.Series:
    """Return the text of a source in each row; "" if one of its columns is blank, or if its pattern does not match.

    Raises:
        StudyError: a column cannot be formatted as the template says.

    >>> table = pl.DataFrame({"id": ["10032", "7"]})
    >>> texts(table, TextSource(from_="p{id:.2}/{id:0>8}.png")).to_list()
    ['p10/00010032.png', 'p7/00000007.png']
    """
    if source.from_ in table.columns:
        cells = [cell.strip() for cell in table[source.from_]]
    else:
        parts = [(text, name, form or "") for text, name, form, _ in string.Formatter().parse(source.from_)]
        columns = {name: table[name].str.strip_chars().to_list() for _, name, _ in parts if name is not None}
        try:
            cells = [_formatted(parts, columns, row) for row in range(len(table))]
        except ValueError as fault:
            raise StudyError([Problem(f"the template {source.from_!r} cannot be filled: {fault}")]) from None
    if source.pattern is not None:
        expression = re.compile(source.pattern)
        cells = [_matched(expression.search(cell)) for cell in cells]
    return pl.Series(cells, dtype=pl.String)


def _formatted(parts: Sequence[tuple[str, str | None, str]], columns: Mapping[str, list[str]], row: int) -> str:
    values = {name: cells[row] for name, cells in columns.items()}
    if values and not all(values.values()):
        return ""
    return "".join(text + ("" if name is None else format(values[name], form)) for text, name, form in parts)


def _matched(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    return "_".join(filter(None, match.groups())) if match.re.groups else match[0]
