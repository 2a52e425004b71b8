"""Measure the part of an image that a preprocessing passes to the network, by running it on patterns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from camscope.images import Picture, Window
from camscope.models.preprocess import Preprocess

Run = Callable[[Picture], npt.NDArray[np.float32]]
"""Result of a preprocessing, (C, h, w)."""

_VALID = 0.3
"""Rows and columns with a pattern weaker than this share of the strongest are padding."""
_INLIER = 1.5
"""Tolerance of rows and columns from the straight line in input pixels, for example at edges."""
_LINEAR = 0.6
_BANDS = 3
_CELLS = 32
_ALIKE = 0.99
_LIKELY = 0.5
_LINEAR_RULES = 4


class Mirrored(Exception):  # noqa: N818  never leaves models
    """Error of a preprocessing that mirrors the image."""


def find_window(run: Run, picture: Picture, *, blend: float = 1.0) -> Window | None:
    """Find the window of an image that a preprocessing crops and resizes.

    Per axis, one period of a cosine and of a sine, each also inverted, is run through the preprocessing. The phase of
    the differences gives the position in the image of each input pixel, for any normalisation or contrast. The
    positions must lie on one straight line for all parts of the input.

    Args:
        run: the preprocessing.
        picture: an image of the wanted size and channels.
        blend: 1 for patterns only; less to blend them with the image, for a crop that depends on the content.

    Returns:
        The window; None if no upright box matches the preprocessing.

    Raises:
        Mirrored: the preprocessing mirrors the image.
    """
    ends = []
    for axis in (0, 1):
        places = _places(run, picture, axis=axis, blend=blend)
        line = None if places is None else _line(places, picture.size[axis])
        if line is None:
            return None
        ends.append(line)
    return Window(picture.size, tuple(start for start, _ in ends), tuple(extent for _, extent in ends))


def _places(run: Run, picture: Picture, *, axis: int, blend: float) -> list[npt.NDArray[np.float64]] | None:
    """Return for bands of the input the place of each row (axis 0) or column (1), in periods; NaN where it is padding.

    None where the preprocessing fails on a pattern or gives inputs of different sizes.
    """
    count = picture.size[axis]
    angle = 2 * np.pi * (np.arange(count) + 0.5) / count
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    differences = []
    for wave in (np.cos(angle), np.sin(angle)):
        inputs = []
        for sign in (1, -1):
            pattern = (0.5 + 0.5 * sign * wave).reshape(shape).astype(np.float32)
            if blend == 1:
                pixels = np.array(np.broadcast_to(np.rint(pattern * 255) / np.float32(255), picture.pixels.shape))
            else:
                pixels = np.float32(1 - blend) * picture.pixels + np.float32(blend) * pattern
                pixels = np.rint(pixels * np.float32(255)) / np.float32(255) if picture.bits == 8 else pixels
            try:
                inputs.append(run(Picture(pixels.astype(np.float32), bits=picture.bits)))
            except Exception:
                return None
        if inputs[0].shape != inputs[1].shape or not all(np.isfinite(b).all() for b in inputs):
            return None
        differences.append(inputs[0].astype(np.float64) - inputs[1])
    if differences[0].shape != differences[1].shape:
        return None
    energy = differences[0] ** 2 + differences[1] ** 2
    channel = int(energy.sum((1, 2)).argmax())
    if not energy[channel].any():
        return None
    planes = [d[channel] if axis == 0 else d[channel].T for d in differences]  # the measured axis comes first
    lively = np.flatnonzero(np.sqrt(energy[channel]).sum(axis) > _VALID * np.sqrt(energy[channel]).sum(axis).max())
    bands = [band for band in np.array_split(lively, _BANDS) if len(band)]
    return [_phases(*(plane[:, band].mean(1) for plane in planes)) for band in bands]


def _phases(cosine: npt.NDArray[np.float64], sine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the unwrapped phase in periods, NaN where the pattern is weak."""
    strength = np.hypot(cosine, sine)
    phase = np.arctan2(sine, cosine) / (2 * np.pi)
    valid = strength > _VALID * strength.max()
    phases = np.full(len(phase), np.nan)
    phases[valid] = np.unwrap(phase[valid], period=1.0)
    return phases


def _line(bands: list[npt.NDArray[np.float64]], size: int) -> tuple[float, float] | None:
    """Return (start, extent) in pixels of the image of a straight line through the places of all bands, or None."""
    count = len(bands[0])
    if count < 2 * _BANDS:
        return None
    fits = [_fit(band * size) for band in bands]
    if any(fit is None for fit in fits):
        return None
    slopes, starts = (np.array(values) for values in zip(*[fit for fit in fits if fit is not None], strict=True))
    slope = float(np.median(slopes))
    if slope < 0:
        raise Mirrored
    middles = starts + slopes * count / 2
    middles -= size * np.floor(middles / size)  # the phase does not determine the period
    starts = middles - slopes * count / 2
    tolerance = 2 * _INLIER * slope
    ends = starts + slopes * count
    if np.ptp(starts) > tolerance or np.ptp(ends) > tolerance:
        return None
    return float(starts.mean()), float(slopes.mean() * count)


def _fit(places: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Return (slope, value at the first edge) of a line that most of the places lie on."""
    index = np.flatnonzero(np.isfinite(places))
    step = len(index) // _BANDS
    if step < 1:
        return None
    centres, values = index + 0.5, places[index]
    slope = float(np.median((values[step:] - values[:-step]) / (centres[step:] - centres[:-step])))
    start = float(np.median(values - slope * centres))
    inliers = np.abs(values - start - slope * centres) <= max(_INLIER * abs(slope), 1e-9)
    if slope == 0 or inliers.mean() < _LINEAR:
        return None
    slope, start = np.polyfit(centres[inliers], values[inliers], 1)
    return float(slope), float(start)


def shows(made: npt.NDArray[np.float32], picture: Picture, window: Window) -> bool:
    """Return whether an input (C, h, w) shows the window of an image.

    It does where its averages in 32 x 32 cells are a linear function of the window's, and where image or input are so
    uniform that any window would do.
    """
    return _agreement(made, picture, window) >= _ALIKE


def shows_best(made: npt.NDArray[np.float32], picture: Picture, window: Window) -> bool:
    """Return whether an input matches a window better than slightly shifted, larger or smaller windows.

    For preprocessings that change the contrast from place to place, so that no window agrees with the input closely.
    """
    reached = _agreement(made, picture, window)
    if reached < _LIKELY:
        return False
    for share in (0.04, 0.12):
        for move in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 1, 1), (1, 1, 0, 0), (1, -1, 0, 0)):
            for sign in (share, -share):
                top, left, high, wide = (sign * m for m in move)
                extent = (window.extent[0] * (1 + high), window.extent[1] * (1 + wide))
                start = (
                    window.start[0] + window.extent[0] * (top - high / 2),
                    window.start[1] + window.extent[1] * (left - wide / 2),
                )
                if _agreement(made, picture, Window(window.picture, start, extent)) > reached:
                    return False
    return True


def _agreement(inputs: npt.NDArray[np.float32], picture: Picture, window: Window) -> float:
    """Return the share of an input's variance that a linear function of the window's pixels explains, in [0, 1]."""
    boxes = _overlap(window, inputs.shape[1:])
    if boxes is None:
        return 0.0
    in_picture, in_input = boxes
    basis = np.stack([_cells(plane, in_picture) for plane in np.moveaxis(picture.pixels, 2, 0)] + [np.ones(_CELLS**2)])
    target = np.stack([_cells(plane, in_input) for plane in inputs])
    target -= target.mean(1, keepdims=True)
    total = float((target**2).sum())
    if not total > 1e-9 * target.size:
        return 1.0
    weights = np.linalg.lstsq(basis.T, target.T, rcond=None)[0]
    return 1 - float(((target - (basis.T @ weights).T) ** 2).sum()) / total


def _overlap(window: Window, size: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return (left, top, right, bottom) of what image and input share, in pixels of each, or None."""
    low = [max(start, 0.0) for start in window.start]
    pairs = zip(window.start, window.extent, window.picture, strict=True)
    high = [min(start + extent, float(whole)) for start, extent, whole in pairs]
    if any(b - a < 1e-3 for a, b in zip(low, high, strict=True)):
        return None
    scales = [n / extent for n, extent in zip(size, window.extent, strict=True)]
    ends = [[(edge - s) * k for edge, s, k in zip(edges, window.start, scales, strict=True)] for edges in (low, high)]
    top, left, bottom, right = (*ends[0], *ends[1])
    return (low[1], low[0], high[1], high[0]), (left, top, right, bottom)


def _cells(plane: npt.NDArray[np.float32], box: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return the averages of a plane in 32 x 32 cells of a box (left, top, right, bottom)."""
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    limits = (image.width, image.height, image.width, image.height)
    left, top, right, bottom = (min(max(edge, 0.0), float(limit)) for edge, limit in zip(box, limits, strict=True))
    cells = image.resize((_CELLS, _CELLS), Image.Resampling.BOX, box=(left, top, right, bottom))
    return np.asarray(cells, dtype=np.float64).ravel()


@dataclass(frozen=True)
class LinearRule:
    """Rule for windows whose start and extent are linear in the image size, per axis.

    Attributes:
        start: per axis (slope, constant).
        extent: per axis (slope, constant).
    """

    start: tuple[tuple[float, float], ...]
    extent: tuple[tuple[float, float], ...]

    def window(self, size: tuple[int, int]) -> Window:
        """Return the window of an image of ``size`` (height, width)."""
        edges = [
            tuple(slope * count + constant for (slope, constant), count in zip(law, size, strict=True))
            for law in (self.start, self.extent)
        ]
        return Window(size, edges[0], edges[1])


Rule = Preprocess | LinearRule
"""Function that returns the window for any image size."""


def find_rule(windows: list[Window], sizes: list[tuple[int, int]]) -> Rule | None:
    """Find the rule behind windows that were measured on images of different shapes.

    Args:
        windows: at least three, of images with different heights and widths.
        sizes: (height, width) of the input that each image became.

    Returns:
        A linear rule (the whole image, a crop of a fixed number of pixels or of a share, a fixed margin), or a
        Preprocess with the same fit and resize; None where none makes these windows.

    >>> pictures = [(300, 500), (400, 200), (300, 300)]
    >>> rule = find_rule([Preprocess(resize=(256, 256)).window(size) for size in pictures], [(224, 224)] * 3)
    >>> rule.fit, rule.resize
    ('crop', (256, 256))
    """
    whole = ((1.0, 0.0),) * 2
    candidates: list[Rule] = [LinearRule(((0.0, 0.0),) * 2, whole)]
    for digits in (1, 2, 12):  # rounded slopes first: the error of a measured slope grows with the image size
        laws = [
            tuple(
                _law([w.picture[axis] for w in windows], [values[axis] for values in edges], digits) for axis in (0, 1)
            )
            for edges in ([w.start for w in windows], [w.extent for w in windows])
        ]
        candidates.append(LinearRule(*laws))
    size, first = sizes[0], windows[0]
    scaled = [whole * n / extent for whole, n, extent in zip(first.picture, size, first.extent, strict=True)]
    for axis in (0, 1):
        for side in dict.fromkeys((round(scaled[axis]), int(scaled[axis]), int(scaled[axis]) + 1)):
            other_side = round(side * size[1 - axis] / size[axis])
            for goal in dict.fromkeys(((side, side), (side, other_side) if axis == 0 else (other_side, side))):
                if min(goal) >= 1:
                    candidates += [Preprocess(size, fit="crop", resize=goal), Preprocess(size, fit="pad", resize=goal)]
    if len(set(sizes)) > 1:
        candidates = candidates[:_LINEAR_RULES]
    measured = list(zip(windows, sizes, strict=True))
    return next((rule for rule in candidates if all(alike(_window(rule, w), w, n) for w, n in measured)), None)


def _law(counts: list[int], values: list[float], digits: int) -> tuple[float, float]:
    """Return (slope, constant) of values that are linear in counts, the doubled slope rounded to digits."""
    slope = round(float(np.polyfit(counts, values, 1)[0]) * 2, digits) / 2
    return slope, float(np.mean(np.array(values) - slope * np.array(counts)))


def _window(rule: Rule, window: Window) -> Window:
    return rule.window((window.picture[0], window.picture[1]))


def alike(window: Window, other: Window, size: tuple[int, int]) -> bool:
    """Return whether two windows differ by less than a pixel of an input of ``size``, or of the image."""
    return all(
        abs(a - b) <= max(1.0, extent / count)
        for first, second in ((window.start, other.start), (window.extent, other.extent))
        for a, b, extent, count in zip(first, second, other.extent, size, strict=True)
    )
