"""What a cell of a table says about where something is: a box, run lengths or a mask file, as a mask of the picture."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from camscope.array_types import Mask
from camscope.cohort.tables import located, names_file
from camscope.errors import AnnotationError, MissingExtraError, PictureError
from camscope.images import decode, fetch
from camscope.images.photo import FORMATS

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBERS_AND_COMMAS = re.compile(rf"{_NUMBER}\s*(?:[,;]\s*(?:{_NUMBER}\s*)?)+")
_LISTED_BOXES = re.compile(r"\[\s*\[[^][]*\](?:\s*,\s*\[[^][]*\])*\s*\]")
_NUMBERS_AND_BLANKS = re.compile(r"\d+(?:\s+\d+)+")
_POSSIBLE = "expected a box 'x0,y0,x1,y1', run lengths or a mask file"
_MAX_PIXELS = 2**28  # of a mask of another size than its picture
_ASPECT = 0.02
_SHOWN = 60


def read_annotation(cell: str, size: tuple[int, int], *, root: str | Path) -> Mask:
    """Turn a cell of a table into a mask of the picture.

    What the cell looks like decides, in this order:

    * ``{...}``: COCO's uncompressed run lengths, JSON with ``counts`` (outside and inside in turn, down the columns)
      and ``size`` [height, width];
    * numbers with commas: boxes ``x0,y0,x1,y1`` in pixels of the picture, several separated by ``;``, or written as
      JSON, ``[[x0, y0, x1, y1], ...]``. A pixel is inside where its centre is, so that whole numbers exclude x1, y1;
    * two or more whole numbers with blanks: Kaggle's run lengths ``start length start length ...``, from 1, down the
      columns;
    * all else is a file, relative to ``root``, or an address such as ``s3://...``: a pixel is inside where a colour is
      not black or, in files with transparent pixels, where it is not transparent.

    A file whose name looks like numbers is meant by ``./1,2,3,4``. Masks of another size than the picture are resized
    to it (nearest neighbour) where their aspect ratio agrees within 2 %.

    Args:
        cell: the text, not empty.
        size: (H, W) of the picture in pixels.
        root: folder or address that relative paths start from.

    Returns:
        (H, W), true inside; may be false everywhere.

    Raises:
        AnnotationError: what is wrong with the cell or its file.

    >>> read_annotation("1,0,3,2", (2, 4), root=Path()).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]])
    >>> read_annotation("2 3", (2, 4), root=Path()).astype(int)
    array([[0, 1, 0, 0],
           [1, 1, 0, 0]])
    """
    text = cell.strip()
    if not text:
        raise AnnotationError(f"an empty cell says nothing about where something is; {_POSSIBLE}")
    if text.startswith("{"):
        return _resized(_coco(text), size, named=text)
    if _LISTED_BOXES.fullmatch(text):
        return _boxes(re.sub(r"\]\s*,\s*\[", ";", text[1:-1]).strip("[] \t\r\n"), size)
    if _NUMBERS_AND_COMMAS.fullmatch(text):
        return _boxes(text, size)
    if _NUMBERS_AND_BLANKS.fullmatch(text):
        return _runs(text, size)
    return _resized(_file(text, root), size, named=text)


def annotation_content(cell: str, root: str | Path) -> str:
    """Return what stands for an annotation in a key: the cell itself, or the sha256 of the file that it names.

    Raises:
        PictureError: the file cannot be read.

    >>> annotation_content("1,0,3,2", "masks")
    '1,0,3,2'
    """
    return hashlib.sha256(fetch(located(cell, root))).hexdigest() if names_file(cell) else cell


def _boxes(text: str, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, bool)
    height, width = size
    for box in filter(str.strip, text.split(";")):
        numbers = [float(number) if number.strip() else math.nan for number in box.split(",")]
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
            raise AnnotationError(f"{_short(box)} is no box: give the four numbers x0,y0,x1,y1 in pixels")
        x0, y0, x1, y1 = numbers
        if x0 >= x1 or y0 >= y1:
            raise AnnotationError(
                f"the box {_short(box)} is empty: give x0,y0,x1,y1 with x0 < x1 and y0 < y1, not its width and height"
            )
        if min(x0, y0) < -1 or x1 > width + 1 or y1 > height + 1:
            raise AnnotationError(
                f"the box {_short(box)} reaches beyond its picture of {width} x {height} pixels (width x height): "
                "give it in pixels of this picture"
            )
        left, top, right, bottom = (max(math.ceil(edge - 0.5), 0) for edge in numbers)
        mask[top:bottom, left:right] = True
    return mask


def _runs(text: str, size: tuple[int, int]) -> Mask:
    numbers = _whole(text.split(), text)
    if len(numbers) % 2:
        raise AnnotationError(
            f"the run lengths {_short(text)} are {len(numbers)} numbers: give pairs of start and length"
        )
    starts, lengths = numbers[::2], numbers[1::2]
    height, width = size
    if starts.min() < 1 or (starts - 1 + lengths).max() > height * width:
        raise AnnotationError(
            f"the run lengths {_short(text)} leave their picture of {width} x {height} pixels (width x height): "
            f"starts count from 1, down the columns, and runs end by {height * width}"
        )
    mask = np.zeros(height * width, bool)
    for start, length in zip(starts, lengths, strict=True):
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(size, order="F")


def _coco(text: str) -> Mask:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise AnnotationError(f"{_short(text)} begins like COCO's run lengths but is not JSON: {fault}") from None
    counts, size = content.get("counts"), content.get("size")
    if isinstance(counts, str):
        raise AnnotationError(f"{_short(text)} holds compressed run lengths: give counts as a list of numbers")
    if not isinstance(counts, list) or not isinstance(size, list) or len(size) != 2:
        raise AnnotationError(f'{_short(text)} is no mask: give {{"counts": [...], "size": [height, width]}}')
    lengths, (height, width) = _whole(counts, text), map(int, _whole(size, text))
    if min(height, width) < 1 or height * width > _MAX_PIXELS or int(lengths.sum()) != height * width:
        raise AnnotationError(
            f"the counts of {_short(text)} add up to {int(lengths.sum())}, its size {height} x {width} to "
            f"{height * width} pixels: they must be equal, and at most {_MAX_PIXELS}"
        )
    inside = np.arange(len(lengths)) % 2 == 1
    mask: Mask = np.repeat(inside, lengths).reshape((height, width), order="F")
    return mask


def _whole(values: list[Any], text: str) -> npt.NDArray[np.int64]:
    """Run lengths as whole numbers from 0 to a picture's size; the sum of a few billion cannot overflow."""
    wrong = f"{_short(text)} holds a number that is no run length: give whole numbers from 0 to {_MAX_PIXELS}"
    if any(isinstance(value, bool | float) for value in values) or not values:
        raise AnnotationError(wrong)
    try:
        numbers = np.array([int(value) for value in values], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise AnnotationError(wrong) from None
    if numbers.min() < 0 or numbers.max() > _MAX_PIXELS:
        raise AnnotationError(wrong)
    return numbers


def _file(text: str, root: str | Path) -> Mask:
    source = located(text, root)
    try:
        content = fetch(source)
        picture = decode(content, source)
    except (PictureError, MissingExtraError) as error:
        raise AnnotationError(f"no mask in {_short(text)}: {error}; {_POSSIBLE}") from None
    transparent = _transparent(content)
    if transparent is not None and transparent.any():
        return ~transparent
    return np.asarray(picture.pixels.any(axis=2))


def _transparent(content: bytes) -> Mask | None:
    """Return where a picture file is fully transparent; None for files without transparency."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            if not image.has_transparency_data:
                return None
            alpha = ImageOps.exif_transpose(image.convert("RGBA")).getchannel("A")
    except Exception:  # another reader's file, such as DICOM; this one's faults were found by decoding it
        return None
    return np.asarray(np.asarray(alpha) == 0)


def check_shape(shape: Sequence[int], size: tuple[int, int], *, named: str) -> None:
    """Refuse a mask that has another shape than its picture.

    Args:
        shape: (H, W) of the mask.
        size: (H, W) of the picture.
        named: what to call it.

    Raises:
        AnnotationError: the aspect ratios differ by more than 2 %.
    """
    aspect = (shape[0] * size[1]) / (shape[1] * size[0])
    if not 1 - _ASPECT <= aspect <= 1 + _ASPECT:
        raise AnnotationError(
            f"the mask {_short(named)} is {shape[1]} x {shape[0]} pixels (width x height), its picture {size[1]} x "
            f"{size[0]}: give a mask of the picture's size, or of its shape at another size"
        )


def _resized(mask: Mask, size: tuple[int, int], *, named: str) -> Mask:
    if mask.shape == size:
        return mask
    check_shape(mask.shape, size, named=named)
    rows, columns = (
        ((np.arange(want) + 0.5) * have / want).astype(np.intp) for want, have in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
