"""Read NIfTI files."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np

from camscope.errors import CamscopeError, PictureError, require
from camscope.images.limits import MAX_BYTES, check_voxels
from camscope.images.source import frame_notes, no_frame, opened, reason, split
from camscope.images.volume import Volume, Voxels

_GZIP = b"\x1f\x8b"
_BEGINNING = 352
_KINDS = {348: ("Nifti1Image", 344), 540: ("Nifti2Image", 4)}
"""Bytes of the header -> class of nibabel, and the place of the letters that tell single files from pairs."""
_UNITS = {"meter": 1000.0, "micron": 0.001}
"""Unit of length -> millimetres."""
_UNPLACED = (
    "the file does not state how it lies in the body (its sform and qform codes are 0), so that left and right may be "
    "swapped"
)


def read_nifti(source: str) -> Volume:
    """Read a NIfTI file, ``.nii`` or ``.nii.gz``; needs the extra ``volumes``.

    The affine is the sform, or else the qform. Of a file with several volumes the first is read, or the one that
    ``#index`` names. Values that are not finite become the lowest finite value, and a note says how many.

    Args:
        source: path or address.

    Returns:
        The volume, in the unit of the file after its slope and intercept.

    Raises:
        PictureError: missing, damaged, too large, or of colours, complex numbers or fewer than three axes.
        MissingExtraError: nibabel is not installed.
    """
    nibabel = require("nibabel", f"reading {split(source)[0]}", "volumes")
    with opened(source) as file, _faults(source):
        stream = _unpacked(file)
        start = stream.read(_BEGINNING)
        stream.seek(0)
        size = next((size for size in _KINDS if size in _numbers(start[:4])), None)
        if size is None:
            raise PictureError(f"{source!r} is not a NIfTI file, or damaged at its beginning")
        kind, place = _KINDS[size]
        if not start[place:].startswith(b"n+"):
            raise PictureError(f"{source!r} is the header of a pair of files: save it as one file, .nii or .nii.gz")
        return _volume(getattr(nibabel, kind).from_stream(stream), source)


def _unpacked(file: BinaryIO) -> BinaryIO:
    is_packed = file.read(2) == _GZIP
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_packed else file


def _numbers(start: bytes) -> set[int]:
    """Return four bytes as a whole number in either order."""
    return {int.from_bytes(start, "little"), int.from_bytes(start, "big")}


@contextmanager
def _faults(source: str) -> Iterator[None]:
    """Turn any exception of nibabel into a one-sentence error."""
    try:
        yield
    except (CamscopeError, MemoryError):
        raise
    except Exception as fault:
        raise PictureError(f"{source!r} is damaged or truncated: {reason(fault)}") from None


def _volume(image: Any, source: str) -> Volume:
    header, shape = image.header, image.shape
    dtype = np.dtype(header.get_data_dtype())
    if dtype.kind not in "iuf":
        raise PictureError(f"{source!r} holds {dtype}, not one number per voxel: save its values as numbers")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape, default=0) < 1:
        raise PictureError(f"{source!r} has the shape {' x '.join(map(str, shape)) or '0'}; a volume has three axes")
    check_voxels(shape[:3], source)
    if int(header["vox_offset"]) > MAX_BYTES:
        raise PictureError(f"{source!r} is damaged: its voxels begin after {MAX_BYTES:,} bytes")
    frames, frame = (shape[3] if len(shape) == 4 else 1), split(source)[1] or 0
    if frame >= frames:
        raise no_frame(source, frames)
    place = (slice(None),) * 3 + ((frame,) if len(shape) == 4 else ()) + (0,) * (len(image.shape) - max(len(shape), 3))
    values, notes = finite(np.asarray(image.dataobj[place], np.float32))
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _UNITS.get(header.get_xyzt_units()[0], 1.0)
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        notes = (*notes, _UNPLACED)
    return Volume(values, affine, source, notes=(*frame_notes(source, frames), *notes))


def finite(values: Voxels) -> tuple[Voxels, tuple[str, ...]]:
    """Return values in which the lowest finite one replaces those that are not finite, and a note on their number.

    >>> finite(np.array([1, np.nan, 3], np.float32))[0]
    array([1., 1., 3.], dtype=float32)
    """
    holes = ~np.isfinite(values)
    count = int(holes.sum())
    if not count:
        return values, ()
    if count == values.size:
        raise PictureError("no voxel has a finite value")
    note = f"{count:,} voxels are not finite (NaN or infinite) and are read as the lowest value of the others"
    return np.where(holes, values[~holes].min(), values).astype(np.float32), (note,)
