"""Convert the maps of rows to arrays, and normalise their positive parts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

Grids = npt.NDArray[np.float64]


def stacked(rows: pl.DataFrame) -> Grids:
    """Return the signed maps of rows as (n, h, w); all maps must have the same grid, rows without a map are skipped.

    >>> rows = pl.DataFrame({"grid": [[1.0, -2.0]], "grid_height": [1], "grid_width": [2]})
    >>> stacked(rows)
    array([[[ 1., -2.]]])
    """
    height, width = rows["grid_height"][0], rows["grid_width"][0]
    flat = rows["grid"].list.to_array(height * width).to_numpy()
    maps: Grids = flat.astype(np.float64).reshape(len(rows), height, width)
    return maps


def unit(maps: npt.ArrayLike) -> Grids:
    """Return rectified maps (n, h, w) divided by their sum; an empty map stays 0, and NaN counts as 0.

    >>> unit([[[1.0, -2.0, 3.0]], [[0.0, -1.0, 0.0]]]).tolist()
    [[[0.25, 0.0, 0.75]], [[0.0, 0.0, 0.0]]]
    """
    heat = np.maximum(np.nan_to_num(np.asarray(maps, np.float64)), 0)
    total = heat.sum((1, 2), keepdims=True)
    shares: Grids = np.divide(heat, total, out=np.zeros_like(heat), where=total > 0)
    return shares
