"""Types shared by readers and preprocessing: Picture, Peek and Window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """An image in memory.

    Attributes:
        pixels: float32 in [0, 1], shape (H, W, C); C is 1 (grey), 3 (RGB) or any other number of bands.
        source: a path, an address, or a name for images in memory.
        spacing: millimetres per pixel (row, column), or None if the file does not have it.
        bits: bits per channel of the file; at 8 every pixel is a whole number of 255ths.
        highest: the whole number that became 1, where the file or array holds whole numbers and the pixels are these
            divided by it; 0 where they cannot be had again from the pixels.
        notes: notes of the reader on the pixels, such as a window that cuts most of them off.
    """

    pixels: Pixels = field(repr=False)
    source: str = ""
    spacing: tuple[float, float] | None = None
    bits: int = 8
    highest: int = 0
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return int(self.pixels.shape[2])

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """Return the pixels as (H, W, 3) bytes for display; of more than three channels the first three.

        >>> Picture(np.ones((4, 6, 13), np.float32)).rgb.shape
        (4, 6, 3)
        """
        return np.ascontiguousarray(np.broadcast_to(self.bytes, (*self.size, 3)))

    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """Return the displayed channels as bytes: (H, W, 1) of one or two channels, (H, W, 3) of three or more."""
        display = self.pixels[..., : 3 if self.channels >= 3 else 1]
        levels = np.empty(display.shape, np.uint8)
        for rows in strips(self.size):
            levels[rows] = np.rint(display[rows] * np.float32(255))
        return levels


def strips(size: tuple[int, int], *, pixels: int = 1 << 22) -> Iterator[slice]:
    """Yield the rows of parts of an image, so that what is computed on the way takes little memory.

    Args:
        size: (height, width).
        pixels: of each part, about.

    >>> [(rows.start, rows.stop) for rows in strips((5, 2), pixels=4)]
    [(0, 2), (2, 4), (4, 5)]
    """
    height, width = size
    step = max(1, pixels // max(1, width))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


@dataclass(frozen=True)
class Peek:
    """Facts in the header of an image file.

    Attributes:
        size: (height, width) in pixels, as the image will have it.
        facts: what else is known; "patient" and "view" of DICOM files, where the header has them.
    """

    size: tuple[int, int]
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Window:
    """The part of the image that the network saw: the network's input as a box on the image.

    Resizing, centre crops and letterboxes all reduce to one box in image pixels: pixel (i, j) of a network input
    of size (h, w) covers rows ``start[0] + i * extent[0] / h`` to ``start[0] + (i + 1) * extent[0] / h``. A box
    that ends before the image is a crop, one that reaches beyond it is padding. Works for any number of axes.

    Attributes:
        picture: size of the whole image, (H, W) in pixels.
        start: first edge of the box on each axis, (top, left); negative where the image was padded.
        extent: length of the box on each axis, (height, width).
        assumed: whether it is not known what the network saw, so that this is a guess.
        order: of a volume that was reoriented: the axis of the volume that each axis of the input is; (): the same.
        flipped: whether each axis of the input runs backwards along it.
    """

    picture: tuple[int, ...]
    start: tuple[float, ...]
    extent: tuple[float, ...]
    assumed: bool = False
    order: tuple[int, ...] = ()
    flipped: tuple[bool, ...] = ()

    @classmethod
    def whole(cls, size: tuple[int, ...]) -> Window:
        """Return the window of a network that sees the whole image, however resized."""
        return cls(tuple(size), (0.0,) * len(size), tuple(float(length) for length in size))

    def resized(self, size: tuple[int, ...]) -> Window:
        """Return the window on the image at another size.

        >>> Window((8, 8), (0.0, 2.0), (8.0, 4.0)).resized((4, 16))
        Window(picture=(4, 16), start=(0.0, 4.0), extent=(4.0, 8.0), assumed=False, order=(), flipped=())
        """
        factors = [new / old for new, old in zip(size, self.picture, strict=True)]
        start = tuple(edge * factor for edge, factor in zip(self.start, factors, strict=True))
        extent = tuple(length * factor for length, factor in zip(self.extent, factors, strict=True))
        return replace(self, picture=size, start=start, extent=extent)

    def visible(self) -> tuple[slice, ...]:
        """Return the image pixels whose centres lie inside the window, as one slice per axis."""
        slices = []
        for size, start, extent in zip(self.picture, self.start, self.extent, strict=True):
            low = int(np.clip(np.ceil(start - 0.5), 0, size))
            high = int(np.clip(np.ceil(start + extent - 0.5), 0, size))
            slices.append(slice(low, high))
        return tuple(slices)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, for JSON."""
        box = {"picture": list(self.picture), "start": list(self.start), "extent": list(self.extent)}
        return box | ({"order": list(self.order), "flipped": list(self.flipped)} if self.order else {})
