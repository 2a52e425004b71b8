"""Read class names from a list, a dict or a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from camscope.delimited import read_records
from camscope.errors import DelimitedError, SettingError

Labels = Sequence[str] | Mapping[Any, Any] | str | Path
"""Class names: a list, a dict of index -> name or name -> index, or the path of a file with them."""

_NAME_COLUMNS = ("label", "name", "class_name", "class", "category")
_INDEX_COLUMNS = ("index", "idx", "id", "number", "class_index", "class_id", "label_id", "label_index", "")
_NUMBERED = re.compile(r"\s*(\d+)\s*[\s:;,.=]\s*(\S.*)")


def read_labels(labels: Labels) -> tuple[str, ...]:
    """Return class names in the order of the network's outputs.

    Args:
        labels: the names; a dict of index -> name (``id2label``) or of name -> index (``class_to_idx``); or the path of
            a text file with one name per line, each with its index before it or none, or one line with commas; of a
            JSON file with such a list or dict; or of a CSV file with a column ``label`` (``name``, ``class`` ...), in
            the order of a column ``index`` (``id`` ...) if there is one.

    Raises:
        SettingError: a file that is missing or holds no names, a name that is empty, or indices other than 0, 1, 2 ...

    >>> read_labels(["Effusion", "Edema"]), read_labels({"Edema": 1, "Effusion": 0}), read_labels({1: "b", 0: "a"})
    (('Effusion', 'Edema'), ('Effusion', 'Edema'), ('a', 'b'))
    """
    if isinstance(labels, str | Path):
        names, origin = _from_file(Path(labels)), str(labels)
    else:
        origin = "labels"
        try:
            names = _from_json(dict(labels) if isinstance(labels, Mapping) else list(labels))
        except ValueError as error:
            raise SettingError(f"labels cannot be read as class names: {error}") from error
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise SettingError(f"{origin} must hold one name per class, none of them empty")
    return tuple(name.strip() for name in names)


def _from_file(path: Path) -> list[str]:
    if not path.is_file():
        raise SettingError(f"there is no label file {str(path)!r}; names themselves are given as a list")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return _from_json(json.loads(text))
        if path.suffix.lower() == ".csv":
            return _from_rows([record.cells for record in read_records(text, delimiter=",")])
        return _from_lines([line for line in text.splitlines() if line.strip()])
    except (ValueError, DelimitedError) as error:
        raise SettingError(f"{path} cannot be read as class names: {error}") from error


def _from_lines(lines: list[str]) -> list[str]:
    if len(lines) == 1 and "," in lines[0]:
        return lines[0].split(",")
    matches = [match for match in map(_NUMBERED.fullmatch, lines) if match]
    if len(matches) == len(lines) and {int(match[1]) for match in matches} == set(range(len(lines))):
        return _in_order([(match[1], match[2]) for match in matches])
    return lines


def _from_json(content: object) -> list[str]:
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise ValueError("expected a list of names, or a dict of index -> name or name -> index")
    if all(_is_index(key) for key in content):  # in ImageNet's file the value is [WordNet id, name]
        names = ((key, name[-1] if isinstance(name, list) and name else name) for key, name in content.items())
        return _in_order(list(names))
    if all(_is_index(value) for value in content.values()):
        return _in_order([(index, name) for name, index in content.items()])
    raise ValueError("expected a dict of index -> name or name -> index")


def _is_index(value: object) -> bool:
    """Return whether a value is a whole number, of Python, of NumPy, or as text."""
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, Integral) and not isinstance(value, bool)


def _in_order(pairs: list[tuple[Any, Any]]) -> list[str]:
    """Return names in the order of their indices.

    Raises:
        ValueError: the indices do not run from 0 without a gap.
    """
    by_index = {int(index): name for index, name in pairs}
    if len(by_index) < len(pairs) or set(by_index) != set(range(len(pairs))):
        raise ValueError("expected indices that run from 0 without a gap")
    return [by_index[index] for index in range(len(pairs))]


def _from_rows(rows: list[list[str]]) -> list[str]:
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = [heading.index(name) for name in _NAME_COLUMNS if name in heading]
    if not columns:
        if all(len(row) == 1 for row in rows):
            return [row[0] for row in rows]
        if all(len(row) == 2 and _is_index(row[0]) for row in rows):
            return _in_order([(row[0], row[1]) for row in rows])
        raise ValueError(f"several columns, none of them called {', '.join(_NAME_COLUMNS)}")
    cells = [[row[column] if column < len(row) else "" for row in rows[1:]] for column in range(len(heading))]
    words = next((column for column in columns if not all(map(_is_index, cells[column]))), columns[0])
    numbered = [column for column, name in enumerate(heading) if name in (*_INDEX_COLUMNS, *_NAME_COLUMNS)]
    index = next((c for c in numbered if c != words and cells[c] and all(map(_is_index, cells[c]))), None)
    return cells[words] if index is None else _in_order(list(zip(cells[index], cells[words], strict=True)))
