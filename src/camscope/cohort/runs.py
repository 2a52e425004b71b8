"""Convert run lengths to masks: Kaggle's pairs of start and length, and COCO's counts, as a list or compressed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from camscope.array_types import Mask
from camscope.errors import AnnotationError, shortened

MAX_PIXELS = 2**28  # of a mask whose size differs from that of its image
_FIRST, _SIGN, _MORE, _BITS = 48, 0x10, 0x20, 5  # of COCO's letters: offset, flags, and bits of the number per letter


def pairs(text: str, size: tuple[int, int], *, relative: bool = False) -> Mask:
    """Read ``start length start length ...``, down the columns.

    Args:
        text: whole numbers separated by blanks.
        size: (H, W) of the image in pixels.
        relative: False if each start is a pixel's number, from 1 (Kaggle). True if it counts from the end of the
            previous run, from 0 (SIIM-ACR Pneumothorax).

    Raises:
        AnnotationError: an odd number of values, starts that do not increase, or a run beyond the image.

    >>> pairs("2 3", (2, 4)).astype(int)
    array([[0, 1, 0, 0],
           [1, 1, 0, 0]])
    >>> pairs("1 1 2 1", (2, 4), relative=True).astype(int)
    array([[0, 0, 1, 0],
           [1, 0, 0, 0]])
    """
    numbers = whole_numbers(text.split(), text)
    if len(numbers) % 2:
        raise AnnotationError(
            f"the run lengths {shortened(text)} are {len(numbers)} numbers: give pairs of start and length"
        )
    starts, lengths = numbers[::2], numbers[1::2]
    height, width = size
    if relative:
        starts = np.cumsum(starts) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    else:
        starts = starts - 1
        if (np.diff(starts) < lengths[:-1]).any():
            raise AnnotationError(
                f"the starts of the run lengths {shortened(text)} do not increase: if each counts from the end of "
                'the run before, as in SIIM-ACR, set coding = "relative" for this mask'
            )
    if starts[0] < 0 or (starts + lengths).max() > height * width:
        how = "from the run before" if relative else "from 1"
        raise AnnotationError(
            f"the run lengths {shortened(text)} leave their image of {width} x {height} pixels (width x height): "
            f"starts count {how}, down the columns, and runs end by {height * width}"
        )
    mask = np.zeros(height * width, bool)
    for start, length in zip(starts, lengths, strict=True):
        mask[start : start + length] = True
    return mask.reshape(size, order="F")


def coco(content: Mapping[str, Any], text: str) -> Mask:
    """Read COCO's run lengths: pixels outside and inside in turn, down the columns.

    Args:
        content: ``counts``, a list of numbers or the compressed text, and ``size`` [height, width].
        text: name of the annotation in errors.

    Returns:
        (height, width), true inside.

    Raises:
        AnnotationError: the counts cannot be read, or do not add up to the size.

    >>> coco({"size": [2, 4], "counts": [1, 3, 4]}, "").astype(int)
    array([[0, 1, 0, 0],
           [1, 1, 0, 0]])
    >>> coco({"size": [2, 4], "counts": "134"}, "").astype(int)
    array([[0, 1, 0, 0],
           [1, 1, 0, 0]])
    """
    counts = content.get("counts")
    if isinstance(counts, str):
        counts = _decompressed(counts, text)
    if not isinstance(counts, list):
        raise AnnotationError(f'{shortened(text)} is no mask: give {{"counts": [...], "size": [height, width]}}')
    lengths, (height, width) = whole_numbers(counts, text), picture_size(content, text)
    if int(lengths.sum()) != height * width:
        raise AnnotationError(
            f"the counts of {shortened(text)} add up to {int(lengths.sum())}, its size {height} x {width} to "
            f"{height * width} pixels: they must be equal"
        )
    inside = np.arange(len(lengths)) % 2 == 1
    mask: Mask = np.repeat(inside, lengths).reshape((height, width), order="F")
    return mask


def is_empty(cell: str) -> bool:
    """Return whether a cell contains COCO's run lengths of an empty mask.

    >>> is_empty('{"size": [2, 4], "counts": [8]}'), is_empty("1,2,3,4")
    (True, False)
    """
    if '"counts"' not in cell:
        return False
    try:
        content = json.loads(cell)
        return not coco(content, cell).any()
    except (ValueError, AttributeError, RecursionError, AnnotationError):
        return False  # read_annotation reports the error


def picture_size(content: Mapping[str, Any], text: str) -> tuple[int, int]:
    """Return the size [height, width] for which an annotation was drawn.

    Raises:
        AnnotationError: the size is missing or not valid.
    """
    size = content.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise AnnotationError(f'{shortened(text)} has no size: give "size": [height, width] in pixels')
    height, width = map(int, whole_numbers(size, text))
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise AnnotationError(
            f"the size {height} x {width} of {shortened(text)} is not possible: give [height, width] in pixels, at "
            f"most {MAX_PIXELS} of them"
        )
    return height, width


def whole_numbers(values: Sequence[Any], text: str) -> npt.NDArray[np.int64]:
    """Return run lengths as whole numbers from 0 to the largest number of pixels, so that sums cannot overflow.

    Raises:
        AnnotationError: another value is among them, or there are none.
    """
    wrong = f"{shortened(text)} holds a number that is no run length: give whole numbers from 0 to {MAX_PIXELS}"
    if any(isinstance(value, bool | float) for value in values) or not values:
        raise AnnotationError(wrong)
    try:
        numbers = np.array([int(value) for value in values], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise AnnotationError(wrong) from None
    if numbers.min() < 0 or numbers.max() > MAX_PIXELS:
        raise AnnotationError(wrong)
    return numbers


def _decompressed(letters: str, text: str) -> list[int]:
    """Return the counts of COCO's compressed text; from the fourth on, differences to two counts before are stored."""
    counts: list[int] = []
    number = shift = 0
    for letter in letters:
        code = ord(letter) - _FIRST
        if not 0 <= code < 64 or shift > 40:
            raise AnnotationError(f"{shortened(text)} holds {letter!r}, which COCO's compressed run lengths do not use")
        number |= (code & 0x1F) << shift
        shift += _BITS
        if code & _MORE:
            continue
        if code & _SIGN:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift:
        raise AnnotationError(f"the compressed run lengths of {shortened(text)} end within a number: they were cut")
    return counts
