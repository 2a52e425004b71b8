"""Measure and transfer properties of the fine detail: sharpness, noise, JPEG quality and resolution."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from camscope.acquisition.property import Trait, grey, resized
from camscope.array_types import Bytes, Floats
from camscope.images.picture import Picture, Pixels

_SIDE, _BANDS = 256, 128
_FINE, _RAMP = 32, (8, 16)
_GAIN = 10.0
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_QUALITIES = np.arange(2, 99)
_APART = 5  # the errors at this distance on both sides tell the error without a ghost
_CROP = 256
_GHOST, _FLOOR = 0.5, 0.12
LOSSLESS = 100.0


def measure_sharpness(picture: Picture) -> Trait:
    """Return the log power (128,) of the standardised image by frequency, 1 to 128 cycles per side."""
    values = resized(grey(picture), (_SIDE, _SIDE))
    values = (values - values.mean()) / max(float(values.std()), 1e-6)
    window = np.hanning(_SIDE)
    power = np.abs(np.fft.fft2(values * window[:, None] * window)) ** 2
    cycles = np.fft.fftfreq(_SIDE) * _SIDE
    radius = np.rint(np.hypot(cycles[:, None], cycles)).astype(int)
    kept = (radius >= 1) & (radius <= _BANDS)
    sums = np.bincount(radius[kept], power[kept], _BANDS + 1)[1:]
    return np.asarray(np.log(sums / np.bincount(radius[kept], minlength=_BANDS + 1)[1:] + 1e-6))


def compare_sharpness(traits: Sequence[Trait]) -> tuple[list[Trait], Floats]:
    """Return the log share of the power above 32 cycles per side."""
    cycles = np.arange(1, _BANDS + 1)
    powers = np.exp(np.stack(traits)) * cycles
    return list(traits), np.asarray(np.log(powers[:, _FINE:].sum(1) / powers.sum(1)))


def transfer_sharpness(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels, filtered to have the power of the other image above 8 to 16 cycles.

    The gain is at most 10. Detail that a blurred image has lost cannot be restored.
    """
    gains = np.exp(ndimage.uniform_filter1d((other - own) / 2, 5, mode="nearest")).clip(1 / _GAIN, _GAIN)
    cycles = np.arange(1, _BANDS + 1)
    gains = np.exp(np.log(gains) * np.clip((cycles - _RAMP[0]) / (_RAMP[1] - _RAMP[0]), 0, 1))
    height, width = picture.size
    radius = np.hypot((np.fft.fftfreq(height) * height)[:, None], np.fft.rfftfreq(width) * width)
    gain = np.interp(radius, np.arange(_BANDS + 1), np.concatenate([[1.0], gains]))
    spectrum = np.fft.rfft2(picture.pixels, axes=(0, 1)) * gain[..., None]
    pixels: Pixels = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1)).astype(np.float32)
    return pixels


def measure_noise(picture: Picture) -> Trait:
    """Return the standard deviation of the noise.

    Source: Immerkaer, Fast Noise Variance Estimation, CVIU 1996; here with the median, which depends less on edges.
    """
    return np.array([_noise(grey(picture))], float)


def _noise(values: Pixels) -> float:
    if min(values.shape) < 3:
        return 0.0
    residual = ndimage.convolve(values, _IMMERKAER, mode="nearest")[1:-1, 1:-1]
    return float(np.median(np.abs(residual)) / 0.6745 / 6)


def transfer_noise(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels with the noise of the other picture: add Gaussian noise, or damp the finest detail."""
    sigma, target = float(own[0]), float(other[0])
    if target >= sigma:
        draw = np.random.default_rng(zlib.crc32(picture.pixels.tobytes()))
        noise = draw.standard_normal(picture.size, np.float32)[..., None]
        return picture.pixels + noise * np.float32(np.sqrt(target**2 - sigma**2))
    base = ndimage.gaussian_filter(picture.pixels, (1, 1, 0), mode="nearest")
    least = _noise(grey(Picture(base)))
    kept = np.clip((target - least) / max(sigma - least, 1e-6), 0, 1)
    damped: Pixels = base + (picture.pixels - base) * np.float32(kept)
    return damped


def measure_jpeg(picture: Picture) -> Trait:
    """Return the quality at which an image was compressed as JPEG, on libjpeg's scale; 100 without signs of this.

    An image hardly changes when it is compressed again with the same quality.
    Source: Farid, Exposing Digital Forgeries from JPEG Ghosts, IEEE TIFS 2009. The middle of the image is used.
    """
    values = np.rint(grey(picture) * 255).astype(np.uint8)
    if min(values.shape) < 16:
        return np.array([LOSSLESS])
    top, left = (max(side - _CROP, 0) // 16 * 8 for side in values.shape)
    crop = np.ascontiguousarray(values[top : top + _CROP, left : left + _CROP])
    errors = np.array([np.mean((_compressed(crop, int(q)).astype(float) - crop) ** 2) for q in _QUALITIES])
    places, logs = np.arange(len(errors)), np.log(np.maximum(errors, 1e-9))
    below, above = np.maximum(places - _APART, 0), np.minimum(places + _APART, places[-1])
    weights = (above - places) / (above - below)
    expected = np.exp(weights * logs[below] + (1 - weights) * logs[above])
    depths = np.where(expected > _FLOOR, errors / expected, 1.0)
    best = int(np.argmin(depths))
    return np.array([float(_QUALITIES[best]) if depths[best] < _GHOST else LOSSLESS])


def transfer_jpeg(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels compressed at the quality of the other image; unchanged if that quality is not lower."""
    if other[0] >= own[0]:
        return picture.pixels
    levels = np.rint(picture.pixels * 255).astype(np.uint8)
    groups = [levels] if picture.channels == 3 else [levels[..., k] for k in range(picture.channels)]
    coded = [_compressed(group, int(other[0])) for group in groups]
    pixels = coded[0] if picture.channels == 3 else np.stack(coded, axis=2)
    return pixels.astype(np.float32) / np.float32(255)


def _compressed(levels: Bytes, quality: int) -> Bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)


def measure_resolution(picture: Picture) -> Trait:
    """Return the geometric mean of height and width, in pixels."""
    return np.array([np.sqrt(picture.pixels.shape[0] * picture.pixels.shape[1])], float)


def transfer_resolution(picture: Picture, own: Trait, other: Trait) -> Pixels:
    """Return the pixels scaled down to the resolution of the other image; unchanged if that is not lower."""
    scale = float(other[0] / own[0])
    if scale >= 1:
        return picture.pixels
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return np.stack([resized(picture.pixels[..., k], (size[0], size[1])) for k in range(picture.channels)], axis=2)
