"""Recognise known layouts of public data sets by the columns of their tables; ``layouts`` has one TOML file each."""

from __future__ import annotations

import csv
import fnmatch
import gzip
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from camscope.cohort.hub_dataset import is_dataset
from camscope.cohort.sections import Section, TextSource
from camscope.cohort.tables import LINE, read_table
from camscope.errors import CamscopeError

LAYOUTS = Path(__file__).parent / "layouts"
_DELIMITERS = ",;\t|"
_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".xlsx", ".parquet", ".json", ".jsonl")
_DEPTH, _PER_FOLDER, _MOST = 2, 12, 80  # depth of folders that are searched, tables per folder, tables in total
_LARGEST = 2**29  # bytes; larger JSON files are not read to recognise their columns


class TablePattern(Section):
    """A table of a layout: its required columns, and its names in order of preference."""

    columns: tuple[str, ...]
    names: tuple[str, ...] = ("*",)
    optional: bool = False


class LabelPart(Section):
    """The labels of a layout.

    Attributes:
        columns: one label per column.
        column: column whose values are the labels: ``values``, or the ``most`` most frequent values.
        values: see ``column``.
        most: see ``column``.
        given: labels with all their settings.
        settings: settings of every label of ``columns`` and ``column``.
        boxes: label -> name of the label in the table of boxes.
        boxed: whether the boxes use the names of the labels.
        masks: template of the column with a label's masks, with {label}.
        detect: whether labels are recognised from the content of the tables.
        notes: remarks on the labels.
    """

    columns: tuple[str, ...] = ()
    column: str | None = None
    values: tuple[str, ...] = ()
    most: int = 30
    given: dict[str, dict[str, Any]] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    boxes: dict[str, str] = Field(default_factory=dict)
    boxed: bool = False
    masks: str | None = None
    detect: bool = False
    notes: tuple[str, ...] = ()


class CohortLayout(Section):
    """The layout of a public data set.

    Attributes:
        name: name of the data set.
        tables: name -> table; "main" is the table of the cohort; ``cohort`` refers to tables by these names.
        folder: patterns of files or folders that must exist.
        lists: split -> name of the text file that lists its images, if all these files exist.
        cohort: settings of ``[cohort]``.
        labels: the labels.
    """

    name: str
    tables: dict[str, TablePattern] = Field(default_factory=dict)
    folder: tuple[str, ...] = ()
    lists: dict[str, str] = Field(default_factory=dict)
    cohort: dict[str, Any]
    labels: LabelPart = LabelPart()


@dataclass(frozen=True)
class TableFile:
    """The path of a table, and the names of its columns."""

    path: Path
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """The tables in a folder.

    Attributes:
        folder: the folder.
        tables: the tables in the folder.
        main: the table named by the user; None if the user named the folder.
    """

    folder: Path
    tables: tuple[TableFile, ...] = field(repr=False)
    main: Path | None = None


@cache
def layouts() -> tuple[CohortLayout, ...]:
    """Return all known layouts, by the names of their files.

    >>> [layout.name for layout in layouts()][:2]
    ['BIDS', 'BRAX']
    """
    files = sorted(LAYOUTS.glob("*.toml"))
    return tuple(CohortLayout.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))) for file in files)


def known_texts(columns: Sequence[str]) -> dict[str, TextSource]:
    """Return the sources of "image" and "patient" of the known layout of a table.

    >>> known_texts(["patientId", "x", "y", "width", "height", "Target"])["image"].name
    'patientId'
    """
    for layout in layouts():
        main = layout.tables.get("main")
        if main is not None and set(main.columns) <= set(columns):
            texts = {key: layout.cohort[key] for key in ("image", "patient") if key in layout.cohort}
            sources = {
                key: TextSource.model_validate({"from": value} if isinstance(value, str) else value)
                for key, value in texts.items()
            }
            return {key: source for key, source in sources.items() if set(source.columns([*columns])) <= set(columns)}
    return {}


def survey(path: Path) -> Survey:
    """Find the tables in a folder, in the folder of a table, or in a dataset.

    Raises:
        TableError: the named table cannot be read.
    """
    if path.is_dir():
        tables = [table for file in islice(_table_files(path), _MOST) if (table := _opened(file))]
        return Survey(path, tuple(tables))
    if is_dataset(str(path)):
        return Survey(Path(), (TableFile(path, _columns(path)),), path)
    folder = path.parent
    named = TableFile(path, _columns(path))
    others = [file for file in islice(_table_files(folder), _MOST) if file.absolute() != path.absolute()]
    return Survey(folder, (named, *(table for file in others if (table := _opened(file)))), path)


def match(found: Survey) -> tuple[CohortLayout, dict[str, TableFile]] | None:
    """Return the layout that fits best, with its tables; None if no layout fits."""
    matches = [(layout, tables) for layout in layouts() if (tables := _matched(layout, found)) is not None]
    if not matches:
        return None
    return max(matches, key=lambda pair: sum(len(pair[0].tables[key].columns) for key in pair[1]) + len(pair[0].folder))


def _matched(layout: CohortLayout, found: Survey) -> dict[str, TableFile] | None:
    """Return the tables of a layout; None if one is missing."""
    if not all(next(found.folder.glob(pattern), None) for pattern in layout.folder):
        return None
    if found.main is not None and "main" not in layout.tables:
        return None
    tables: dict[str, TableFile] = {}
    for key, pattern in layout.tables.items():
        candidates = [table for table in found.tables if set(pattern.columns) <= set(table.columns)]
        if key == "main" and found.main is not None:
            candidates = [table for table in candidates if table.path == found.main]
        ranked = [
            (rank, table)
            for table in candidates
            for rank, name in enumerate(pattern.names)
            if fnmatch.fnmatch(table.path.name, name) and table not in tables.values()
        ]
        if ranked:
            tables[key] = _nearest(ranked, tables.get("main"))
        elif not pattern.optional:
            return None
    return tables


def _nearest(ranked: Sequence[tuple[int, TableFile]], main: TableFile | None) -> TableFile:
    """Return the table with the best rank; ties are decided by the similarity to the name of the main table."""

    def shared(table: TableFile) -> int:
        words = set() if main is None else set(main.path.name.lower().replace(".", "_").replace("-", "_").split("_"))
        return len(words & set(table.path.name.lower().replace(".", "_").replace("-", "_").split("_")))

    return min(ranked, key=lambda pair: (-shared(pair[1]), pair[0]))[1]


def _table_files(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the tables in a folder and its subfolders, at most a few per folder."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name.lower())
    files = [Path(entry.path) for entry in entries if entry.is_file() and entry.name.lower().endswith(_SUFFIXES)]
    yield from files[:_PER_FOLDER]
    for entry in entries if depth else ():
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _table_files(Path(entry.path), depth - 1)


def _opened(path: Path) -> TableFile | None:
    try:
        return TableFile(path, _columns(path))
    except (CamscopeError, OSError):
        return None


def _columns(path: Path) -> tuple[str, ...]:
    """Return the names of a table's columns; only the first line of CSV and TSV files is read."""
    name = path.name.lower()
    if name.endswith((".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")):
        open_file = gzip.open if name.endswith(".gz") else open
        try:
            with open_file(path, "rb") as file:
                line = file.readline(2**20)
        except EOFError:
            return ()
        if line[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            text = line.decode("utf-8-sig", "replace").strip("\r\n")
            cells = next(csv.reader([text], delimiter=max(_DELIMITERS, key=text.count)), [])
            return tuple(cell.strip() for cell in cells if cell.strip())
    if name.endswith(".json") and path.stat().st_size > _LARGEST:
        return ()
    return tuple(column for column in read_table(str(path))[0].columns if column != LINE)


def filled(content: Any, tables: Mapping[str, str]) -> Any:
    """Return the settings of a layout with the paths of its tables; settings of missing tables are left out.

    >>> filled({"join": [{"table": "split", "on": ["id"]}], "image": "id"}, {"main": "t.csv"})
    {'join': [], 'image': 'id'}
    """
    if isinstance(content, dict):
        return {key: filled(value, tables) for key, value in content.items() if not _lacks(value, tables)} | (
            {"table": tables[content["table"]]}
            if isinstance(content.get("table"), str) and content["table"] in tables
            else {}
        )
    if isinstance(content, list):
        return [filled(part, tables) for part in content if not _lacks(part, tables)]
    return content


def _lacks(content: Any, tables: Mapping[str, str]) -> bool:
    return isinstance(content, dict) and isinstance(name := content.get("table"), str) and name not in tables
