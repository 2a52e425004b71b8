"""Data of an evaluation: images with their patients, annotations and targets, from a folder or a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from camscope.cohort.annotations import Mask, read_annotation
from camscope.cohort.tables import LINE, located, names_file, read_table
from camscope.errors import AnnotationError, SettingError, nearest
from camscope.images import find_pictures
from camscope.images.source import is_address

_IMAGE_COLUMNS = ("path", "file", "image", "filename")
_PATIENT_COLUMNS = ("patient", "patient_id", "subject")
_NOTHING = ("", "[]")
_COLUMN = "column:"


@dataclass(frozen=True)
class Item:
    """An image to evaluate on.

    Attributes:
        number: index from 0, in the order of the data.
        line: line of the table, from 1; 0 for images of a folder.
        image: name of the image in the data.
        source: path or address that the image is read from.
        patient: patient of the image; the image itself if the data name no patients.
        cells: annotations of the target, each a mask file, boxes or run lengths (`read_annotation`); () for none.
        root: folder that files in ``cells`` are relative to.
        target: the class, by name or index; "" for the predicted class.
        problem: why the image cannot be used; "" if it can.
    """

    number: int
    line: int
    image: str
    source: str
    patient: str
    cells: tuple[str, ...] = ()
    root: str = ""
    target: str = ""
    problem: str = ""

    def mask(self, size: tuple[int, int]) -> Mask | None:
        """Return the mask (H, W) of the target, the union of its annotations; None without annotation.

        Raises:
            AnnotationError: a cell that cannot be read, or an annotation that covers no pixel.
        """
        found: Mask | None = None
        for cell in self.cells:
            root = self.root
            if is_address(root) and names_file(cell):
                cell, root = located(cell, root), ""
            mask = read_annotation(cell, size, root=Path(root))
            found = mask if found is None else found | mask
        if found is not None and not found.any():
            raise AnnotationError(f"the annotation of {self.image!r} covers no pixel: leave its cell blank")
        return found


@dataclass(frozen=True)
class Items:
    """The images of an evaluation, and facts about the data.

    Attributes:
        path: path of the table or folder.
        items: the images.
        patients: whether the data name patients.
        annotated: number of images with an annotation.
    """

    path: str
    items: Sequence[Item]
    patients: bool

    @property
    def annotated(self) -> int:
        """Return the number of images with an annotation."""
        return sum(bool(item.cells) for item in self.items)


def read_items(
    data: str | Path,
    *,
    masks: str | None = None,
    boxes: str | None = None,
    target: str | None = None,
    image: str | None = None,
    patient: str | None = None,
    exclude: Sequence[Path] = (),
) -> Items:
    """Find the images of a folder or table, with their annotations, patients and targets.

    Args:
        data: a folder, or a CSV, TSV or Parquet table; paths in a table are relative to it.
        masks: column with masks, boxes or run lengths, or a folder with one mask per image, of the image's name.
        boxes: column with boxes.
        target: the class of every image, by name or index; "column:NAME" to read it from a column; None for the
            predicted class.
        image: column with the images; None for the first of "path", "file", "image" and "filename" in the table.
        patient: column with the patients; None for "patient", "patient_id" or "subject" if the table has one.
        exclude: folders to skip, such as that of the results.

    Raises:
        TableError: a table that cannot be read.
        PictureError: a folder without images.
        SettingError: a column or folder that does not exist.
    """
    data = str(data)
    if os.path.isdir(data):  # noqa: PTH112  Path.is_dir() raises on names that are too long
        for name, given in (("--boxes", boxes), ("--image", image), ("--patient", patient)):
            if given is not None:
                raise SettingError(f"{name} names a column, and {data!r} is a folder: give a table, or leave it out")
        return _of_folder(Path(data), masks, target, exclude)
    return _of_table(data, masks, boxes, target, image, patient)


def _of_folder(folder: Path, masks: str | None, target: str | None, exclude: Sequence[Path]) -> Items:
    if target and target.startswith(_COLUMN):
        raise SettingError(f"--target {target!r} names a column, and {str(folder)!r} is a folder: give a class")
    own = [] if masks is None else [_mask_folder(masks)]
    found = [path for path, _ in find_pictures([folder], exclude=[*exclude, *own])]
    beside = _by_stem(own[0]) if own else {}
    items = []
    for number, path in enumerate(found):
        name = path.relative_to(folder)
        mask = beside.get(name.with_suffix("").as_posix()) or beside.get(name.stem)
        cells = (f"./{mask}",) if mask else ()
        root = str(own[0]) if own else ""
        items.append(Item(number, 0, name.as_posix(), str(path), name.as_posix(), cells, root, target or ""))
    return Items(str(folder), items, patients=False)


def _of_table(
    path: str, masks: str | None, boxes: str | None, target: str | None, image: str | None, patient: str | None
) -> Items:
    table, ragged = read_table(path)
    known = [name for name in table.columns if name != LINE]
    root = path.rpartition("/")[0] if is_address(path) else str(Path(path).parent)
    pictures = _column(known, image, _IMAGE_COLUMNS, option="--image")
    if pictures is None:
        raise SettingError(f"none of the columns {known} is called {', '.join(_IMAGE_COLUMNS)}: name one with --image")
    patients = _column(known, patient, _PATIENT_COLUMNS, option="--patient")
    places = [_column(known, boxes, (), option="--boxes")] if boxes else []
    folder = None
    if masks is not None and masks not in known and Path(masks).is_dir():
        folder = _mask_folder(masks)
    elif masks is not None:
        places.append(_column(known, masks, (), option="--masks"))
    beside = {} if folder is None else _by_stem(folder)
    classes = None
    if target and target.startswith(_COLUMN):
        classes = _column(known, target[len(_COLUMN) :], (), option="--target")
    items = []
    for number, row in enumerate(table.iter_rows(named=True)):
        name = row[pictures].strip()
        cells = tuple(cell for column in places if column and (cell := row[column].strip()) not in _NOTHING)
        if folder is not None and (mask := beside.get(Path(name).stem)):
            cells = (*cells, f"./{os.path.relpath(folder / mask, root)}")
        whose = row[patients].strip() if patients else name
        wanted = row[classes].strip() if classes else target or ""
        problem = ragged.get(number, "") or ("" if name else f"{pictures} is blank: name the image file")
        if patients and not whose:
            problem = problem or f"{patients} is blank: name the patient"
        if classes and not wanted:
            problem = problem or f"{classes} is blank: name the class"
        items.append(Item(number, row[LINE], name, located(name, root), whose, cells, root, wanted, problem))
    return Items(path, items, patients=patients is not None)


def _column(known: Sequence[str], asked: str | None, usual: Sequence[str], *, option: str) -> str | None:
    """Return the column with the given name, or else the first with a usual name."""
    if asked is None:
        lowered = {name.lower(): name for name in known}
        return next((lowered[name] for name in usual if name in lowered), None)
    if asked not in known:
        raise SettingError(f"{nearest('column', asked, known)} ({option} names it)")
    return asked


def _mask_folder(masks: str) -> Path:
    folder = Path(masks)
    if not folder.is_dir():
        raise SettingError(f"--masks {masks!r} is neither a column of the data nor a folder")
    return folder


def _by_stem(folder: Path) -> dict[str, str]:
    """Return the masks of a folder by their relative path without suffix, and by their bare name."""
    found = [path.relative_to(folder) for path, _ in find_pictures([folder])]
    bare = {path.stem: path.as_posix() for path in found}
    return bare | {path.with_suffix("").as_posix(): path.as_posix() for path in found}
