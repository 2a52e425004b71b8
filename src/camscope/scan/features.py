"""Measure an image and a map: the numbers by which odd images are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy.fft import dctn

from camscope.acquisition import PROPERTIES
from camscope.acquisition.property import grey, reduced, resized
from camscope.cohort.regions import Scene, cell_shares, evidence, region, visible_shares
from camscope.cohort.store import Row
from camscope.images.picture import Picture, Pixels, Window
from camscope.study.measure import Grid

REGIONS = ("border:0.10", "corner:0.15")
_LOOK, _HASHED, _LIMIT = 16, 32, 512
_COLOURED = 0.02

IMAGE: dict[str, Any] = {
    "height": pl.Int32,
    "width": pl.Int32,
    "colour": pl.Boolean,
    "brightness": pl.Float64,
    "spread": pl.Float64,
    "notes": pl.List(pl.String),
    "perceptual_hash": pl.UInt64,
    "look": pl.List(pl.Float32),
    "pattern": pl.List(pl.Float32),
}
"""Columns of an image: size, whether it has colours, mean and standard deviation of its grey values, notes of the
reader, the perceptual hash, a thumbnail of 16 x 16 grey values, and the pattern by which inverted images are found."""

MAP: dict[str, Any] = {
    "grid": pl.List(pl.Float32),
    "grid_height": pl.Int32,
    "grid_width": pl.Int32,
    **{f"{what}:{name}": pl.Float64 for name in REGIONS for what in ("mass", "area")},
}
"""Columns of a map: its grid, and the share of the heat and of the area in each region."""


def image_values(picture: Picture) -> Row:
    """Return the columns of an image.

    >>> pixels = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64, 1)
    >>> values = image_values(Picture(pixels))
    >>> values["height"], values["colour"], round(values["brightness"], 2)
    (64, False, 0.5)
    """
    small = reduced(picture, _LIMIT)
    values = grey(small)
    return {
        "height": picture.size[0],
        "width": picture.size[1],
        "colour": picture.channels == 3 and float(np.ptp(small.pixels, axis=2).mean()) > _COLOURED,
        "brightness": float(values.mean()),
        "spread": float(values.std()),
        "notes": list(picture.notes),
        "perceptual_hash": perceptual_hash(values),
        "look": resized(values, (_LOOK, _LOOK)).ravel().tolist(),
        "pattern": PROPERTIES["inversion"].measure(small).tolist(),
    }


def perceptual_hash(values: Pixels) -> int:
    """Return 64 bits that are alike for images that look alike, whatever their size and compression.

    The signs of the 8 x 8 lowest frequencies of the cosine transform of a thumbnail, relative to their median.

    >>> values = np.random.default_rng(0).random((40, 40), np.float32)
    >>> perceptual_hash(values) == perceptual_hash(values * 0.9 + 0.05)
    True

    Args:
        values: (H, W) grey values.

    Reference:
        Zauner, Implementation and benchmarking of perceptual image hash functions, 2010 (pHash).
    """
    frequencies = dctn(resized(values, (_HASHED, _HASHED)).astype(float), norm="ortho")[:8, :8].ravel()
    bits = frequencies > np.median(frequencies[1:])
    bits[0] = False  # the mean, which is no pattern
    return int(np.packbits(bits).view(">u8")[0])


def map_values(grid: Grid, window: Window) -> Row:
    """Return the columns of a map.

    Args:
        grid: (h, w) the map, signed.
        window: the part of the image in the network's input.
    """
    shape = (grid.shape[0], grid.shape[1])
    scene, view = Scene((window.picture[0], window.picture[1]), window), visible_shares(window, shape)
    row: Row = {"grid": grid.ravel().tolist(), "grid_height": shape[0], "grid_width": shape[1]}
    for name in REGIONS:
        mask = region(name, scene)
        if mask is not None:
            heat = evidence(grid, cell_shares(mask, window, shape), view)
            row |= {f"mass:{name}": None if np.isnan(heat.mass) else heat.mass, f"area:{name}": heat.area}
    return row
