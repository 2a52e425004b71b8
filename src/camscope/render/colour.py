"""Draw values in [0, 1] as colours: the map alone, the overlay, and in grey."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from camscope.array_types import Bytes
from camscope.errors import SettingError, nearest
from camscope.images.picture import Picture, Window, strips
from camscope.render.text import BLANK

COLOUR_MAPS = ("byr", "jet", "turbo", "viridis", "inferno", "magma", "plasma", "cividis", "hot", "coolwarm", "gray")
"""Common colour maps; any other of Matplotlib works too."""

# Low blue, medium yellow, high red. A straight line from blue to yellow is grey half way; through pale aqua it is not.
_BYR = (
    (0.00, (33, 44, 160)),
    (0.16, (40, 104, 218)),
    (0.29, (84, 178, 236)),
    (0.39, (170, 226, 226)),
    (0.45, (232, 240, 150)),
    (0.52, (255, 226, 40)),
    (0.68, (255, 160, 28)),
    (0.84, (240, 80, 28)),
    (1.00, (196, 4, 30)),
)


def colourise(values: npt.NDArray[np.floating], cmap: str = "byr", *, window: Window | None = None) -> Bytes:
    """Colour a map.

    Args:
        values: (H, W) in [0, 1]; NaN is shown as 0.
        cmap: "byr" (low blue, medium yellow, high red) or any colour map of Matplotlib.
        window: what the network saw; the rest is light grey. None: all of it.

    Returns:
        (H, W, 3) bytes.

    Raises:
        SettingError: no such colour map.

    >>> colourise(np.array([[0.0, 0.5, 1.0]]), "gray")[0, :, 0]
    array([  0, 128, 255], dtype=uint8)
    """
    if window is None:
        return np.take(_table(cmap), _bytes(values), axis=0)
    drawn, view = np.full((*values.shape, 3), BLANK, np.uint8), window.visible()
    drawn[view] = colourise(values[view], cmap)
    return drawn


def grey(values: npt.NDArray[np.floating]) -> Image.Image:
    """Return the map as an 8-bit grey image, 0 black and 1 white.

    >>> grey(np.array([[0.0, 1.0]])).getpixel((1, 0))
    255
    """
    return Image.fromarray(_bytes(values))


def overlay(
    picture: Picture,
    values: npt.NDArray[np.floating],
    *,
    cmap: str = "byr",
    opacity: float = 0.5,
    window: Window | None = None,
) -> Image.Image:
    """Lay a coloured map over its image.

    Args:
        picture: the image, H x W.
        values: (H, W) in [0, 1].
        cmap: see `colourise`.
        opacity: 0 shows the image alone, 1 the map alone.
        window: what the network saw; image pixels outside keep their own colour. None: all of it.

    Returns:
        An RGB image of the image's size.

    Raises:
        SettingError: the sizes differ, the opacity is not in [0, 1], or there is no such colour map.

    >>> overlay(Picture(np.ones((4, 6, 1), np.float32)), np.zeros((4, 6))).size
    (6, 4)
    """
    check_fit(picture, values)
    if not 0 <= opacity <= 1:
        raise SettingError(f"opacity {opacity} is not possible; it lies in 0 (image alone) to 1 (map alone)")
    pixels, table = picture.bytes, _blended(cmap, float(opacity))
    view = (window or Window.whole(picture.size)).visible()
    seen, seen_values = pixels[view], values[view]
    if seen.shape == pixels.shape:
        laid = Image.new("RGB", picture.size[::-1])
    else:
        laid = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    channels = table.view(np.uint8).reshape(-1, 4)
    for rows in strips((seen.shape[0], seen.shape[1])):
        levels = _bytes(seen_values[rows]).astype(np.uint16) << 8
        if pixels.shape[2] == 1:  # one lookup of whole pixels
            colours = np.take(table, levels | seen[rows][..., 0])
            drawn = Image.frombytes("RGB", colours.shape[::-1], colours.tobytes(), "raw", "RGBX")
        else:
            parts = [np.take(channels[:, k], levels | seen[rows][..., k]) for k in range(3)]
            drawn = Image.fromarray(np.stack(parts, axis=2))
        laid.paste(drawn, (view[1].start, view[0].start + rows.start))
    return laid


@lru_cache
def _blended(cmap: str, opacity: float) -> npt.NDArray[np.uint32]:
    """Return a level's colour over a pixel's value: (256 levels x 256 values,), each the bytes R, G, B and 0."""
    values = np.arange(256, dtype=np.float32) * np.float32(1 - opacity)
    colours = _table(cmap).astype(np.float32) * np.float32(opacity)
    blended = np.zeros((256, 256, 4), np.uint8)
    blended[..., :3] = np.rint(values[:, None] + colours[:, None])
    return blended.view(np.uint32).ravel()


def check_fit(picture: Picture, values: npt.NDArray[np.floating]) -> None:
    """Raise SettingError where the map is not as large as the image."""
    if values.shape != picture.size:
        raise SettingError(f"a map of size {values.shape} does not fit on an image of size {picture.size}")


def _bytes(values: npt.NDArray[np.floating]) -> Bytes:
    levels = np.asarray(values) * np.float32(255)
    np.clip(levels, 0, 255, out=levels)
    if not math.isfinite(levels.sum()):
        np.nan_to_num(levels, copy=False, nan=0.0)
    return np.rint(levels, out=levels).astype(np.uint8)


@lru_cache
def _table(cmap: str) -> Bytes:
    """Return the colour of each of the 256 levels, (256, 3)."""
    if cmap == "byr":
        table = _byr()
    else:
        from matplotlib import colormaps  # the import takes half a second

        if cmap not in colormaps:
            raise SettingError(nearest("colour map", cmap, ["byr", *colormaps]))
        table = colormaps[cmap](np.linspace(0, 1, 256), bytes=True)[:, :3]
    table = np.ascontiguousarray(table)
    table.setflags(write=False)
    return table


def _byr() -> Bytes:
    """Interpolate our colours in Oklab, where equal steps look equal, and round off the corners.

    Reference: Bjoern Ottosson, A perceptual color space for image processing, 2020.
    """
    places = [place for place, _ in _BYR]
    lab = _oklab(np.array([colour for _, colour in _BYR]) / 255)
    curve = np.stack([np.interp(np.linspace(0, 1, 256), places, channel) for channel in lab.T])
    margin = 10
    curve = np.pad(curve, ((0, 0), (margin, margin)), mode="reflect", reflect_type="odd")
    weights = np.hanning(2 * margin + 3)[1:-1]
    smooth = np.stack([np.convolve(channel, weights / weights.sum(), mode="valid") for channel in curve], axis=-1)
    return np.rint(_srgb(smooth) * 255).astype(np.uint8)


_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _oklab(srgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: npt.NDArray[np.float64] = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def _srgb(oklab: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = np.clip((oklab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
