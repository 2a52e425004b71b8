"""Combine the tables of a cohort to one row per case: derived columns, joins, boxes, label rules and votes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from camscope.cohort.columns import find_column, image_column
from camscope.cohort.layout import known_texts
from camscope.cohort.locate import located_images
from camscope.cohort.mask_columns import box_columns, mask_column
from camscope.cohort.records import union
from camscope.cohort.sections import (
    CohortSection,
    Join,
    LabelRule,
    MaskSource,
    Problem,
    TextSource,
)
from camscope.cohort.sources import check_columns, key_rows, read_source, source_place, texts
from camscope.cohort.split_column import (
    listed_splits,
    notes_on_patients,
    refuse_two_splits,
    split_source,
    with_split,
)
from camscope.cohort.tables import FAULT, LINE, RESERVED, located
from camscope.cohort.truth import MISSING, hidden_in, reduced, voted
from camscope.errors import SettingError, StudyError, nearest

_PARTNER = "__partner__"


@dataclass(frozen=True)
class CohortTable:
    """One row per case, and the meaning of the columns.

    Attributes:
        path: path of the table, for messages.
        root: folder to which the paths of images and masks are relative.
        table: the columns, all text, with `LINE`, `FAULT` and, if splits are known, `SPLIT`.
        image: source of the images; the column with the same name has their paths relative to ``root``.
        patient: source of the patients, with a column of the same name; None if patients are unknown.
        labels: label -> column with "1", "0", "-1", "", or an invalid value.
        masks: name of a mask -> column with its cells; the mask of a label is "label:NAME", of a cue "cue:NAME".
        cues: cue -> column with values as for labels.
        missing: columns that settings name but no table has; they are read as blank.
        notes: remarks, such as rows that were left out.
    """

    path: str
    root: str
    table: pl.DataFrame = field(repr=False)
    image: TextSource
    patient: TextSource | None
    labels: Mapping[str, str]
    masks: Mapping[str, str]
    cues: Mapping[str, str]
    missing: tuple[Problem, ...]
    notes: tuple[str, ...]


def assemble(
    section: CohortSection,
    labels: Mapping[str, LabelRule],
    folder: str | Path,
    *,
    options: tuple[str, str] = ("cohort.image", "cohort.patient"),
) -> CohortTable:
    """Read the tables of a cohort, and combine them to one row per case.

    Args:
        section: settings of the cohort; columns of images and patients without a setting are recognised by their names.
        labels: label -> rule for reading it.
        folder: folder or address to which paths are relative.
        options: options that name the columns of images and patients, for errors.

    Raises:
        StudyError: a table cannot be read or joined.
    """
    notes: list[str] = []
    table, path, root = _read(section, folder, notes)
    image, patient = _recognised(section, [name for name in table.columns if name not in RESERVED], path, options)
    split = split_source(section.split, table, path, notes)
    sources = dict(zip((*options, "cohort.split"), (image, patient, split), strict=True))
    needed = _needed(section, labels, sources, table.columns)
    problems = _missing(needed, {*table.columns, *section.columns}, path)
    blank = {column for _, column in needed} - set(table.columns)
    table = table.with_columns([pl.lit("").alias(column) for column in blank])
    table = _with_columns(table, section.columns)
    if split is not None:
        if split.lists:
            images = located_images(texts(table, image), root, search=section.search)
            cells = listed_splits(images, split, folder, notes)
        else:
            cells = texts(table, split)
        table = with_split(table, split, cells, path, notes)
        notes += notes_on_patients(texts(table, patient), table) if patient else []
    table = _only(table, section.only, notes)
    table = _with_columns(table, {source.name: source for source in (image, patient) if source})
    masks = {name: f"mask {name}" for name in _mask_sources(section, labels)}
    for name, source in _mask_sources(section, labels).items():
        cells = mask_column(table, source, section.boxes, folder)
        table = table.with_columns(cells.alias(masks[name]))
    rules = {f"label {name}": rule for name, rule in labels.items()}
    rules |= {f"cue {name}": LabelRule(column=cue.column) for name, cue in section.cues.items()}
    table = table.with_columns([_reduced(table, rule).alias(name) for name, rule in rules.items()])
    notes += [note for name, rule in labels.items() for note in _notes_on_lists(table, name, rule)]
    table = _without_missing(table, patient)
    if patient is not None and section.patient is None and (table[patient.name].str.strip_chars() == "").all():
        patient = None  # headers may have patients even if the column is empty
    keys = [source.name for source in (image, patient) if source]
    if section.merged:
        table = _merged(table, keys, list(rules), list(masks.values()), section)
    if section.merged and split is not None:
        refuse_two_splits(table, path)
    table = table.with_columns(located_images(table[image.name], root, search=section.search))
    return CohortTable(
        path=path,
        root=root,
        table=table,
        image=image,
        patient=patient,
        labels={name: f"label {name}" for name in labels},
        masks=masks,
        cues={name: f"cue {name}" for name in section.cues},
        missing=problems,
        notes=tuple(notes),
    )


def _without_missing(table: pl.DataFrame, patient: TextSource | None) -> pl.DataFrame:
    """Return the table with blank patients where their names are words for missing values."""
    if patient is None:
        return table
    names = [name if name.strip().lower() not in MISSING else "" for name in table[patient.name]]
    return table.with_columns(pl.Series(patient.name, names, pl.String))


def _read(section: CohortSection, folder: str | Path, notes: list[str]) -> tuple[pl.DataFrame, str, str]:
    """Return the table with its joined and derived columns, its path, and the folder of the images."""
    path, root = source_place(section.table, folder), located(section.root, folder)
    table, ragged = read_source(section.table, folder)
    if os.path.isdir(path):  # noqa: PTH112  as in read_table
        root = path
    elif "*" in section.table.path:
        path = section.table.path
    faults = pl.Series(FAULT, [ragged.get(row) for row in range(len(table))], pl.String)
    table = _with_columns(table.with_columns(faults), section.columns)
    for join in section.join:
        table = _joined(table, join, folder, path, notes)
    return _with_columns(table, section.columns), path, root


def _recognised(
    section: CohortSection, names: Sequence[str], path: str, options: tuple[str, str]
) -> tuple[TextSource, TextSource | None]:
    """Return the sources of images and patients, from the settings, a known layout, or the names of the columns.

    Raises:
        StudyError: several columns could be the source, or no column of images is recognised.
    """
    known = {} if section.image and section.patient else known_texts(names)
    image, patient = section.image or known.get("image"), section.patient or known.get("patient")
    try:
        image = image or TextSource(from_=image_column(names, option=options[0]))
        if patient is None and (name := find_column(names, "patient", option=options[1])):
            patient = TextSource(from_=name)
    except SettingError as error:
        raise StudyError([Problem(str(error), path, 1)]) from None
    return image, patient


def _mask_sources(section: CohortSection, labels: Mapping[str, LabelRule]) -> dict[str, MaskSource]:
    cues = {f"cue:{name}": cue.mask for name, cue in section.cues.items()}
    own = {f"label:{name}": rule.mask for name, rule in labels.items()}
    return {name: source for name, source in (section.masks | cues | own).items() if source is not None}


def _needed(
    section: CohortSection,
    labels: Mapping[str, LabelRule],
    sources: Mapping[str, TextSource | None],
    existing: list[str],
) -> list[tuple[str, str]]:
    """Return the columns that settings need, each with its setting."""
    texts = {where: source for where, source in sources.items() if source is not None and source.from_}
    texts |= {f"cohort.columns.{name}": source for name, source in section.columns.items()}
    masks = _mask_sources(section, labels)
    for name, source in masks.items():
        kind, _, rest = name.partition(":")
        where = {"label": f"labels.{rest}.mask", "cue": f"cohort.cues.{rest}.mask"}.get(kind, f"cohort.masks.{name}")
        texts |= {where: source} if source.boxes is None else {}
    needed = [(where, column) for where, source in texts.items() for column in source.columns(existing)]
    needed += [("cohort.group", name) for name in section.group]
    needed += [("cohort.strata", name) for name in section.strata]
    given = {"split"} if sources["cohort.split"] is not None else set()  # the column that `with_split` adds
    needed += [("cohort.only", name) for name in section.only if name not in given]
    needed += [("cohort.reader", section.reader)] if section.reader else []
    needed += [(f"cohort.cues.{name}", cue.column) for name, cue in section.cues.items()]
    needed += [(f"labels.{name}.column", rule.column) for name, rule in labels.items() if rule.column is not None]
    if section.boxes and section.boxes.table is None:
        needed += [("cohort.boxes", name) for name in box_columns(section.boxes)]
    return needed


def _missing(needed: Sequence[tuple[str, str]], known: set[str], path: str) -> tuple[Problem, ...]:
    names = [name for name in known if name not in RESERVED]
    return tuple(
        Problem(f"{nearest('column', column, names)} ({where} names it)", path, 1)
        for where, column in needed
        if column not in known
    )


def _with_columns(table: pl.DataFrame, sources: Mapping[str, TextSource]) -> pl.DataFrame:
    """Add the derived columns whose source columns exist."""
    for name, source in sources.items():
        if name not in table.columns and all(column in table.columns for column in source.columns(table.columns)):
            table = table.with_columns(texts(table, source).alias(name))
    return table


def _joined(table: pl.DataFrame, join: Join, folder: str | Path, path: str, notes: list[str]) -> pl.DataFrame:
    """Add the columns of a table with one row per key; existing columns are kept, and blank keys match none."""
    other, _ = read_source(join.table, folder)
    name, here, there = join.table.path, list(join.on), list(join.on.values())
    check_columns(table, here, path)
    check_columns(other, there, name)
    other = other.drop(LINE).with_columns(pl.col(there).str.strip_chars())
    other = other.filter(pl.all_horizontal(pl.col(there) != ""))
    other = other.rename({c: f"{join.prefix}{c}" for c in other.columns if c not in there})
    shared = {c: f"{_PARTNER}{c}" for c in other.columns if c in table.columns and c not in there}
    other = other.rename(shared)
    other = other.unique([c for c in other.columns if c not in shared.values()], keep="first", maintain_order=True)
    if twice := other.filter(other.select(there).is_duplicated()).select(there).rows():
        raise StudyError(
            [Problem(f"has several rows with {', '.join(there)} = {', '.join(twice[0])}: it needs one", name)]
        )
    marked = other.with_columns(pl.lit(value=True).alias(_PARTNER))
    trimmed = table.with_columns(pl.col(here).str.strip_chars())
    wide = trimmed.join(marked, left_on=here, right_on=there, how="left", maintain_order="left")
    lonely = int(wide[_PARTNER].is_null().sum())
    if lonely == len(wide):
        ours, theirs = (", ".join(next(iter(keys.rows()), ())) for keys in (table.select(here), other.select(there)))
        text = f"no row has a partner in {name}: {', '.join(here)} is {ours!r} here and {theirs!r} there"
        raise StudyError([Problem(text, path)])
    if lonely:
        first = ", ".join(wide.filter(pl.col(_PARTNER).is_null()).select(here).row(0))
        notes.append(
            f"{lonely} of {len(wide)} rows have no partner in {name}, the first with {', '.join(here)} = {first!r}"
        )
    for column, twin in shared.items():
        other_cells = wide[twin].fill_null("").str.strip_chars()
        if odd := ((other_cells != "") & (other_cells != wide[column].str.strip_chars())).sum():
            notes.append(f"{name} has another {column} for {odd} rows, which is not used: give the join a prefix")
    wide = wide.drop(_PARTNER, *shared.values())
    return wide.with_columns(pl.col(pl.String).exclude(FAULT).fill_null(""))


def _only(table: pl.DataFrame, only: Mapping[str, Sequence[str]], notes: list[str]) -> pl.DataFrame:
    for column, values in only.items():
        kept = table.filter(pl.col(column).str.strip_chars().is_in(list(values)))
        if not len(kept):
            found = ", ".join(repr(value) for value in table[column].unique(maintain_order=True)[:5])
            text = f"cohort.only leaves no row: {column} is never {' or '.join(map(repr, values))}, but {found}"
            raise StudyError([Problem(text)])
        if never := [value for value in values if value not in set(kept[column].str.strip_chars())]:
            notes.append(f"cohort.only: {column} is never {' or '.join(map(repr, never))}")
        if len(kept) < len(table):
            words = " or ".join(map(repr, values))
            notes.append(f"{len(table) - len(kept)} of {len(table)} rows are left out: {column} is not {words}")
        table = kept
    return table


def _reduced(table: pl.DataFrame, rule: LabelRule) -> pl.Series:
    if rule.column is None:
        return pl.Series([""] * len(table), dtype=pl.String)
    answers = {cell: reduced(cell, rule) for cell in table[rule.column].unique()}
    return pl.Series([answers[cell] for cell in table[rule.column]], dtype=pl.String)


def _notes_on_lists(table: pl.DataFrame, name: str, rule: LabelRule) -> list[str]:
    """Return a note if cells may be lists with an unusual sign between the values."""
    cells = table[rule.column].to_list() if rule.column and rule.contains else []
    odd = {cell for cell in dict.fromkeys(cells) if hidden_in(cell, rule)}
    if not odd:
        return []
    first, count = next(cell for cell in cells if cell in odd), sum(cell in odd for cell in cells)
    text = f"{name} is read as absent in {count} rows such as {first.strip()!r}"
    return [f'{text}: if these cells are lists, set labels.{name}.separator = "/" or another sign']


def _merged(
    table: pl.DataFrame, keys: list[str], labels: list[str], masks: list[str], section: CohortSection
) -> pl.DataFrame:
    """Merge the rows of each image: labels by votes, masks by union, other cells joined by "|".

    Rows without a reader are read by a reader each.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(key_rows(table, keys)):
        groups[key if key[0] else (*key, str(row))].append(row)
    rows = list(groups.values())
    readers = [""] * len(table) if section.reader is None else table[section.reader].str.strip_chars().to_list()
    readers = [reader or f"row {row}" for row, reader in enumerate(readers)]  # an unknown reader is one of their own
    columns: dict[str, list[object]] = {}
    for name in table.columns:
        cells = table[name].to_list()
        if name in labels:
            columns[name] = [
                voted([cells[i] for i in group], [readers[i] for i in group], section.votes or "any") for group in rows
            ]
        elif name in masks:
            columns[name] = [union([cells[i] for i in group]) for group in rows]
        elif name in (LINE, FAULT):
            columns[name] = [next((cells[i] for i in group if cells[i] is not None), None) for group in rows]
        else:
            columns[name] = [
                "|".join(dict.fromkeys(cell for i in group if (cell := cells[i].strip()))) for group in rows
            ]
    return pl.DataFrame(columns, schema=table.schema)
