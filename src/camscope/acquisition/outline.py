"""Measure and transfer properties of the outline: aspect ratio, frame, and bright marks such as letters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from camscope.acquisition.property import Trait, grey, margins, resized
from camscope.array_types import Floats
from camscope.images.picture import Picture, Pixels

_SIDE = 256
_OUTER = 0.25  # of the side; marks are searched near the edges
_STEP, _BRIGHT = 0.25, 0.75  # smallest difference to the surroundings and to the darkest, in units of the range
_LEAST = 0.15  # smallest difference to the surroundings in grey values, which excludes fine structure
_SURROUNDINGS = 8.0
_SMALLEST, _LARGEST = 8, 1000  # pixels of 256 x 256
_USUAL = 0.9  # quantile


def measure_aspect(picture: Picture) -> Trait:
    """Return height / width."""
    height, width = picture.size
    return np.array([height / width])


def transfer_aspect(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the image, extended at two sides by its outermost pixels to the aspect ratio of the other image.

    All of the image is kept: cutting it would also cut what lies near its edges, such as a lesion.
    """
    height, width = picture.size
    ratio = float(other[0])
    rows, columns = max(height, round(width * ratio)) - height, max(width, round(height / ratio)) - width
    sides = (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)
    return np.pad(picture.pixels, sides, mode="edge")


def measure_frame(picture: Picture) -> Trait:
    """Return the share of the image in a frame of one tone, its widths (top, bottom, left, right) and its tone."""
    values = grey(picture)
    height, width = values.shape
    top, bottom, left, right = margins(values)
    area = 1 - (height - top - bottom) * (width - left - right) / (height * width)
    depth = {"top": values[0], "bottom": values[-1], "left": values[:, 0], "right": values[:, -1]}
    tones = [depth[side].mean() for side, lines in zip(depth, (top, bottom, left, right), strict=True) if lines]
    shares = (top / height, bottom / height, left / width, right / width)
    return np.array([area, *shares, float(np.mean(tones)) if tones else 0.0], float)


def compare_frame(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return each trait with the widest usual frame (top, bottom, left, right) of the cohort, and the share.

    The widest usual frame has the 90 % quantile of the widths of all frames.
    """
    framed = [trait[1:5] for trait in traits if trait[0] > 0]
    widest = np.quantile(framed, _USUAL, axis=0) if framed else np.zeros(4)
    return [np.concatenate([trait[:6], widest]) for trait in traits], np.array([trait[0] for trait in traits])


def transfer_frame(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the content of the image with the frame of the other image, at most the widest usual frame.

    The content keeps its size. What the widest usual frame would cover is always replaced with a mirror image of the
    content. A frame that hides tissue, and the same image without a frame, therefore show the same tissue.

    Args:
        picture: the image.
        own: its trait, from `compare_frame`.
        other: the trait of another image of the cohort.
    """
    inner = _fitting(
        [max(pair) for pair in zip(_lines(own[1:5], picture), _lines(own[6:], picture), strict=True)], picture
    )
    height, width = picture.size
    content = picture.pixels[inner[0] : height - inner[1], inner[2] : width - inner[3]]
    pixels: Pixels = np.pad(content, [(inner[0], inner[1]), (inner[2], inner[3]), (0, 0)], mode="symmetric")
    top, bottom, left, right = _lines(np.minimum(other[1:5], other[6:]), picture)
    framed = np.full_like(pixels, other[5])
    box = slice(top, height - bottom), slice(left, width - right)
    framed[box] = pixels[box]
    return framed


def _lines(shares: Floats, picture: Picture) -> list[int]:
    """Return widths (top, bottom, left, right) in pixels."""
    height, width = picture.size
    return _fitting(
        [round(float(share) * side) for share, side in zip(shares, (height, height, width, width), strict=True)],
        picture,
    )


def _fitting(lines: list[int], picture: Picture) -> list[int]:
    """Return widths, or zeros if they leave nothing of the image."""
    height, width = picture.size
    return lines if lines[0] + lines[1] < height and lines[2] + lines[3] < width else [0, 0, 0, 0]


def measure_marks(picture: Picture) -> Trait:
    """Return the pixels of small, bright marks near the edges: (n, 3), row and column of 256 x 256, and grey value.

    A mark is a connected part of 8 to 1000 of the 65,536 pixels in the outer quarter of a side. It is brighter than its
    surroundings by a quarter of the range of tones (and by 0.15), and within the brightest quarter of this range.
    """
    values = resized(grey(picture), (_SIDE, _SIDE))
    low, high = np.percentile(values, [0.5, 99.9])
    tones = high - low
    if tones <= 0:
        return np.zeros((0, 3))
    surroundings = ndimage.gaussian_filter(values, _SURROUNDINGS, mode="nearest")
    bright = (values - surroundings > max(_STEP * tones, _LEAST)) & (values - low > _BRIGHT * tones)
    parts, count = ndimage.label(bright, np.ones((3, 3)))
    if not count:
        return np.zeros((0, 3))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    centres = np.array(ndimage.center_of_mass(bright, parts, range(1, count + 1))) / _SIDE
    outer = (np.minimum(centres, 1 - centres) < _OUTER).any(axis=1)
    chosen = 1 + np.flatnonzero(outer & (sizes >= _SMALLEST) & (sizes <= _LARGEST))
    rows, columns = np.nonzero(np.isin(parts, chosen))
    return np.stack([rows, columns, values[rows, columns]], axis=1).astype(float)


def compare_marks(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return the traits, and the share of each image that marks cover."""
    return list(traits), np.array([len(trait) / _SIDE**2 for trait in traits])


def transfer_marks(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels with the marks filled in from the surroundings, and the marks of the other image pasted."""
    pixels = picture.pixels
    if np.array_equal(own, other):
        return pixels
    if len(own):
        around = ~ndimage.binary_dilation(_grid(own) > 0, np.ones((3, 3)), iterations=2)
        known = np.maximum(ndimage.gaussian_filter(around.astype(np.float32), _SURROUNDINGS), 1e-6)
        bands = [resized(pixels[..., k], (_SIDE, _SIDE)) * around for k in range(picture.channels)]
        filled = [resized(ndimage.gaussian_filter(band, _SURROUNDINGS) / known, picture.size) for band in bands]
        pixels = np.where(_nearest(around.astype(np.float32), picture.size)[..., None] > 0, pixels, np.stack(filled, 2))
    if len(other):
        pasted = _nearest(_grid(other), picture.size)[..., None]
        pixels = np.where(pasted > 0, pasted, pixels)
    return pixels


def _grid(trait: Trait) -> npt.NDArray[np.float32]:
    """Return the marks on 256 x 256 pixels, 0 elsewhere."""
    grid = np.zeros((_SIDE, _SIDE), np.float32)
    grid[trait[:, 0].astype(int), trait[:, 1].astype(int)] = trait[:, 2]
    return grid


def _nearest(grid: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(grid, "F").resize(size[::-1], Image.Resampling.NEAREST), np.float32)
