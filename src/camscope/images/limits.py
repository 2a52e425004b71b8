"""Limit the size of images, so that no single file fills the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from camscope.errors import PictureError

MAX_BYTES = 2 << 30
"""Maximum bytes of a file, also after decompression."""

_CHANNELS = 3


def max_pixels() -> int | None:
    """Return the number of pixels (height times width) of the largest image that is read.

    It is twice Pillow's ``Image.MAX_IMAGE_PIXELS``, 178,956,970 unless it is changed; None: no limit.
    """
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_size(size: tuple[int, int], source: str, *, channels: int = 1) -> None:
    """Raise a PictureError for an image that is too large by what its header states.

    Args:
        size: (height, width).
        source: what to call it.
        channels: of each pixel; three times `max_pixels` is the limit of all values together.

    >>> check_size((40_000, 40_000), "large.tif")
    Traceback (most recent call last):
    camscope.errors.PictureError: 'large.tif' says it has more than 178,956,970 pixels; reduce or crop it first
    """
    limit = max_pixels()
    if limit is None:
        return
    pixels = int(size[0]) * int(size[1])
    if pixels > limit:
        raise PictureError(f"{source!r} says it has more than {limit:,} pixels; reduce or crop it first")
    if pixels * channels > _CHANNELS * limit:
        raise PictureError(
            f"{source!r} says it has {pixels:,} pixels of {channels} channels, more than {_CHANNELS * limit:,} values; "
            "reduce or crop it first"
        )


def check_voxels(size: Sequence[int], source: str) -> None:
    """Raise a PictureError for a volume that is too large by what its header states.

    Args:
        size: voxels along each axis.
        source: what to call it; the limit is three times `max_pixels`, as for the values of an image.

    >>> check_voxels((4096, 4096, 4096), "large.nii")
    Traceback (most recent call last):
    camscope.errors.PictureError: 'large.nii' says it has more than 536,870,910 voxels; crop or resample it first
    """
    limit = max_pixels()
    if limit is not None and math.prod(map(int, size)) > _CHANNELS * limit:
        raise PictureError(f"{source!r} says it has more than {_CHANNELS * limit:,} voxels; crop or resample it first")
