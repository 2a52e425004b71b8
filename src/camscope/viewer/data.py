"""Pictures and maps as the viewer takes them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from camscope.explanation import Explanation
from camscope.images import Picture

_LONGEST = 1600


def shown_pixels(picture: Picture, *, longest: int = _LONGEST) -> npt.NDArray[Any]:
    """Return a picture as the viewer shows it.

    Args:
        picture: the picture.
        longest: largest side in pixels; larger pictures are reduced.

    Returns:
        (h, w) of grey pictures, uint8, or uint16 for more than 8 bits; (h, w, 3) uint8 of others.

    >>> shown_pixels(Picture(np.ones((40, 20, 1), np.float32), bits=16), longest=10).shape
    (10, 5)
    """
    factor = min(1.0, longest / max(picture.size))
    size = max(round(picture.size[1] * factor), 1), max(round(picture.size[0] * factor), 1)
    if picture.channels >= 3:
        return np.asarray(Image.fromarray(picture.rgb).resize(size, Image.Resampling.BOX, reducing_gap=2.0))
    grey = np.asarray(Image.fromarray(picture.pixels[..., 0]).resize(size, Image.Resampling.BOX))
    kind, top = (np.uint16, 65535) if picture.bits > 8 else (np.uint8, 255)
    shown: npt.NDArray[Any] = np.rint(np.clip(grey, 0, 1) * np.float32(top)).astype(kind)
    return shown


def shown_facts(shown: npt.NDArray[Any]) -> dict[str, int]:
    """Return height, width, channels and bits of shown pixels."""
    channels = 1 if shown.ndim == 2 else 3
    return {"height": shown.shape[0], "width": shown.shape[1], "channels": channels, "bits": 8 * shown.itemsize}


def grid_data(e: Explanation) -> dict[str, Any]:
    """Return the raw signed map: height, width, and values as little-endian float32 in base64; NaN becomes 0."""
    cells = np.nan_to_num(np.asarray(e.grid, "<f4"))
    values = base64.b64encode(cells.tobytes()).decode()
    return {"height": cells.shape[0], "width": cells.shape[1], "values": values}
