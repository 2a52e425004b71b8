"""Read multispectral TIFF files with any number of bands."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import TiffImagePlugin

from camscope.errors import MissingExtraError, PictureError, require
from camscope.images.limits import check_size
from camscope.images.picture import Picture
from camscope.images.pixels import unit, unit_float
from camscope.images.source import frame_notes, no_frame, reason, split

# Tags and values of the TIFF standard.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 256, 257, 258, 262, 277, 338, 339
_GREY, _RGB = (0, 1), 2
_WHITE_IS_ZERO = 0
_ALPHA = (1, 2)
_FLOAT = 3
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BIG = 43


def band_tags(file: BinaryIO) -> Mapping[int, Any] | None:
    """Return the tags of a TIFF file that must be read band by band; None for every other file.

    These are grey files with further samples that are not declared as alpha, RGB files with a fourth or more, and RGB
    files of floats: Pillow reads the first as RGB, and cannot read the others. The place in the file is left as it is.
    """
    start = file.tell()
    try:
        header = file.read(8)
        if header[:4] not in _MAGIC:
            return None
        header += file.read(8) if _BIG in header[2:4] else b""
        with contextlib.suppress(Exception):  # the reader of photographs reports the damage
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(start + tags.next)
            tags.load(file)
            bands = len(_bands(tags)) if min(band_size(tags)) > 0 else 0
            is_float_rgb = tags.get(_PHOTOMETRIC) == _RGB and _FLOAT in tags.get(_FORMAT, ())
            most = 1 if tags.get(_PHOTOMETRIC, 1) in _GREY else 3 if tags.get(_PHOTOMETRIC) == _RGB else bands
            return dict(tags) if bands > most or is_float_rgb else None
        return None
    finally:
        file.seek(start)


def read_bands(file: BinaryIO, source: str, tags: Mapping[int, Any]) -> Picture:
    """Read all bands of a TIFF file, contiguous or planar; needs the extra ``tiff``.

    Args:
        file: open at the beginning of the TIFF file.
        source: what to call it; ``#3`` at its end selects frame 3, counted from 0.
        tags: from `band_tags`.

    Returns:
        The image (H, W, bands): v / 255 at 8 bits, v / 65535 at 16 bits (or the highest value of the bits that the
        file says it uses), the value itself for floats. Samples that are declared as alpha are left out.

    Raises:
        PictureError: damaged, too large, or of another type of number.
        MissingExtraError: tifffile, or the package that undoes the file's compression, is not installed.
    """
    check_size(band_size(tags), source, channels=int(tags.get(_SAMPLES, 1)))
    tifffile: Any = require("tifffile", f"reading the bands of {split(source)[0]}", "tiff")
    try:
        with tifffile.TiffFile(file) as tiff:
            frame = split(source)[1] or 0
            if frame >= len(tiff.pages):
                raise no_frame(source, len(tiff.pages))
            notes = frame_notes(source, len(tiff.pages))
            page = tiff.pages[frame]
            check_size(page.shape[-3:-1] if page.axes.endswith("S") else page.shape[-2:], source)
            values = page.asarray()
            values = np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values
    except (PictureError, MemoryError):
        raise
    except Exception as fault:
        if "imagecodecs" in str(fault):
            raise MissingExtraError(
                f"undoing the compression of {split(source)[0]} needs imagecodecs: pip install 'camscope[tiff]'"
            ) from None
        raise PictureError(f"{source!r} is damaged or truncated: {reason(fault)}") from None
    if values.ndim != 3:
        raise PictureError(f"{source!r} has the axes {page.axes}; expected rows, columns and bands")
    bands = _bands(tags)
    if not bands or max(bands) >= values.shape[-1]:
        raise PictureError(f"{source!r} is damaged: its header states other bands than its {values.shape[-1]}")
    return replace(_scaled(values[..., bands], source, tags), notes=notes)


def band_size(tags: Mapping[int, Any]) -> tuple[int, int]:
    """Return (height, width) as the tags state it."""
    return int(tags[_HEIGHT]), int(tags[_WIDTH])


def _bands(tags: Mapping[int, Any]) -> list[int]:
    """Return the indices of the samples that are not declared as alpha."""
    samples, extra = int(tags.get(_SAMPLES, 1)), tags.get(_EXTRA, ())
    first = samples - len(extra)
    return [i for i in range(samples) if i < first or extra[i - first] not in _ALPHA]


def _scaled(values: npt.NDArray[Any], source: str, tags: Mapping[int, Any]) -> Picture:
    if np.issubdtype(values.dtype, np.floating):
        return Picture(unit_float(values, source=source), source, bits=32)
    if values.dtype not in (np.uint8, np.uint16):
        raise PictureError(
            f"{source!r} holds numbers of type {values.dtype}, whose range is unknown; save it as 8 or 16 bits "
            "unsigned, or as float in [0, 1]"
        )
    bits = max(int(number) for number in tags.get(_BITS, (8 * values.dtype.itemsize,)))
    highest = 2**bits - 1
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = highest - values
    return Picture(unit(values, highest), source, bits=bits if bits >= 8 else 32)
