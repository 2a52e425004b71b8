"""Measure and transfer properties of the tones: brightness, contrast, inversion, and the coarse pattern."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from camscope.acquisition.property import Trait, centre, grey, resized
from camscope.array_types import Floats
from camscope.images.picture import Picture, Pixels

_GAMMA = 8.0
_THUMBNAIL = 16
_CERTAIN, _ALIKE = 0.3, 0.8
_COARSE = 8
_SMOOTH = 24


def measure_brightness(picture: Picture) -> Trait:
    """Return the median grey value in the middle of the image, in [0, 1]; small structures do not change it."""
    return np.array([np.median(centre(grey(picture)))], float)


def transfer_brightness(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return a power of the pixels that has the median of the other image; no values are clipped."""
    median, target = (float(np.clip(trait[0], 0.01, 0.99)) for trait in (own, other))
    gamma = np.clip(np.log(target) / np.log(median), 1 / _GAMMA, _GAMMA)
    powered: Pixels = picture.pixels ** np.float32(gamma)
    return powered


def measure_contrast(picture: Picture) -> Trait:
    """Return the interquartile range of the grey values in the middle of the image, and their median.

    The values are means over 1/24 of the sides, so that noise has no effect.
    """
    values = resized(centre(grey(picture)), (_SMOOTH, _SMOOTH))
    low, median, high = np.percentile(values, [25, 50, 75])
    return np.array([high - low, median], float)


def transfer_contrast(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels with the contrast of the other image, by scaling their differences from the median."""
    if own[0] <= 0:
        return picture.pixels
    median = np.float32(own[1])
    scaled: Pixels = median + (picture.pixels - median) * np.float32(other[0] / own[0])
    return scaled


def measure_inversion(picture: Picture) -> Trait:
    """Return a thumbnail of 16 x 16 grey values, averaged with its mirror image, with mean 0 and norm 1.

    Mirrored views, such as mammograms of the left and of the right breast, are then alike.
    """
    drawn = resized(centre(grey(picture)), (_THUMBNAIL, _THUMBNAIL)).astype(float)
    thumbnail = (drawn + drawn[:, ::-1]).ravel()
    thumbnail -= thumbnail.mean()
    length = np.linalg.norm(thumbnail)
    return np.asarray(thumbnail / length if length > 0 else thumbnail)


def compare_inversion(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return the traits, and 1 for inverted images, else 0.

    An image is inverted if its coefficient on the first principal component of the thumbnails has the sign of the
    minority and its absolute correlation with the component is above .3. In a cohort in which fewer than 80 % of the
    images have such a correlation, images are too different to tell, and none counts as inverted.
    """
    thumbnails = np.stack(traits)
    component = np.linalg.svd(thumbnails, full_matrices=False)[2][0]
    agreement = thumbnails @ component
    if np.count_nonzero(agreement < -_CERTAIN) > np.count_nonzero(agreement > _CERTAIN):
        agreement = -agreement
    alike = np.mean(np.abs(agreement) > _CERTAIN) >= _ALIKE
    inverted = ((agreement < -_CERTAIN) & alike).astype(float)
    return [np.array([value]) for value in inverted], inverted


def transfer_inversion(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the negative of an image if exactly one of the two images is inverted."""
    return picture.pixels if own[0] == other[0] else 1 - picture.pixels


def measure_style(picture: Picture) -> Trait:
    """Return the coarse pattern of the grey values (8, 8), without their mean."""
    pattern = resized(grey(picture), (_COARSE, _COARSE)).astype(float)
    return np.asarray(pattern - pattern.mean())


def compare_style(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return the traits, and each image's coefficient on the first principal component of the coarse patterns."""
    patterns = np.stack([trait.ravel() for trait in traits])
    centred = patterns - patterns.mean(axis=0)
    component = np.linalg.svd(centred, full_matrices=False)[2][0]
    component = component * np.sign(component[np.argmax(np.abs(component))])
    return list(traits), np.asarray(centred @ component)


def transfer_style(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels with the coarse pattern of the other image; the fine structure is kept."""
    change = Image.fromarray((other - own).astype(np.float32), "F")
    smooth = np.asarray(change.resize(picture.size[::-1], Image.Resampling.BICUBIC), np.float32)
    pixels: Pixels = picture.pixels + smooth[..., None]
    return pixels
