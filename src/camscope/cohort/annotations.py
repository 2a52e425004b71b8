"""Read the annotation in a cell of a table: boxes, polygons, run lengths or a mask file."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from camscope.array_types import Mask
from camscope.cohort.runs import coco, pairs, picture_size
from camscope.cohort.shapes import boxes, polygons
from camscope.cohort.tables import located
from camscope.errors import AnnotationError, MissingExtraError, PictureError, shortened
from camscope.images import decode, fetch
from camscope.images.photo import FORMATS

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBERS_AND_COMMAS = re.compile(rf"{_NUMBER}\s*(?:[,;]\s*(?:{_NUMBER}\s*)?)+")
_BOX = r"\[[-+\d.,eE\s]*\]"
_LISTED_BOXES = re.compile(rf"\[\s*{_BOX}(?:[\s,]*{_BOX})*\s*\]")
_NUMBERS_AND_BLANKS = re.compile(r"\d+(?:\s+\d+)+")
_POSSIBLE = "expected a box 'x0,y0,x1,y1', run lengths or a mask file"
BOX_FORMS = "a list of boxes is [[x0, y0, x1, y1], ...]; boxes in other forms are read by [cohort.boxes] with form"
_ASPECT = 0.02
_JPEG = b"\xff\xd8\xff"


def read_annotation(cell: str, size: tuple[int, int], *, root: str | Path) -> Mask:
    """Convert a cell of a table to a mask of the image.

    The form of the cell is recognised in this order:

    * ``{...}``: JSON, or a Python dictionary, with

      - ``counts`` and ``size`` [height, width]: COCO's run lengths, as a list or compressed (outside and inside in
        turn, down the columns);
      - ``runs``: ``start length start length ...``, with ``coding`` "absolute" (from 1) or "relative" (from the end of
        the previous run) and optionally ``size``;
      - ``boxes`` [[x0, y0, x1, y1], ...] and ``polygons`` [[x, y, x, y, ...], ...], with ``size`` if they were drawn at
        another size than that of the image;
      - ``file``, with ``values`` [...] or ``bits``: the pixels of a mask file that have one of the values, or any of
        the bits;
      - ``union`` [...]: the union of several cells;

    * numbers with commas: boxes ``x0,y0,x1,y1`` in pixels of the image, separated by ``;``, or written as JSON,
      ``[[x0, y0, x1, y1], ...]``, or as NumPy prints them. A pixel is inside if its centre is inside, so whole numbers
      exclude x1 and y1;
    * two or more whole numbers with blanks: Kaggle's run lengths ``start length start length ...``, from 1, down the
      columns;
    * any other text is a file, relative to ``root``, or an address such as ``s3://...``. A pixel is inside if it is not
      black or, in files with transparent pixels, if it is not transparent; in JPEG files, whose compression changes
      the pixels near edges, if it is brighter than half.

    Write ``./1,2,3,4`` for a file called so. Masks of another size than the image are resized (nearest neighbour) if
    their aspect ratio agrees within 2 %.

    Args:
        cell: the text, not empty.
        size: (H, W) of the image in pixels.
        root: folder or address to which paths are relative.

    Returns:
        (H, W) mask, true inside; may be false everywhere.

    Raises:
        AnnotationError: the cell or its file cannot be read as a mask.

    >>> read_annotation("1,0,3,2", (2, 4), root=Path()).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]])
    >>> read_annotation('{"polygons": [[0, 0, 4, 0, 4, 1, 0, 1]]}', (2, 4), root=Path()).astype(int)
    array([[1, 1, 1, 1],
           [0, 0, 0, 0]])
    """
    text = cell.strip()
    if not text:
        raise AnnotationError(f"an empty cell says nothing about where something is; {_POSSIBLE}")
    if text.startswith("{"):
        return _resized(_structured(_parsed(text), size, root), size, named=text)
    if _LISTED_BOXES.fullmatch(text):
        return boxes((re.split(r"[,\s]+", box.strip()) for box in re.findall(r"\[([^][]*)\]", text)), size)
    if _NUMBERS_AND_COMMAS.fullmatch(text):
        return boxes((box.split(",") for box in text.split(";") if box.strip()), size)
    if _NUMBERS_AND_BLANKS.fullmatch(text):
        return pairs(text, size)
    if text.startswith("["):
        raise AnnotationError(f"{shortened(text)} is no mask: {BOX_FORMS}")
    return _resized(_file(text, root), size, named=text)


def is_shape(cell: str) -> bool:
    """Return whether a cell has the form of boxes, run lengths or an object in braces.

    >>> is_shape("[[1, 2, 3, 4]]"), is_shape("331 10 363 10"), is_shape("[1. 2. 3. 4.]"), is_shape("a.png")
    (True, True, False, False)
    >>> is_shape('[["Mass", 1, 2, 3, 4]]')
    False
    """
    text = cell.strip()
    forms = (_LISTED_BOXES, _NUMBERS_AND_COMMAS, _NUMBERS_AND_BLANKS)
    return text.startswith("{") or any(form.fullmatch(text) for form in forms)


def annotation_content(cell: str, root: str | Path) -> str:
    """Return the identity of an annotation for a key: the cell, and the sha256 of each file that it names.

    Raises:
        PictureError: a file cannot be read.

    >>> annotation_content("1,0,3,2", "masks")
    '1,0,3,2'
    """
    hashes = [hashlib.sha256(fetch(located(name, root))).hexdigest() for name in mask_files(cell)]
    return " ".join(hashes if mask_files(cell) == [cell] else [cell, *hashes])


def mask_files(cell: str) -> list[str]:
    """Return the names of the files that a cell needs; none for boxes, polygons and run lengths.

    >>> mask_files("masks/a.png"), mask_files("1,2,3,4"), mask_files('{"file": "b.png", "values": [3]}')
    (['masks/a.png'], [], ['b.png'])
    """
    text = cell.strip()
    if text.startswith("["):
        return []
    if not text.startswith("{"):
        return [cell] if text.startswith("./") or re.search(r"[^\W\d_]", text) is not None else []
    try:
        content = _parsed(text)
    except AnnotationError:
        return []
    parts = [content, *_parts(content)]
    return [str(part["file"]) for part in parts if "file" in part] + [
        name for part in content.get("union", ()) if isinstance(part, str) for name in mask_files(part)
    ]


def _parts(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    union = content.get("union")
    return [part for part in union if isinstance(part, dict)] if isinstance(union, list) else []


def _parsed(text: str) -> dict[str, Any]:
    """Return the object in a cell with braces, in JSON or Python notation."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as fault:
        try:
            content = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise AnnotationError(f"{shortened(text)} begins like a mask in JSON but is not JSON: {fault}") from None
        if isinstance(content, dict) and isinstance(content.get("counts"), bytes):
            content["counts"] = content["counts"].decode("ascii", "replace")
    if not isinstance(content, dict):
        raise AnnotationError(f"{shortened(text)} is no mask: expected an object with counts, runs, boxes or polygons")
    return content


def _structured(content: Mapping[str, Any], size: tuple[int, int], root: str | Path) -> Mask:
    """Read an annotation in braces, at the size that it was drawn at."""
    text = json.dumps(content, default=str)
    if isinstance(content.get("union"), list) and content["union"]:
        cells = [part if isinstance(part, str) else json.dumps(part) for part in content["union"]]
        return np.asarray(np.logical_or.reduce([read_annotation(cell, size, root=root) for cell in cells]))
    if "counts" in content:
        return coco(content, text)
    if "file" in content:
        return _coded_file(content, root)
    drawn = picture_size(content, text) if "size" in content else size
    if "runs" in content:
        coding = content.get("coding", "absolute")
        if coding not in ("absolute", "relative"):
            raise AnnotationError(f'{shortened(text)} has the coding {coding!r}: expected "absolute" or "relative"')
        return pairs(str(content["runs"]), drawn, relative=coding == "relative")
    shapes = [content.get(kind, []) for kind in ("boxes", "polygons")]
    if not any(shapes) or not all(isinstance(shape, list) for shape in shapes):
        raise AnnotationError(f"{shortened(text)} is no mask: give it counts, runs, boxes, polygons, a file or a union")
    lists = [[part if isinstance(part, list) else [part] for part in shape] for shape in shapes]
    return boxes(lists[0], drawn) | polygons(lists[1], drawn)


def _coded_file(content: Mapping[str, Any], root: str | Path) -> Mask:
    """Return the pixels of a mask file that have one of some values, or one of some bits."""
    name, values, bits = str(content["file"]), content.get("values"), content.get("bits")
    if values is bits is None:
        return _file(name, root)
    numbers: list[Any] = values if isinstance(values, list) else [bits]
    if not numbers or not all(isinstance(number, int) for number in numbers):
        raise AnnotationError(f"the mask {name!r} needs values = [...] or bits = ..., whole numbers")
    try:
        with Image.open(BytesIO(fetch(located(name, root))), formats=FORMATS) as image:
            pixels = np.asarray(image)
    except PictureError as error:
        raise AnnotationError(f"no mask in {name!r}: {error}") from None
    except Exception:  # Pillow raises many kinds of errors
        raise AnnotationError(f"no mask with values in {name!r}: expected a PNG, TIFF, BMP or GIF file") from None
    if pixels.ndim == 3:
        if not all(
            np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in range(1, min(3, pixels.shape[2]))
        ):
            raise AnnotationError(f"the mask {name!r} is a colour image: values and bits need one number per pixel")
        pixels = pixels[..., 0]
    if values is not None:
        return np.isin(pixels, numbers)
    return np.asarray((pixels.astype(np.int64) & numbers[0]) > 0)


def _file(text: str, root: str | Path) -> Mask:
    source = located(text, root)
    try:
        content = fetch(source)
        picture = decode(content, source)
    except (PictureError, MissingExtraError) as error:
        raise AnnotationError(f"no mask in {shortened(text)}: {error}; {_POSSIBLE}") from None
    transparent = _transparent(content)
    if transparent is not None and transparent.any():
        return ~transparent
    if content.startswith(_JPEG):
        return np.asarray(picture.pixels.max(axis=2) > 0.5)
    return np.asarray(picture.pixels.any(axis=2))


def _transparent(content: bytes) -> Mask | None:
    """Return where an image file is fully transparent; None for files without transparency."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            if not image.has_transparency_data:
                return None
            alpha = ImageOps.exif_transpose(image.convert("RGBA")).getchannel("A")
    except Exception:  # not a Pillow format, such as DICOM; damaged files were found when they were decoded
        return None
    return np.asarray(np.asarray(alpha) == 0)


def check_shape(shape: Sequence[int], size: tuple[int, int], *, named: str) -> None:
    """Raise an error for a mask whose shape does not fit the image.

    Args:
        shape: (H, W) of the mask.
        size: (H, W) of the image.
        named: name of the mask in the error.

    Raises:
        AnnotationError: the aspect ratios differ by more than 2 %.
    """
    aspect = (shape[0] * size[1]) / (shape[1] * size[0])
    if not 1 - _ASPECT <= aspect <= 1 + _ASPECT:
        raise AnnotationError(
            f"the mask {shortened(named)} is {shape[1]} x {shape[0]} pixels (width x height), its image {size[1]} x "
            f"{size[0]}: give a mask of the image's size, or of its shape at another size"
        )


def _resized(mask: Mask, size: tuple[int, int], *, named: str) -> Mask:
    if mask.shape == size:
        return mask
    check_shape(mask.shape, size, named=named)
    rows, columns = (
        ((np.arange(want) + 0.5) * have / want).astype(np.intp) for want, have in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
