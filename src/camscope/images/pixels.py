"""Convert the numbers of files and arrays to pixels in [0, 1]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from camscope.errors import PictureError


def unit(values: npt.NDArray[np.integer], highest: int) -> npt.NDArray[np.float32]:
    """Return whole numbers as float32 in [0, 1] with a channel axis, (H, W) or (H, W, C) -> (H, W, C).

    >>> unit(np.array([[0, 51, 255]], np.uint8), 255)[..., 0]
    array([[0. , 0.2, 1. ]], dtype=float32)
    """
    values = values[..., None] if values.ndim == 2 else values
    pixels: npt.NDArray[np.float32] = np.divide(values, np.float32(highest), dtype=np.float32)
    return pixels


def unit_float(values: npt.NDArray[np.floating], *, source: str) -> npt.NDArray[np.float32]:
    """Return a float32 copy (H, W, C) of (H, W) or (H, W, C) float values, which must lie in [0, 1]."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:  # also false for NaN
        contents = "NaN" if np.isnan(low) else f"values from {low:.6g} to {high:.6g}"
        raise PictureError(f"{source!r} holds {contents}; float pixels must lie in [0, 1]: scale them first")
    return np.array(values[..., None] if values.ndim == 2 else values, dtype=np.float32)
