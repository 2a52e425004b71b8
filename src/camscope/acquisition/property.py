"""Define the type of an acquisition property, and shared functions for grey values, margins and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from camscope.array_types import Floats, Mask
from camscope.images.picture import Picture, Pixels

Trait = Floats
"""Measurement of a property in one image: a few numbers, or a small array."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_FLAT = 0.04
_WIDEST = 0.45
_SMOOTH = 64


def first_number(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return the traits unchanged, and the first number of each trait as its value."""
    return list(traits), np.array([trait.flat[0] for trait in traits], float)


@dataclass(frozen=True)
class AcquisitionProperty:
    """One property of images that depends on the device, the file or the operator.

    Attributes:
        name: name in the study file.
        noun: name in sentences, such as "the contrast".
        measure: image -> trait.
        transfer: (image, its trait, trait of another image) -> pixels with the property of the other image, as
            far as this is possible; lost detail of a compressed image is not restored.
        compare: traits of a cohort -> the traits, if necessary relative to the cohort, and one number per image by
            which images are ordered.
        full_size: whether the property must be measured at the size of the file, not in a reduced image.
        varies_with_disease: whether a disease itself can change the property.
    """

    name: str
    noun: str
    measure: Callable[[Picture], Trait]
    transfer: Callable[[Picture, Trait, Trait], Pixels]
    compare: Callable[[Sequence[Trait]], tuple[list[Trait], Floats]] = first_number
    full_size: bool = False
    varies_with_disease: bool = False

    def set(self, picture: Picture, own: Trait, other: Trait) -> Picture:
        """Return an image with the property of another one.

        Args:
            picture: pixels (H, W, C) in [0, 1].
            own: trait of the image.
            other: trait of another image.

        Returns:
            An image in [0, 1], rounded to 8 bits if the original has 8 bits. Its size may differ.

        Examples:
            >>> from camscope.acquisition import PROPERTIES
            >>> pixels = np.linspace(0.2, 0.6, 64, dtype=np.float32).reshape(8, 8, 1)
            >>> contrast, picture = PROPERTIES["contrast"], Picture(pixels, bits=16)
            >>> own = contrast.measure(picture)
            >>> changed = contrast.set(picture, own, own / 2)
            >>> bool(np.isclose(changed.pixels.std(), pixels.std() / 2))
            True
        """
        pixels = np.clip(self.transfer(picture, own, other), 0, 1)
        if picture.bits <= 8:
            pixels = np.rint(pixels * np.float32(255)) / np.float32(255)
        return dataclasses.replace(picture, pixels=pixels.astype(np.float32), highest=0)


def reduced(picture: Picture, limit: int) -> Picture:
    """Return an image whose longer side is less than twice a limit, by means over square blocks of pixels."""
    factor = max(picture.size) // limit
    if factor < 2 or min(picture.size) < factor:
        return picture
    height, width = (side // factor for side in picture.size)
    blocks = picture.pixels[: height * factor, : width * factor]
    means = blocks.reshape(height, factor, width, factor, -1).mean(axis=(1, 3), dtype=np.float32)
    return dataclasses.replace(picture, pixels=means, bits=max(picture.bits, 16), highest=0)


def without(picture: Picture, region: Mask) -> Picture:
    """Return an image with a region (H, W) filled in smoothly from the pixels around it."""
    if not region.any() or region.all():
        return picture
    nearest = ndimage.distance_transform_edt(region, return_distances=False, return_indices=True)
    filled = picture.pixels[tuple(nearest)]
    sigma = max(picture.size) / _SMOOTH
    smooth = ndimage.gaussian_filter(filled, (sigma, sigma, 0), mode="nearest")
    return dataclasses.replace(picture, pixels=np.where(region[..., None], smooth, picture.pixels))


def grey(picture: Picture) -> Pixels:
    """Return the luminance (H, W) of a colour image, else the mean of the channels."""
    pixels = picture.pixels
    values: Pixels = pixels @ _LUMA if picture.channels == 3 else pixels.mean(axis=2)
    return values


def resized(values: Pixels, size: tuple[int, int]) -> Pixels:
    """Return (H, W) values at another (height, width), antialiased."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32), "F")
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), np.float32)


def margins(values: Pixels) -> tuple[int, int, int, int]:
    """Return the number of lines of one tone at the top, bottom, left and right edge of an image (H, W)."""
    top, bottom = (_flat_lines(values[::step]) for step in (1, -1))
    left, right = (_flat_lines(values.T[::step]) for step in (1, -1))
    return top, bottom, left, right


def centre(values: Pixels) -> Pixels:
    """Return the middle of an image (H, W), 60 % of its height and width, to exclude frames."""
    height, width = values.shape
    top, left = height // 5, width // 5
    return values[top : height - top, left : width - left]


def _flat_lines(lines: Pixels) -> int:
    flat = (np.ptp(lines, axis=1) <= _FLAT) & (np.abs(lines.mean(axis=1) - lines[0].mean()) <= _FLAT)
    depth = len(lines) if flat.all() else int(np.argmin(flat))
    return depth if depth <= _WIDEST * len(lines) else 0
