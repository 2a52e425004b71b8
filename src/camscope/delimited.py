"""Read CSV and TSV text strictly: a table with an unclosed quote is an error, never a shorter table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from camscope.errors import DelimitedError

_DELIMITERS = ",;\t|"
_LONGEST_CELL = 2**28  # characters; run lengths of a large mask are long
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|NaN")
_SUFFIX = re.compile(r".+(\.[A-Za-z0-9]{1,5})(#\d+)?")


class Record(NamedTuple):
    """The cells of one record, and its first line in the text, from 1."""

    line: int
    cells: list[str]


def read_records(text: str, *, delimiter: str | None = None) -> list[Record]:
    r"""Split a text into records; the first is the header. Blank lines are left out.

    Args:
        text: CSV or TSV. A cell in quotes may hold delimiters, line breaks and doubled quotes.
        delimiter: between the cells; None for the comma, semicolon, tab or bar that the first line has most of.

    Raises:
        DelimitedError: a quote is not closed, whether that shows at the end of the text, at a later quote, or only in
            that a cell holds whole rows of the table.

    >>> read_records('path,report\na.png,"two\nlines"\n')
    [Record(line=1, cells=['path', 'report']), Record(line=2, cells=['a.png', 'two\nlines'])]
    >>> read_records('path,patient\na.png,"P1\nb.png,P2\n')
    Traceback (most recent call last):
    camscope.errors.DelimitedError: line 2: a quote (") in this row is not closed: close it, or remove it
    """
    if "\n" not in text:  # line ends of old Macintosh files
        text = text.replace("\r", "\n")
    delimiter = delimiter or max(_DELIMITERS, key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Record] = []
    start = 1
    try:
        with _long_cells():
            for cells in reader:
                if cells:
                    records.append(Record(start, cells))
                start = reader.line_num + 1
    except csv.Error as fault:
        raise _unclosed(start, reader.line_num, fault) from None
    _refuse_swallowed_rows(records, delimiter)
    return records


def _unclosed(start: int, end: int, fault: csv.Error) -> DelimitedError:
    words = str(fault)
    if "expected after" in words and end == start:
        return DelimitedError('a quote (") stands inside a quoted cell: double it ("")', start)
    if "expected after" in words or "unexpected end" in words:
        return DelimitedError('a quote (") in this row is not closed: close it, or remove it', start)
    return DelimitedError(f"this row cannot be read ({words})", start)


def _refuse_swallowed_rows(records: Sequence[Record], delimiter: str) -> None:
    """Raise an error if a cell of several lines contains rows of the table: two unclosed quotes look like one cell.

    A cell is taken for rows only if each of its lines, with the cells beside it, has as many cells as the header and
    the same kind of content in the same columns as all other records.
    """
    width = len(records[0].cells) if records else 0
    several = [record for record in records[1:] if any("\n" in cell for cell in record.cells)]
    if width < 2 or not several:
        return
    plain = [record.cells for record in records[1:] if not any("\n" in cell for cell in record.cells)]
    kinds = [_kind([cells[column] for cells in plain if column < len(cells)]) for column in range(width)]
    for line, cells in several:
        for column, cell in enumerate(cells):
            rows = [part.split(delimiter) for part in _LINE_BREAK.split(cell)]
            rows[0], rows[-1] = cells[:column] + rows[0], rows[-1] + cells[column + 1 :]
            rows = [row for row in rows if any(row)]
            if len(rows) > 1 and any(kinds) and all(len(row) == width and _fits(row, kinds) for row in rows):
                raise DelimitedError('a quote (") in this row is closed only rows later: close it, or remove it', line)


def _kind(cells: Sequence[str]) -> str | frozenset[str]:
    """Return the kind of a column: "number", the suffix of all its file names, its few recurring values, or ""."""
    texts = [cell.strip() for cell in cells if cell.strip()]
    if texts and all(_NUMBER.fullmatch(cell) for cell in texts):
        return "number"
    suffixes = {match[1].lower() if (match := _SUFFIX.fullmatch(cell)) else "" for cell in texts}
    if len(suffixes) == 1 and suffixes != {""}:
        return suffixes.pop()
    values = frozenset(texts)
    return values if len(texts) > 2 * len(values) else ""


def _fits(row: Sequence[str], kinds: Sequence[str | frozenset[str]]) -> bool:
    for cell, kind in zip(row, kinds, strict=True):
        text = cell.strip()
        if text and kind and not (text in kind if isinstance(kind, frozenset) else _kind([text]) == kind):
            return False
    return True


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
