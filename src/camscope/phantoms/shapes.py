"""Project shapes: compute the length of rays inside tubes, plates and clouds, on a grid in centimetres.

All shapes are float64 and analytic, so that a seed gives the same image on every machine and the same anatomy at every
size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Box = tuple[slice, slice]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The positions in the patient of an image's rays.

    Attributes:
        x: (H, W) centimetres from the midline, towards the patient's left (the right of the image).
        y: (H, W) centimetres below the top of the lungs.
        forward: 2 x 3 matrix from (column, row, 1) to (x, y).
    """

    x: Array
    y: Array
    forward: Array

    @classmethod
    def posed(
        cls,
        size: tuple[int, int],
        *,
        centre: tuple[float, float],
        field: float,
        degrees: float = 0.0,
        stretch: float = 1.0,
    ) -> Frame:
        """Return the rays of an image of ``size`` pixels whose height covers ``field`` centimetres around ``centre``.

        Pixels are square: the longer side of an image covers more of the patient.

        >>> frame = Frame.posed((64, 64), centre=(0.0, 14.0), field=38.0)
        >>> frame.x.shape, bool(frame.x[0, 0] < 0 < frame.x[0, -1])
        ((64, 64), True)
        """
        height, width = size
        pixel = field / min(height, width)
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([pixel * stretch, pixel])
        middle = turn @ np.array([(width - 1) / 2, (height - 1) / 2])
        forward = np.column_stack([turn, np.array(centre) - middle])
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
        x = forward[0, 0] * columns + forward[0, 1] * rows + forward[0, 2]
        y = forward[1, 0] * columns + forward[1, 1] * rows + forward[1, 2]
        return cls(x=x, y=y, forward=forward)

    @property
    def pixel(self) -> float:
        """Return the centimetres per pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.forward[:, :2]))))

    def pixels(self, points: Array) -> Array:
        """Return the columns and rows of points (N, 2) in centimetres."""
        return np.asarray((points - self.forward[:, 2]) @ self._inverse.T)

    @cached_property
    def _inverse(self) -> Array:
        return np.asarray(np.linalg.inv(self.forward[:, :2]))

    def part(self, box: Box) -> Frame:
        """Return the rays of a part of the image; its ``pixels`` are coordinates in the whole image."""
        return Frame(x=self.x[box], y=self.y[box], forward=self.forward)

    def box(self, points: Array, margin: float) -> Box:
        """Return the part of the image within ``margin`` centimetres of points (N, 2); it may be empty."""
        place = self.pixels(points)
        reach = margin / self.pixel + 1
        height, width = self.x.shape
        low = np.clip(np.floor(place.min(axis=0) - reach), 0, (width, height)).astype(int)
        high = np.clip(np.ceil(place.max(axis=0) + reach) + 1, 0, (width, height)).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])


def clamp(values: Array) -> Array:
    """Clip values to [0, 1]."""
    return np.asarray(np.minimum(np.maximum(values, 0.0), 1.0))


def smoothstep(values: Array, ends: tuple[float, float]) -> Array:
    """Return 0 before the first of ``ends``, 1 after the second, smooth between; the first may be larger.

    >>> smoothstep(np.array([0.0, 0.5, 2.0]), (0.0, 1.0)).tolist()
    [0.0, 0.5, 1.0]
    """
    low, high = ends
    t = clamp((values - low) / (high - low))
    return np.asarray(t * t * (3.0 - 2.0 * t))


def dome(values: Array) -> Array:
    """Return sqrt(1 - v^2) inside (-1, 1) and 0 outside: the depth of a rounded body across its width.

    >>> dome(np.array([-2.0, 0.0, 0.6])).tolist()
    [0.0, 1.0, 0.8]
    """
    return np.asarray(np.sqrt(np.maximum(1.0 - values * values, 0.0)))


def ellipse(frame: Frame, centre: tuple[float, float], *, axes: tuple[float, float], degrees: float = 0.0) -> Array:
    """Return the radius of every ray in units of an ellipse, below 1 inside; ``dome`` of it is an ellipsoid's depth."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    dx, dy = frame.x - centre[0], frame.y - centre[1]
    return np.asarray(np.hypot((dx * cos + dy * sin) / axes[0], (dy * cos - dx * sin) / axes[1]))


def add_body(
    total: Array,
    frame: Frame,
    *,
    centre: tuple[float, float],
    axes: tuple[float, float],
    peak: float,
    degrees: float = 0.0,
) -> None:
    """Add an ellipsoid that adds ``peak`` to the ray through its centre."""
    box = frame.box(np.array([centre]), max(axes))
    part = frame.part(box)
    if part.x.size:
        total[box] += peak * dome(ellipse(part, centre, axes=axes, degrees=degrees))


def curve(points: Array, count: int = 5) -> Array:
    """Return a smooth line through points (N, 2): Catmull-Rom, ``count`` samples per span.

    >>> curve(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), 4).shape
    (9, 2)
    """
    ends = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    a, b, c, d = (ends[i : len(ends) - 3 + i, None, :] for i in range(4))
    t = (np.arange(count) / count)[None, :, None]
    line = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.vstack([line.reshape(-1, 2), points[-1]])


def line_distance(frame: Frame, line: Array, *, reach: float) -> tuple[Box, Array, Array]:
    """Compute the distance of rays to a polyline, for distances below about ``reach``.

    Returns:
        The part of the image near the line, the distance in centimetres, and the position along the line in [0, 1].
    """
    box = frame.box(line, reach)
    x, y = frame.x[box][..., None], frame.y[box][..., None]
    start, step = line[:-1], np.diff(line, axis=0)
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)
    along = ((x - start[:, 0]) * step[:, 0] + (y - start[:, 1]) * step[:, 1]) / length**2
    along = np.clip(along, 0.0, 1.0)
    gap = np.hypot(x - start[:, 0] - along * step[:, 0], y - start[:, 1] - along * step[:, 1])
    if gap.size == 0:
        empty = np.zeros(gap.shape[:2])
        return box, empty, empty
    nearest = gap.argmin(axis=-1)[..., None]
    passed = np.concatenate([[0.0], np.cumsum(length)])
    place = (passed[nearest] + np.take_along_axis(along, nearest, -1) * length[nearest]) / passed[-1]
    return box, np.take_along_axis(gap, nearest, -1)[..., 0], place[..., 0]


def add_bone(total: Array, frame: Frame, *, line: Array, radius: float, density: float = 1.0) -> None:
    """Add a long bone along ``line``: spongy bone with a dense cortex, which gives bright edges."""
    box, gap, _ = line_distance(frame, line, reach=radius)
    if gap.size:
        total[box] += density * bone_profile(gap, radius)


def bone_profile(gap: Array, radius: float) -> Array:
    """Return the attenuation of a bone of ``radius`` cm across its width, minus that of soft tissue."""
    shell = min(0.28 * radius, 0.17)
    outer, inner = 2 * radius * dome(gap / radius), 2 * (radius - shell) * dome(gap / (radius - shell))
    return 0.34 * (outer - inner) + 0.09 * inner


def plate(frame: Frame, corners: Array, *, edge: float) -> tuple[Box, Array]:
    """Return a flat convex polygon, corners clockwise, 1 inside and 0 outside, with soft edges of ``edge`` cm."""
    box = frame.box(corners, edge)
    x, y = frame.x[box], frame.y[box]
    inside = np.full(x.shape, np.inf)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = np.hypot(x1 - x0, y1 - y0)
        inside = np.minimum(inside, ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length)
    return box, smoothstep(inside, (-edge / 2, edge / 2))


def splat(total: Array, frame: Frame, *, points: Array, radii: Array) -> None:
    """Draw thin tubes from dense points (N, 2): each pixel of ``total`` becomes the longest chord in centimetres.

    Tubes thinner than a pixel are widened to one pixel and attenuated in proportion.
    """
    place = frame.pixels(points)
    height, width = total.shape
    wide = np.maximum(radii / frame.pixel, 0.75)
    weight = 2 * radii * np.minimum(radii / frame.pixel / wide, 1.0)
    reach = int(np.ceil(wide.max()))
    offset = np.arange(-reach, reach + 1)
    column = np.rint(place[:, 0]).astype(np.int64)[:, None, None] + offset
    row = np.rint(place[:, 1]).astype(np.int64)[:, None, None] + offset[:, None]
    gap2 = (column - place[:, 0, None, None]) ** 2 + (row - place[:, 1, None, None]) ** 2
    chord = weight[:, None, None] * np.sqrt(np.clip(1.0 - gap2 / (wide * wide)[:, None, None], 0.0, None))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (chord > 0)
    index = (row * width + column)[inside]
    np.maximum.at(total.reshape(-1), index, chord[inside])


@lru_cache(maxsize=64)
def _blur_matrix(length: int, sigma: float) -> Array:
    place = np.arange(length)
    matrix = np.exp(-0.5 * ((place[:, None] - place[None, :]) / sigma) ** 2)
    matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix


def blur(image: Array, sigma: float) -> Array:
    """Apply a Gaussian blur with ``sigma`` in pixels; the border is renormalised, not darkened.

    >>> bool(np.allclose(blur(np.ones((8, 8)), 2.0), 1.0))
    True
    """
    if sigma < 0.2:
        return image
    sigma = round(float(sigma), 2)
    height, width = image.shape
    return _blur_matrix(height, sigma) @ image @ _blur_matrix(width, sigma).T


def cloud(frame: Frame, draw: np.random.Generator, *, scale: float, octaves: int = 1) -> Array:
    """Return a smooth random texture with mean about 0 and standard deviation about 1, and blobs of ``scale`` cm.

    The same draw gives the same texture at every size. The texture is not rotated with the patient.
    """
    total = np.zeros(frame.x.shape)
    x, y = frame.x[frame.x.shape[0] // 2], frame.y[:, frame.y.shape[1] // 2]
    for octave in range(octaves):
        step = scale / 2**octave
        count = int(np.ceil(72.0 / step)) + 2
        lattice = draw.standard_normal((count, count))
        down, across = _weights((y + 22.0) / step, count), _weights((x + 36.0) / step, count)
        total += 0.5**octave * (down @ lattice @ across.T)
    return np.asarray(total * (1.4 / np.sqrt(sum(0.25**octave for octave in range(octaves)))))


def _weights(places: Array, count: int) -> Array:
    """Return the matrix (len(places), count) that interpolates ``count`` lattice values smoothly at ``places``."""
    return smoothstep(np.abs(places[:, None] - np.arange(count)), (1.0, 0.0))
