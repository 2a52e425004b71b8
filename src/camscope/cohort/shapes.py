"""Convert boxes and polygons to masks; a pixel is inside if its centre is inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from camscope.array_types import Floats, Mask
from camscope.errors import AnnotationError, shortened

_BEYOND = 1  # pixels that a shape may reach beyond its image: rounding


def boxes(corners: Iterable[Sequence[Any]], size: tuple[int, int]) -> Mask:
    """Fill boxes.

    Args:
        corners: x0, y0, x1, y1 of each box in pixels of the image; whole numbers exclude x1 and y1.
        size: (H, W) of the image.

    Returns:
        (H, W), true inside.

    Raises:
        AnnotationError: a box is empty, or reaches beyond the image.

    >>> boxes([(1, 0, 3, 2)], (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]])
    """
    mask = np.zeros(size, bool)
    for box in corners:
        named = ",".join(map(str, box))
        numbers = _numbers(box)
        if numbers is None or len(numbers) != 4:
            raise AnnotationError(f"{shortened(named)} is no box: give the four numbers x0,y0,x1,y1 in pixels")
        x0, y0, x1, y1 = numbers
        if is_relative(numbers):
            raise AnnotationError(f"the box {shortened(named)} is a part of the image's size: give it in pixels")
        if x0 >= x1 or y0 >= y1:
            raise AnnotationError(
                f"the box {shortened(named)} is empty: give x0,y0,x1,y1 with x0 < x1 and y0 < y1, not its width and "
                "height"
            )
        _check_inside(numbers.reshape(2, 2), size, named=f"the box {shortened(named)}")
        left, top, right, bottom = (max(math.ceil(edge - 0.5), 0) for edge in numbers)
        mask[top:bottom, left:right] = True
    return mask


def is_relative(numbers: Floats) -> bool:
    """Return whether coordinates are parts of the image's size: none beyond 1, and not all whole.

    >>> is_relative(np.array([0.1, 0.2, 0.6, 0.7])), is_relative(np.array([0, 0, 1, 1]))
    (True, False)
    """
    return bool(numbers.max() <= 1 and (numbers % 1).any())


def polygons(outlines: Iterable[Sequence[Any]], size: tuple[int, int]) -> Mask:
    """Fill polygons, each by the even-odd rule.

    Args:
        outlines: corners of each polygon in pixels of the image, as x, y, x, y, ... or [[x, y], ...].
        size: (H, W) of the image.

    Returns:
        (H, W), true inside any polygon.

    Raises:
        AnnotationError: a polygon has fewer than three corners, or reaches beyond the image.

    >>> polygons([[0, 0, 4, 0, 0, 4]], (4, 5)).astype(int)
    array([[1, 1, 1, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 0, 0, 0, 0],
           [0, 0, 0, 0, 0]])
    """
    mask = np.zeros(size, bool)
    for outline in outlines:
        numbers = _numbers(outline)
        if numbers is None or len(numbers) < 6 or len(numbers) % 2:
            words = shortened(str(outline))
            raise AnnotationError(f"{words} is no polygon: give at least three corners, [x, y, x, y, x, y] in pixels")
        corners = numbers.reshape(-1, 2)
        _check_inside(corners, size, named=f"the polygon {shortened(str(outline))}")
        mask |= _filled(corners, size)
    return mask


def _filled(corners: Floats, size: tuple[int, int]) -> Mask:
    """Fill a polygon: a pixel is inside if an odd number of edges lies to the left of its centre."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, bottom = sorted((y0, y1))
        rows = np.arange(max(math.ceil(top - 0.5), 0), min(math.ceil(bottom - 0.5), height))
        if len(rows):
            crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            columns = np.clip(np.ceil(crossed - 0.5), 0, width).astype(np.intp)
            np.add.at(crossings, (rows, columns), 1)
    return np.asarray(crossings.cumsum(axis=1)[:, :-1] % 2 == 1)


def _numbers(values: Sequence[Any]) -> Floats | None:
    """Return the finite numbers of a box or polygon in one row; None if another value is among them."""
    try:
        numbers = np.array(values, np.float64).ravel()
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None


def _check_inside(corners: Floats, size: tuple[int, int], *, named: str) -> None:
    height, width = size
    if corners.min() < -_BEYOND or corners[:, 0].max() > width + _BEYOND or corners[:, 1].max() > height + _BEYOND:
        raise AnnotationError(
            f"{named} reaches beyond its image of {width} x {height} pixels (width x height): "
            "give it in pixels of this image"
        )
