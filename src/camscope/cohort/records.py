"""Read the records of JSON and XML files: rows of a table, COCO and Pascal VOC annotations."""

from __future__ import annotations

import glob
import json
import warnings
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from camscope.errors import CamscopeError, TableError, reason
from camscope.images import fetch

Record = dict[str, Any]
_COCO = ("images", "annotations", "categories")


def json_records(text: str, path: str, *, lines: bool) -> list[Record]:
    """Return the records of a JSON text.

    Args:
        text: the content of a file.
        path: path of the file, for errors.
        lines: whether each line is a separate object; other texts of several objects are read so too.

    Raises:
        TableError: the text is not JSON, or has no records.

    >>> json_records('{"a1": {"Edema": 1}, "a2": {"Edema": 0}}', "t.json", lines=False)
    [{'key': 'a1', 'Edema': 1}, {'key': 'a2', 'Edema': 0}]
    """
    numbered = enumerate(text.split("\n"), 1) if lines else [(1, text)]
    contents = []
    for number, part in numbered:
        try:
            contents += [json.loads(part)] if part.strip() else []
        except (ValueError, RecursionError) as fault:
            if not lines and str(fault).startswith("Extra data"):
                return json_records(text, path, lines=True)
            raise TableError(f"is no JSON: {reason(fault)}", path, number if lines else None) from None
    content = contents if lines else contents[0] if contents else []
    if isinstance(content, dict) and all(isinstance(content.get(name), list) for name in _COCO):
        return coco_records(content, path)
    if isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        return [{"key": key, **value} for key, value in content.items()]
    if isinstance(content, list) and all(isinstance(record, dict) for record in content):
        return content
    raise TableError("has no records: expected a list of objects, an object of objects, or COCO annotations", path)


def coco_records(content: Mapping[str, Any], path: str) -> list[Record]:
    """Return one record per image of COCO annotations.

    Returns:
        The entries of the image (``file_name`` as ``path``), ``classes`` (names of its annotations joined by "|"), and
        per class ``mask of NAME`` (its annotations as a mask cell).

    Raises:
        TableError: an image, annotation or category lacks a required entry.
    """
    try:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        objects: dict[Any, list[tuple[str, Record]]] = defaultdict(list)
        sizes = {str(image["id"]): [image["height"], image["width"]] for image in content["images"]}
        for annotation in content["annotations"]:
            size = sizes.get(str(annotation["image_id"]))
            shape = _coco_shape(annotation, size) if size else {}
            objects[str(annotation["image_id"])].append((names[annotation["category_id"]], shape))
        if objects and sizes.keys().isdisjoint(objects):
            raise TableError(f"has no annotation of its images: the first has image_id {next(iter(objects))!r}", path)
        if foreign := [identity for identity in objects if identity not in sizes]:
            text = f"annotations of {len(foreign)} images that it does not list are left out, the first of image_id"
            warnings.warn(f"{path}: {text} {foreign[0]!r}", stacklevel=6)
        records = []
        for image in content["images"]:
            facts = {key: value for key, value in image.items() if key not in ("file_name", "license", "coco_url")}
            records.append(
                {"path": image["file_name"], **facts, **_described(objects[str(image["id"])], names.values())}
            )
    except (KeyError, TypeError, AttributeError) as fault:
        raise TableError(f"has annotations that COCO does not allow: {type(fault).__name__} {fault}", path) from None
    return records


def _coco_shape(annotation: Mapping[str, Any], size: list[int]) -> Record:
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        return outline
    if outline:
        return {"size": size, "polygons": outline}
    x, y, width, height = annotation["bbox"]
    return {"size": size, "boxes": [[x, y, x + width, y + height]]}


def _described(objects: Sequence[tuple[str, Record]], names: Sequence[str] | Any) -> Record:
    """Return the classes of an image, and its masks per class; names that differ only in capitals are one."""
    spelling: dict[str, str] = {}
    names = [spelling.setdefault(name.casefold(), name) for name in names]
    objects = [(spelling.get(name.casefold(), name), shape) for name, shape in objects]
    record: Record = {"classes": "|".join(dict.fromkeys(name for name, _ in objects))}
    for name in dict.fromkeys(names):
        cells = [json.dumps(shape) for other, shape in objects if other == name and shape]
        record[f"mask of {name}"] = union(cells)
    return record


def union(cells: Sequence[str]) -> str:
    """Return one cell of a mask for several."""
    different = list(dict.fromkeys(filter(None, cells)))
    return json.dumps({"union": different}) if len(different) > 1 else "".join(different)


def xml_records(path: str, *, each: str | None, columns: Mapping[str, str]) -> list[Record]:
    """Return the records of XML files.

    Args:
        path: path of a file, or ``folder/*.xml``.
        each: path of the elements that become records, such as "object"; None for one record per file.
        columns: column -> path of an element, relative to ``each``, or with "/" before it to the file's root; "@id" is
            an attribute. Several elements are joined by "|". Without columns, the files must be Pascal VOC annotations,
            with one record per file: ``path``, ``width``, ``height``, ``classes`` and ``mask of NAME`` per class.

    Raises:
        TableError: a file does not exist, is not XML, or (without columns) is not a VOC annotation.
    """
    # Not Path.glob(): it takes no absolute patterns.
    paths = sorted(glob.glob(path)) if glob.has_magic(path) else [path]  # noqa: PTH207
    if not paths:
        raise TableError("no file has such a name", path)
    roots = [(name, _root(name)) for name in paths]
    if not columns:
        return _voc_records(roots)
    records = []
    for name, root in roots:
        for element in [root] if each is None else root.iterfind(each):
            found = {column: _values(place, element, root) for column, place in columns.items()}
            records.append({"file": Path(name).name} | {column: "|".join(values) for column, values in found.items()})
    return records


def _root(path: str) -> ET.Element:
    try:
        return ET.fromstring(fetch(path))
    except (ET.ParseError, ValueError, LookupError) as fault:
        raise TableError(f"is no XML: {fault}", path) from None
    except CamscopeError as error:
        raise TableError(str(error), path) from None


def _values(place: str, element: ET.Element, root: ET.Element) -> Iterator[str]:
    """Yield the texts or attributes at a path."""
    start, place = (root, place[1:]) if place.startswith("/") else (element, place)
    steps, _, attribute = place.partition("@")
    for match in start.iterfind(steps.rstrip("/")) if steps else [start]:
        text = match.get(attribute) if attribute else match.text
        if text and text.strip():
            yield " ".join(text.split())


def _voc_records(roots: Sequence[tuple[str, ET.Element]]) -> list[Record]:
    parts = []
    for path, root in roots:
        if root.tag != "annotation" or root.find("filename") is None:
            raise TableError(
                'is no Pascal VOC annotation: say with each and columns = {NAME = "path"} what it is', path
            )
        try:
            size = [int(float(root.findtext(f"size/{side}", "0"))) for side in ("height", "width")]
            objects = [(item.findtext("name", "").strip(), _voc_box(item, size)) for item in root.iterfind("object")]
        except ValueError as fault:
            raise TableError(f"has an invalid number: {fault}", path) from None
        parts.append((root.findtext("filename", "").strip(), size, objects))
    names = sorted({name for _, _, objects in parts for name, _ in objects})
    return [
        {"path": name, "width": size[1], "height": size[0], **_described(objects, names)}
        for name, size, objects in parts
    ]


def _voc_box(item: ET.Element, size: list[int]) -> Record:
    """Return the box of an object; VOC counts pixels from 1 and includes the last pixel."""
    left, top, right, bottom = (float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    shape: Record = {"boxes": [[left - 1, top - 1, right, bottom]]}
    return shape | {"size": size} if all(size) else shape
