"""Propose the cohort settings of a study file for a folder or a table."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.assemble import CohortTable, assemble
from camscope.cohort.columns import find_column, role_of
from camscope.cohort.dicom_folder import write_dicom_table
from camscope.cohort.folders import is_image_folder
from camscope.cohort.guesses import guessed_labels, guessed_masks, image_by_content, named_like
from camscope.cohort.hub_dataset import is_dataset
from camscope.cohort.layout import CohortLayout, Survey, TableFile, filled, match, survey
from camscope.cohort.locate import best_fit
from camscope.cohort.sections import CohortSection
from camscope.cohort.sources import read_source
from camscope.cohort.tables import RESERVED
from camscope.cohort.truth import lists_of, values_of
from camscope.errors import SettingError

Ask = Callable[[str, Sequence[str]], str | None]
"""Asks the user to choose; returns None without an answer."""


@dataclass
class Draft:
    """A proposed cohort for a folder or table.

    Attributes:
        folder: folder to which paths are relative.
        layout: name of the known layout; "" for none.
        cohort: settings of ``[cohort]``.
        labels: label -> settings of ``[labels.NAME]``, without model.
        notes: remarks, such as images that were not found.
        searched: columns that were searched for labels.
    """

    folder: Path
    layout: str
    cohort: dict[str, Any]
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)

    @property
    def section(self) -> CohortSection:
        """Return the checked settings of ``[cohort]``."""
        return CohortSection.model_validate(self.cohort)


def draft(path: Path, *, results: Path, ask: Ask = lambda *_: None) -> Draft:
    """Propose a cohort for a folder or a table.

    Args:
        path: path of the folder or table.
        results: folder in which a table of DICOM headers is written, if there is no other table.
        ask: called to let the user choose between candidates.

    Raises:
        SettingError: no cohort is recognised.
        StudyError: a table cannot be read or joined.
    """
    if not (path.exists() or is_dataset(str(path))):
        raise SettingError(f"there is no file or folder {str(path)!r}")
    found = survey(path)
    pair = match(found)
    proposal = _unknown(found, results, ask) if pair is None else _known(*pair, found)
    content = assemble(proposal.section.model_copy(update={"group": (), "strata": ()}), {}, proposal.folder)
    names = [name for name in content.table.columns if name not in RESERVED]
    for key in ("group", "strata"):
        kept = [name for name in proposal.cohort.get(key, ()) if name in names]
        proposal.cohort |= {key: kept}
    _fit_images(proposal, content)
    layout = pair[0] if pair else None
    if layout is None or layout.labels.detect:
        _guess(proposal, assemble(proposal.section, {}, proposal.folder), ask)
    else:
        _known_labels(proposal, layout, content, pair[1] if pair else {})
    if layout is not None:
        proposal.notes += layout.labels.notes
    proposal.cohort = {key: value for key, value in proposal.cohort.items() if value not in ([], {}, ())}
    return proposal


def _known(layout: CohortLayout, tables: Mapping[str, TableFile], found: Survey) -> Draft:
    """Return the cohort of a known layout."""
    paths = {key: table.path.relative_to(found.folder).as_posix() for key, table in tables.items()}
    settings = filled(dict(layout.cohort), paths)
    if "main" in tables:
        settings = {"table": paths["main"], **settings}
    if layout.folder and (pattern := layout.folder[0]).startswith("**/"):
        place = next(iter(sorted(found.folder.glob(pattern))))
        table = settings["table"]
        table["path"] = (place.parent.relative_to(found.folder) / table["path"]).as_posix()
    settings.setdefault("table", ".")
    if layout.lists and all((found.folder / name).is_file() for name in layout.lists.values()):
        settings["split"] = {"lists": layout.lists}
    if (patient := settings.get("patient")) and "main" in tables and isinstance(patient, str):
        joined = {name for table in tables.values() for name in table.columns}
        if patient not in {*joined, *settings.get("columns", {})}:
            del settings["patient"]
    main = layout.tables.get("main")
    alike = [table for table in found.tables if main and found.main is None and set(main.columns) <= set(table.columns)]
    used = {table.path for table in tables.values()}
    others = [table for table in alike if table.path not in used]
    notes = _unused(tables["main"], others, found.folder) if "main" in tables else []
    return Draft(found.folder, layout.name, settings, notes=notes)


def _unknown(found: Survey, results: Path, ask: Ask) -> Draft:
    """Return the cohort of a folder or table without a known layout."""
    candidates = [table for table in found.tables if found.main in (None, table.path)]
    candidates.sort(key=lambda table: re.search("sample|submission|test", table.path.stem.lower()) is not None)
    for table in candidates:
        settings: dict[str, Any] = {"table": table.path.relative_to(found.folder).as_posix()}
        notes: list[str] = []
        image = _role(table.columns, "image", ask, notes) or image_by_content(table.path, found.folder)
        if image is not None:
            settings["image"] = image
            if patient := _role(table.columns, "patient", ask, notes):
                settings["patient"] = patient
            settings["group"] = named_like(table.columns, "view")[:1]
            settings["strata"] = [*settings["group"], *named_like(table.columns, "stratum")]
            others = [other for other in candidates if image in other.columns]
            return Draft(found.folder, "", settings, notes=[*notes, *_unused(table, others, found.folder)])
    if found.main is not None:
        columns = found.tables[0].columns
        image = ask("Which column names the images?", columns)
        if not image:
            raise SettingError(
                f"{found.main}: no column of images is recognised among {', '.join(columns)}: name one of them 'path'"
            )
        return Draft(found.folder, "", {"table": found.main.name, "image": image})
    if (written := write_dicom_table(found.folder, results)) is not None:
        table_path, notes = written
        root = os.path.relpath(found.folder, table_path.parent)
        settings = {"table": table_path.name, "root": root, "image": "path", "patient": "patient"}
        settings |= {"group": ["view"], "strata": ["view", "laterality"]}
        return Draft(table_path.parent, "DICOM files", settings, notes=notes)
    return Draft(found.folder, "class folders", {"table": "."})


def _unused(table: TableFile, others: Sequence[TableFile], folder: Path) -> list[str]:
    """Return a note if other tables could be that of the cohort too."""
    names = [other.path.relative_to(folder).as_posix() for other in others if other != table]
    used = table.path.relative_to(folder).as_posix()
    return [f"the table is {used}; not used: {', '.join(names[:5])}"] if names else []


def _role(columns: Sequence[str], role: Any, ask: Ask, notes: list[str]) -> str | None:
    """Return the column with a role; of several candidates, the user's choice or, with a note, the first."""
    try:
        return find_column(columns, role, option="")
    except SettingError:
        candidates = [name for name in columns if find_column([name], role, option="")]
        answer = ask(f"Which column is that of the {role}?", candidates)
        if not answer:
            notes.append(f"{candidates[0]} is taken for the {role}; {' and '.join(candidates[1:])} could be it too")
        return answer or candidates[0]


def _fit_images(proposal: Draft, content: CohortTable) -> None:
    """Set how image files are found: by folder and suffix, or by a search."""
    names = list(dict.fromkeys(name for cell in content.table[content.image.name] if (name := cell.strip())))
    if not names:
        return
    fit = best_fit(names, content.root, like=Path(content.path).stem)
    root = os.path.relpath(fit.root, content.root)
    source = proposal.section.image
    if fit.search:
        proposal.cohort["search"] = True
    elif source is not None and source.pattern is None and not root.startswith("..") and (fit.suffix or root != "."):
        text = source.from_ if "{" in source.from_ else f"{{{source.from_}}}"
        proposal.cohort["image"] = f"{'' if root == '.' else f'{root}/'}{text}{fit.suffix}"
    elif root != ".":
        proposal.cohort["root"] = os.path.relpath(fit.root, proposal.folder)
    if fit.others and not fit.search:
        used, others = os.path.relpath(fit.root, content.root), (os.path.relpath(o, content.root) for o in fit.others)
        proposal.notes.append(f"the images are also found in {', '.join(others)}; those in {used} are used")


def _known_labels(proposal: Draft, layout: CohortLayout, content: CohortTable, tables: Mapping[str, TableFile]) -> None:
    """Set the labels of a layout, with their masks."""
    part, names = layout.labels, content.table.columns
    proposal.labels |= {name: dict(settings) for name, settings in part.given.items()}
    for name in part.columns:
        if name in names:
            proposal.labels[name] = {"column": name, **part.settings}
    if part.column is not None:
        cells = content.table[part.column]
        values = list(part.values) or _frequent(cells, part.most)
        for value in values:
            proposal.labels[value] = {"column": part.column, "contains": value, **part.settings}
    with_boxes = "boxes" in proposal.cohort
    known_boxes = _box_labels(proposal, content) if with_boxes else set()
    for name, settings in proposal.labels.items():
        box = part.boxes.get(name) or (name if part.boxed else None)
        if with_boxes and box and box.casefold() in known_boxes:
            settings["mask"] = {"boxes": box}
        elif part.masks and (column := part.masks.format(label=name)) in names and (content.table[column] != "").any():
            settings["mask"] = column


def _box_labels(proposal: Draft, content: CohortTable) -> set[str]:
    """Return the labels of the boxes, in lower case."""
    boxes = proposal.section.boxes
    if boxes is None or boxes.label is None:
        return set()
    table = content.table if boxes.table is None else read_source(boxes.table, proposal.folder)[0]
    return {part.strip().casefold() for cell in table[boxes.label] for part in cell.split("|")}


def _frequent(cells: pl.Series, most: int) -> list[str]:
    """Return the values of a column, at most the ``most`` most frequent."""
    values, _ = values_of(cells)
    if len(values) <= most:
        return values
    lists, _ = lists_of(cells)
    count = Counter(part for cell in cells for part in lists.get(cell.strip(), ()))
    return sorted(values, key=lambda value: (-count[value], value))[:most]


def _guess(proposal: Draft, content: CohortTable, ask: Ask) -> None:
    """Set labels and masks by the content of the columns."""
    settings = proposal.cohort
    section = proposal.section
    if settings["table"] == ".":
        _guess_of_folders(proposal, content)
        return
    taken = {*section.group, *section.strata, *RESERVED, "path", "file"}
    for source in (content.image, content.patient):
        taken |= {source.name, *source.columns(content.table.columns)} if source else set()
    roles = ("image", "patient", "split")
    columns = [name for name in content.table.columns if name not in taken and role_of(name) not in roles]
    masks, notes = guessed_masks(content.table.select(columns), content)
    others = [name for name in columns if name not in named_like(columns, "mask")]
    labels, more = guessed_labels(content.table.select(others), ask)
    for name, column in list(masks.items()):
        if label := next((label for label in labels if column.lower().startswith(f"{label.lower()}_")), None):
            labels[label]["mask"] = column
            del masks[name]
    proposal.searched = others
    settings["masks"] = masks
    proposal.labels |= labels
    proposal.notes += [*notes, *more]


def _guess_of_folders(proposal: Draft, content: CohortTable) -> None:
    """Set the labels and masks of a folder of class folders."""
    table = content.table
    classes = sorted({name for name in table["class"] if name})
    columns = [name for name in table.columns if name not in (*RESERVED, *classes, "path", "class", "split")]
    proposal.cohort["masks"], notes = guessed_masks(table.select(columns), content, columns)
    proposal.labels |= {name: {"column": name} for name in classes}
    proposal.notes += notes
    if len(classes) == 1:
        proposal.notes.append(
            f"all images are of one class, {classes[0]!r}: if the folders in it are the classes, give {classes[0]}"
        )
    inner = [_folders_of(table, name) for name in classes]
    if "split" not in table.columns and len(classes) > 1 and inner[0] and all(names == inner[0] for names in inner):
        proposal.notes.append(
            f"the folders of all classes hold the same folders, {', '.join(sorted(inner[0])[:5])}: if these are the "
            'classes, write table = { path = ".", files = "{patient}/{class}/*" }'
        )


def _folders_of(table: pl.DataFrame, name: str) -> set[str]:
    """Return the folders in a class folder that hold images, other than usual ones such as ``images``."""
    paths = table.filter(pl.col("class") == name)["path"]
    parts = [Path(path).parts for path in paths]
    inner = {part[part.index(name) + 1] for part in parts if name in part[:-2]}
    return {folder for folder in inner if not is_image_folder(folder)}
