"""Datasets of FiftyOne as records: one per sample, with labels, boxes, outlines and masks as cells."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from camscope.cohort.records import Record
from camscope.errors import CamscopeError, TableError, nearest, reason, require
from camscope.images import peek

FIFTYONE = "fiftyone:"
"""Start of a table's name that stands for a dataset of FiftyOne: ``fiftyone:NAME`` or ``fiftyone:NAME#VIEW``."""

_OWN = ("id", "filepath", "metadata", "tags", "created_at", "last_modified_at")


def _opened(name: str) -> Any:
    """Return a dataset, or a saved view of it."""
    fiftyone = require("fiftyone", f"reading {name}", "fiftyone")
    title, _, view = name.removeprefix(FIFTYONE).partition("#")
    try:
        titles = fiftyone.list_datasets()
        if title not in titles:
            raise TableError(nearest("dataset", title, titles), name)
        dataset = fiftyone.load_dataset(title)
        if not view:
            return dataset
        if view not in (views := dataset.list_saved_views()):
            raise TableError(nearest("saved view", view, views), name)
        return dataset.load_saved_view(view)
    except TableError:
        raise
    except Exception as fault:  # of the database; FiftyOne and pymongo raise many kinds
        raise TableError(f"the dataset cannot be opened: {reason(fault)}", name) from None


def fiftyone_records(name: str) -> list[Record]:
    """Return one record per sample of a dataset.

    * ``path``, ``id``, and the sample's tags as ``tags``, joined by "|".
    * A classification is its label; several are joined by "|", and none of several is "[]".
    * Detections and polylines are their labels, joined by "|", and per label ``FIELD mask of LABEL``: its boxes or
      outlines as a mask cell. Of an instance with a mask the box is used.
    * A segmentation with a mask file is the path of the file.
    * Texts, numbers and truth values are themselves. Other fields, and labels without content, are left out.

    Args:
        name: ``fiftyone:NAME`` or ``fiftyone:NAME#VIEW``, a saved view.

    Raises:
        TableError: there is no such dataset or view, it has no images, or the database cannot be reached.
        MissingExtraError: `fiftyone` is not installed.
    """
    samples = _opened(name)
    if samples.media_type != "image":
        raise TableError(f"has media of type {samples.media_type!r}: give a dataset of images", name)
    fields = [field for field in samples.get_field_schema() if field not in _OWN]
    try:
        records = [_record(sample, fields) for sample in samples.iter_samples(progress=False)]
    except Exception as fault:  # of the database, or of files that cannot be read
        raise TableError(f"the dataset cannot be read: {reason(fault)}", name) from None
    columns = dict.fromkeys(column for record in records for column in record)
    return [dict.fromkeys(columns, "") | record for record in records]


def _record(sample: Any, fields: Iterable[str]) -> Record:
    record: Record = {"path": sample.filepath, "id": str(sample.id), "tags": "|".join(sample.tags)}
    for field in fields:
        value = sample[field]
        if isinstance(value, str | int | float | bool):
            record[field] = value
        elif hasattr(value, "to_dict") and "_cls" in (content := value.to_dict()):
            record |= _cells(field, content, sample)
    return record


def _cells(field: str, content: Mapping[str, Any], sample: Any) -> Record:
    """Return the cells of a label of FiftyOne, given as a dict."""
    kind = content["_cls"]
    if kind in ("Classification", "Classifications"):
        parts = content.get("classifications", [content])
        return {field: _joined(str(part["label"]) for part in parts if part.get("label") is not None)}
    if kind == "Segmentation":
        return {field: content["mask_path"]} if content.get("mask_path") else {}
    shapes = {"Detection": _boxes, "Detections": _boxes, "Polyline": _polygons, "Polylines": _polygons}
    size = _size(sample) if kind in shapes else None
    if size is None:
        return {}
    members = content.get("detections", content.get("polylines", [content]))
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for member in members:
        groups[str(member.get("label") or "object")].append(member)
    cells = {
        f"{field} mask of {label}": json.dumps({"size": list(size), **shapes[kind](group, size)})
        for label, group in groups.items()
    }
    return {field: _joined(groups)} | cells


def _size(sample: Any) -> tuple[int, int] | None:
    """Return the (height, width) of a sample, from its metadata or its file; None if the file cannot be read."""
    if sample.metadata is not None:
        return sample.metadata.height, sample.metadata.width
    with suppress(CamscopeError):
        return peek(sample.filepath).size
    return None


def _joined(labels: Iterable[str]) -> str:
    """Return labels joined by "|"; an empty list, which says that there is none, where a blank cell is unknown."""
    return "|".join(labels) or "[]"


def _boxes(members: list[Mapping[str, Any]], size: tuple[int, int]) -> Record:
    height, width = size
    boxes = [member["bounding_box"] for member in members]
    return {"boxes": [[x * width, y * height, (x + w) * width, (y + h) * height] for x, y, w, h in boxes]}


def _polygons(members: list[Mapping[str, Any]], size: tuple[int, int]) -> Record:
    height, width = size
    outlines = [points for member in members for points in member["points"]]
    return {"polygons": [[number for x, y in points for number in (x * width, y * height)] for points in outlines]}
