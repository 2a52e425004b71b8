"""Properties of the tones: brightness, contrast, inverted grey values, and the style of low frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camscope.acquisition.property import Trait, grey, inside, resized
from camscope.array_types import Floats
from camscope.images.picture import Picture, Pixels

_GAMMA = 8.0
_THUMBNAIL = 16
_CERTAIN = 0.3
_STYLE_SIDE, _STYLE_BAND = 64, 3
_GAIN, _FAINT = 3.0, 0.003


def measure_brightness(picture: Picture) -> Trait:
    """Return the median grey value inside the margins, in [0, 1]: small structures do not move it."""
    return np.array([np.median(inside(grey(picture)))], float)


def transfer_brightness(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels to the power at which the median becomes that of the other picture: no value is cut off."""
    median, target = (float(np.clip(trait[0], 0.01, 0.99)) for trait in (own, other))
    gamma = np.clip(np.log(target) / np.log(median), 1 / _GAMMA, _GAMMA)
    powered: Pixels = picture.pixels ** np.float32(gamma)
    return powered


def measure_contrast(picture: Picture) -> Trait:
    """Return the interquartile range of the grey values inside the margins, and their median."""
    low, median, high = np.percentile(inside(grey(picture)), [25, 50, 75])
    return np.array([high - low, median], float)


def transfer_contrast(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels, their distances from the median scaled."""
    if own[0] <= 0:
        return picture.pixels
    median = np.float32(own[1])
    scaled: Pixels = median + (picture.pixels - median) * np.float32(other[0] / own[0])
    return scaled


def measure_inversion(picture: Picture) -> Trait:
    """Return a thumbnail of 16 x 16 grey values, of mean 0 and length 1."""
    thumbnail = resized(inside(grey(picture)), (_THUMBNAIL, _THUMBNAIL)).astype(float).ravel()
    thumbnail -= thumbnail.mean()
    length = np.linalg.norm(thumbnail)
    return np.asarray(thumbnail / length if length > 0 else thumbnail)


def compare_inversion(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return 1 for the images that are the negatives of the others, else 0.

    The first principal component of the thumbnails is what the images have in common; an image is inverted if it has
    the sign of the minority there and a correlation beyond .3.
    """
    thumbnails = np.stack(traits)
    component = np.linalg.svd(thumbnails, full_matrices=False)[2][0]
    agreement = thumbnails @ component
    if np.count_nonzero(agreement < -_CERTAIN) > np.count_nonzero(agreement > _CERTAIN):
        agreement = -agreement
    inverted = (agreement < -_CERTAIN).astype(float)
    return [np.array([value]) for value in inverted], inverted


def transfer_inversion(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the negative of a picture if one of the two is inverted and the other is not."""
    return picture.pixels if own[0] == other[0] else 1 - picture.pixels


def measure_style(picture: Picture) -> Trait:
    """Return the logarithms of the amplitudes of the lowest frequencies (7, 7) but the mean; up to 3 cycles."""
    spectrum = np.abs(np.fft.fft2(resized(grey(picture), (_STYLE_SIDE, _STYLE_SIDE)))) / _STYLE_SIDE**2
    band = np.arange(-_STYLE_BAND, _STYLE_BAND + 1)
    amplitudes = np.log(spectrum[np.ix_(band, band)] + _FAINT)
    amplitudes[_STYLE_BAND, _STYLE_BAND] = 0.0
    return np.asarray(amplitudes)


def compare_style(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return each image's place on the first principal component of the cohort's amplitudes."""
    amplitudes = np.stack([trait.ravel() for trait in traits])
    centred = amplitudes - amplitudes.mean(axis=0)
    component = np.linalg.svd(centred, full_matrices=False)[2][0]
    component = component * np.sign(component[np.argmax(np.abs(component))])
    return list(traits), np.asarray(centred @ component)


def transfer_style(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels with the other picture's amplitudes of the lowest frequencies, and their own phases.

    Each amplitude changes by a factor of 3 at most. Source: Yang & Soatto, FDA: Fourier Domain Adaptation for Semantic
    Segmentation, CVPR 2020; here without the mean.
    """
    band = np.arange(-_STYLE_BAND, _STYLE_BAND + 1)
    gains = np.clip(np.exp(other - own), 1 / _GAIN, _GAIN)
    spectrum = np.fft.fft2(picture.pixels, axes=(0, 1))
    if min(picture.size) > 2 * _STYLE_BAND:
        spectrum[np.ix_(band, band)] *= gains[..., None]
    pixels: Pixels = np.fft.ifft2(spectrum, axes=(0, 1)).real.astype(np.float32)
    return pixels
