"""Class names, from a list or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from camscope.delimited import read_records
from camscope.errors import DelimitedError, SettingError

# How the column with the names is called, in a file that has a heading.
_COLUMNS = ("label", "name", "class_name", "class", "category")


def read_labels(labels: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Class names in the order of the network's outputs.

    Args:
        labels: the names; or the path of a text file with one name a line, of a JSON file with a list of names or
            an object of index -> name, or of a CSV file with a column ``label`` (``name``, ``class`` ...) or only one.

    Raises:
        SettingError: for a file that is missing or holds no names, and for a name that is empty.

    >>> read_labels(["Effusion", "Edema"])
    ('Effusion', 'Edema')
    """
    if isinstance(labels, str | Path):
        names, origin = _from_file(Path(labels)), str(labels)
    else:
        names, origin = list(labels), "labels"
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise SettingError(f"{origin} must hold one name a class, none of them empty")
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
    except (ValueError, DelimitedError) as error:
        raise SettingError(f"{path} cannot be read as class names: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _from_json(content: object) -> list[str]:
    if isinstance(content, dict):
        ordered = sorted((int(index), name) for index, name in content.items())
        if [index for index, _ in ordered] != list(range(len(ordered))):
            raise ValueError("its indices must run from 0 without a gap")
        return [name for _, name in ordered]
    if isinstance(content, list):
        return content
    raise ValueError("it must be a list of names or an object of index -> name")


def _from_rows(rows: list[list[str]]) -> list[str]:
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((heading.index(name) for name in _COLUMNS if name in heading), None)
    if column is not None:
        return [row[column] if column < len(row) else "" for row in rows[1:]]
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    raise ValueError(f"several columns, none of them called {', '.join(_COLUMNS)}")
