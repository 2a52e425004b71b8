"""Datasets of Hugging Face's `datasets` as records, with their images as files; and those of FiftyOne."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from camscope.cohort.fiftyone_dataset import FIFTYONE, fiftyone_records
from camscope.cohort.records import Record
from camscope.errors import CamscopeError, TableError, nearest, reason, require
from camscope.files import write_atomically
from camscope.images.registry import READERS
from camscope.naming import cache_folder, file_name

DATASET = "datasets:"
"""Start of a table's name that stands for a dataset: ``datasets:FOLDER_OR_NAME`` or ``datasets:NAME#test``."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SAVED = ("dataset_dict.json", "state.json")  # files of save_to_disk
_IN_JSON = re.compile(r"bool|u?int\d+|float\d+|(large_)?string")
_BATCH = 64


def is_dataset(name: str) -> bool:
    """Return whether the name of a table stands for a dataset.

    >>> is_dataset("datasets:owner/xrays#test"), is_dataset("fiftyone:xrays"), is_dataset("datasets.csv")
    (True, True, False)
    """
    return name.startswith((DATASET, FIFTYONE))


def dataset_place(name: str, folder: str | Path) -> str:
    """Return a dataset's name with its folder below another folder, where it is one; names on the hub stay.

    >>> dataset_place("datasets:owner/xrays#test", "cohort")
    'datasets:owner/xrays#test'
    """
    if name.startswith(FIFTYONE):
        return name
    place, mark, split = name.removeprefix(DATASET).partition("#")
    local = Path(folder, place)
    # A folder that only the working directory has must not be taken for the one beside the study file.
    return f"{DATASET}{local}{mark}{split}" if local.exists() or Path(place).exists() else name


def dataset_records(name: str) -> list[Record]:
    """Return one record per row of a dataset.

    Images that are files stay where they are; others are written, as they are encoded, into the folder for caches
    (``CAMSCOPE_CACHE``), in a folder named after their content. Class numbers become names, unknown ones blank. Columns
    that are neither images, classes, texts nor numbers, nor lists or objects of these, are left out.

    Args:
        name: ``datasets:PLACE`` or ``datasets:PLACE#SPLIT``; the place is a folder of `save_to_disk`, a folder that
            `load_dataset` reads, such as one of class folders, or a name on the hub. Without a split, a dataset with
            several is read as a whole, and the column ``split`` names them. ``fiftyone:NAME``: see `fiftyone_records`.

    Raises:
        TableError: there is no such dataset or split, or it cannot be loaded, as without a network.
        MissingExtraError: `datasets` is not installed.
    """
    if name.startswith(FIFTYONE):
        return fiftyone_records(name)
    datasets = require("datasets", f"reading {name}", "datasets")
    place, _, wanted = name.removeprefix(DATASET).partition("#")
    parts = _loaded(datasets, place, name)
    if wanted:
        if wanted not in parts:
            raise TableError(nearest("split", wanted, list(parts)), name)
        parts = {wanted: parts[wanted]}
    if len(parts) > 1 and any("split" in part.column_names for part in parts.values()):
        first = f"{name}#{next(iter(parts))}"
        raise TableError(f"has a column split and the splits {', '.join(parts)}: name one, such as {first}", name)
    records = []
    for split, part in parts.items():
        extra = {"split": split} if len(parts) > 1 else {}
        try:
            records += [record | extra for record in _rows(datasets, part)]
        except CamscopeError:
            raise
        except Exception as fault:  # of damaged files; datasets and pyarrow raise many kinds
            raise TableError(f"the dataset cannot be read: {reason(fault)}", name) from None
    return records


def _loaded(datasets: Any, place: str, name: str) -> dict[str, Any]:
    """Return the splits of a dataset."""
    folder = Path(place)
    if not folder.exists() and not _HUB_NAME.fullmatch(place):
        raise TableError(f"there is no folder {place!r}, and datasets on the hub are called NAME or OWNER/NAME", name)
    try:
        if any((folder / file).exists() for file in _SAVED):
            content = datasets.load_from_disk(place)
        else:
            content = datasets.load_dataset(place)
    except Exception as fault:  # no network, no such dataset, damaged files: datasets raises many kinds
        raise TableError(f"the dataset cannot be loaded: {reason(fault)}", name) from None
    return dict(content) if isinstance(content, Mapping) else {str(content.split or "all"): content}


def _rows(datasets: Any, part: Any) -> list[Record]:
    """Return the records of a split."""
    cells = {column: cell for column, kind in part.features.items() if (cell := _cell_of(datasets, kind)) is not None}
    part = part.with_format(None).select_columns(list(cells))
    for column, kind in part.features.items():
        if isinstance(kind, datasets.Image):
            part = part.cast_column(column, datasets.Image(decode=False))
    records: list[Record] = []
    for batch in part.iter(batch_size=_BATCH):
        columns = {column: map(cells[column], values) for column, values in batch.items()}
        records += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return records


def _cell_of(datasets: Any, kind: Any, *, inside: bool = False) -> Callable[[Any], Any] | None:
    """Return what makes a cell of a value of some kind, or its part inside a list or object; None if nothing does."""
    if isinstance(kind, datasets.Image):
        return None if inside else _image_file
    if isinstance(kind, datasets.ClassLabel):
        return lambda number: None if number is None or number < 0 else kind.int2str(number)
    if isinstance(kind, datasets.Value):
        readable = _IN_JSON.fullmatch(kind.dtype) if inside else "binary" not in kind.dtype
        return (lambda value: value) if readable else None
    if isinstance(kind, datasets.List | datasets.LargeList):
        part = _cell_of(datasets, kind.feature, inside=True)
        return part and (lambda values: None if values is None else [part(value) for value in values])
    if isinstance(kind, dict):
        parts = {key: part for key, value in kind.items() if (part := _cell_of(datasets, value, inside=True))}
        return lambda content: None if content is None else {key: part(content[key]) for key, part in parts.items()}
    return None


def _image_file(image: Mapping[str, Any] | None) -> str | None:
    """Return the path of an image's file, which is written if the image is none."""
    if image is None:
        return None
    content, path = image["bytes"], image["path"] or ""
    if content is None:
        return str(path)
    digest = hashlib.sha256(content).hexdigest()[:32]
    base = re.split(r"[/\\]", path)[-1]
    suffix = next((end for end in sorted(READERS, key=len, reverse=True) if end and base.lower().endswith(end)), "")
    stem = file_name(base[: len(base) - len(suffix)]) if base else digest
    file = cache_folder("datasets") / digest / f"{stem}{suffix}"
    if not file.exists():
        write_atomically(file, lambda target: target.write(content))
    return str(file)
