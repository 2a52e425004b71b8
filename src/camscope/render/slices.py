"""Draw slices of a volume and of its map: three orthogonal ones, and a montage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from camscope.images.picture import Picture, Window
from camscope.images.volume import Turn, Volume
from camscope.render.colour import colourise, grey, overlay
from camscope.render.sheet import Cell, sheet
from camscope.render.text import face

PLANES = ("axial", "coronal", "sagittal")
"""Names of the planes, in the order in which they are drawn."""

_AXES = (2, 1, 0)
"""Axis of the patient (right, anterior, superior) that each plane is perpendicular to."""
_LETTERS = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))
"""Ends of the body at the left, right, upper and lower edge of each plane."""
_SIDES = (("R", "L"), ("A", "P"), ("S", "I"))
_TILE = 420  # pixels of the side of a tile
_COLUMNS, _MOST = 6, 24  # of a montage
_LETTER, _LINE = (255, 214, 90), (120, 220, 255)
_BEHIND = (0, 0, 0)
_DISPLAYED = (0.5, 99.5)  # percentiles


class _Plane(NamedTuple):
    """One slice as displayed, in voxels: the volume, the map, and what the network saw of it."""

    picture: Picture
    values: npt.NDArray[np.float32]
    window: Window


@dataclass(frozen=True, eq=False)
class VolumeView:
    """A volume and its map, as slices in the radiological convention: the patient's right is on the left.

    Slices are along the volume's own axes; each plane is named by the direction that is closest to it.

    Attributes:
        volume: the volume.
        values: (I, J, K) in [0, 1], the map for display.
        window: what the network saw; the rest is left uncoloured.
        levels: values of the volume that are black and white; None: its percentiles .5 and 99.5.
        cmap: see `colourise`.
        opacity: of the map in overlays.

    >>> volume = Volume(np.zeros((4, 5, 6), np.float32))
    >>> VolumeView(volume, volume.values, Window.whole(volume.size)).strip("overlay", (1, 2, 3)).size
    (1276, 420)
    """

    volume: Volume
    values: npt.NDArray[np.float32] = field(repr=False)
    window: Window
    levels: tuple[float, float] | None = None
    cmap: str = "byr"
    opacity: float = 0.5

    @property
    def _turn(self) -> Turn:
        return Turn.to("RAS", self.volume)

    def tiles(self, kind: str, voxel: Sequence[int]) -> list[Image.Image]:
        """Return the axial, coronal and sagittal slice through a voxel as square images.

        Args:
            kind: "original", "grayscale", "heatmap" or "overlay".
            voxel: (i, j, k) on the volume's own axes; lines mark it.
        """
        place = self._turned_voxel(voxel)
        scale = self._pixels_per_mm(_TILE)
        return [self._tile(kind, plane, place, scale) for plane in range(3)]

    def strip(self, kind: str, voxel: Sequence[int]) -> Image.Image:
        """Return the three slices side by side."""
        tiles, gap = self.tiles(kind, voxel), 8
        canvas = Image.new("RGB", (3 * _TILE + 2 * gap, _TILE), (255, 255, 255))
        for n, tile in enumerate(tiles):
            canvas.paste(tile, (n * (_TILE + gap), 0))
        return canvas

    def montage(self, voxel: Sequence[int], title: str = "") -> Image.Image:
        """Draw axial slices with the map, from the upper end of what the network saw to its lower end.

        Args:
            voxel: its slice is among them, marked by its caption.
            title: the largest line.
        """
        turn, place = self._turn, self._turned_voxel(voxel)
        own_axis = turn.order[2]
        seen = self._seen()[2]
        shown = np.linspace(seen.start, seen.stop - 1, min(_MOST, seen.stop - seen.start)).round().astype(int)
        nearest = int(np.abs(shown - place[2]).argmin())
        shown[nearest] = place[2]
        cells = []
        for k in shown[::-1]:
            at = list(voxel)
            at[own_axis] = self.volume.size[own_axis] - 1 - k if turn.flipped[2] else k
            text = self._height(2, at)
            image = self._drawn("overlay", 0, int(k), self._pixels_per_mm(_TILE // 2, planes=(0,)))
            cells.append(Cell(image, f"{text} (peak)" if k == place[2] else text))
        rows = [cells[n : n + _COLUMNS] for n in range(0, len(cells), _COLUMNS)]
        return sheet(rows, title=title)

    def captions(self, voxel: Sequence[int]) -> list[str]:
        """Return the name of each plane with its place, such as "axial, S 94 mm"."""
        return [f"{name}, {self._height(axis, voxel)}" for name, axis in zip(PLANES, _AXES, strict=True)]

    def _height(self, axis: int, voxel: Sequence[int]) -> str:
        """Return the place of a voxel along an axis of the patient, in millimetres."""
        millimetres = round(self.volume.world(voxel)[axis])
        return f"{_SIDES[axis][int(millimetres < 0)]} {abs(millimetres)} mm"

    def _turned_voxel(self, voxel: Sequence[int]) -> tuple[int, ...]:
        turn = self._turn
        return tuple(
            self.volume.size[i] - 1 - voxel[i] if flip else voxel[i]
            for i, flip in zip(turn.order, turn.flipped, strict=True)
        )

    def _seen(self) -> list[slice]:
        """Return what the network saw along each axis of the patient."""
        turn, parts = self._turn, self.window.visible()
        return [
            _reversed(parts[i], self.volume.size[i]) if flip else parts[i]
            for i, flip in zip(turn.order, turn.flipped, strict=True)
        ]

    def _edges(self) -> list[float]:
        """Return the length of the volume along each axis of the patient, in millimetres."""
        return [self.volume.size[i] * self.volume.spacing[i] for i in self._turn.order]

    def _pixels_per_mm(self, side: int, planes: Sequence[int] = (0, 1, 2)) -> float:
        """Return the scale at which the largest side of some planes has a number of pixels."""
        edges = self._edges()
        return side / max(edges[axis] for plane in planes for axis in range(3) if axis != _AXES[plane])

    def _tile(self, kind: str, plane: int, place: Sequence[int], scale: float) -> Image.Image:
        """Return one slice on a square, with lines through a place and the letters of the ends of the body."""
        axis = _AXES[plane]
        image = self._drawn(kind, plane, place[axis], scale)
        across, down = (a for a in range(3) if a != axis)
        counts = self._turn(self.volume.values).shape
        x, y = (
            image_side * (1 - (place[a] + 0.5) / counts[a])
            for a, image_side in ((across, image.width), (down, image.height))
        )
        canvas = Image.new("RGB", (_TILE, _TILE), _BEHIND)
        left, top = (_TILE - image.width) // 2, (_TILE - image.height) // 2
        canvas.paste(image, (left, top))
        draw, font, gap = ImageDraw.Draw(canvas), face(16, bold=True), 14
        for start, end in (
            ((left, top + y), (left + x - gap, top + y)),
            ((left + x + gap, top + y), (left + image.width - 1, top + y)),
            ((left + x, top), (left + x, top + y - gap)),
            ((left + x, top + y + gap), (left + x, top + image.height - 1)),
        ):
            if start[0] <= end[0] and start[1] <= end[1]:
                draw.line([start, end], fill=_LINE)
        places = (
            (4, _TILE / 2, "lm"),
            (_TILE - 4, _TILE / 2, "rm"),
            (_TILE / 2, 3, "ma"),
            (_TILE / 2, _TILE - 3, "md"),
        )
        for letter, (at_x, at_y, anchor) in zip(_LETTERS[plane], places, strict=True):
            draw.text((at_x, at_y), letter, font=font, fill=_LETTER, anchor=anchor, stroke_width=2, stroke_fill=_BEHIND)
        return canvas

    def _drawn(self, kind: str, plane: int, index: int, scale: float) -> Image.Image:
        """Return one slice, at a number of pixels per millimetre."""
        edges = self._edges()
        across, down = (a for a in range(3) if a != _AXES[plane])
        size = max(1, round(edges[down] * scale)), max(1, round(edges[across] * scale))
        picture, values, window = self._plane(plane, index)
        enlarged = size[0] * size[1] > values.size
        smooth = Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS
        display = _resized(picture.pixels[..., 0], size, smooth).clip(0, 1)
        heat = _resized(values, size, Image.Resampling.BILINEAR)
        shown, window = Picture(display[..., None], bits=32), window.resized(size)
        if kind == "original":
            return Image.fromarray(shown.rgb)
        if kind == "grayscale":
            return grey(heat).convert("RGB")
        if kind == "heatmap":
            return Image.fromarray(colourise(heat, self.cmap, window=window))
        return overlay(shown, heat, cmap=self.cmap, opacity=self.opacity, window=window)

    def _plane(self, plane: int, index: int) -> _Plane:
        axis = _AXES[plane]
        low, high = self.levels or self._own_levels()
        values, heat = (
            np.moveaxis(self._turn(array), axis, 0)[index].T[::-1, ::-1] for array in (self.volume.values, self.values)
        )
        seen = self._seen()
        across, down = (
            _reversed(seen[a], count)
            for a, count in zip((a for a in range(3) if a != axis), values.shape[::-1], strict=True)
        )
        inside = seen[axis].start <= index < seen[axis].stop
        parts = (down, across) if inside else (slice(0, 0), slice(0, 0))
        window = Window(
            (values.shape[0], values.shape[1]),
            tuple(float(part.start) for part in parts),
            tuple(float(part.stop - part.start) for part in parts),
        )
        pixels = ((values - low) / (high - low or 1.0)).clip(0, 1).astype(np.float32)
        return _Plane(Picture(pixels[..., None], bits=32), np.ascontiguousarray(heat, np.float32), window)

    def _own_levels(self) -> tuple[float, float]:
        step = max(1, self.volume.values.size // 1_000_000)
        low, high = np.percentile(self.volume.values.ravel(order="K")[::step], _DISPLAYED)
        return float(low), float(high)


def _reversed(part: slice, count: int) -> slice:
    return slice(count - part.stop, count - part.start)


def _resized(
    values: npt.NDArray[np.float32], size: tuple[int, int], resample: Image.Resampling
) -> npt.NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.array(image.resize(size[::-1], resample), np.float32)
