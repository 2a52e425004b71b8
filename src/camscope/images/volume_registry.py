"""Read volumes: registry of readers, and what may be given as a volume."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from camscope.errors import PictureError
from camscope.images.dicom_series import read_series
from camscope.images.itk import read_itk
from camscope.images.nifti import read_nifti
from camscope.images.source import split
from camscope.images.volume import Volume

VOLUME_READERS: dict[str, Callable[[str], Volume]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".nrrd": read_itk,
    ".mha": read_itk,
}
"""Lower-case suffix of a file -> function that reads it; folders are DICOM series."""

_NAME = "volume in memory"


def volume_suffix(source: str | Path) -> str:
    """Return the suffix by which a file is a volume; "" for other files.

    >>> volume_suffix("scan.NII.GZ#2"), volume_suffix("cat.jpg")
    ('.nii.gz', '')
    """
    name = split(str(source))[0].lower()
    return next((suffix for suffix in (".nii.gz", *VOLUME_READERS) if name.endswith(suffix)), "")


def read_volume(path: str | Path) -> Volume:
    """Read a NIfTI, NRRD or MHA file, or a folder with the DICOM files of one series.

    Args:
        path: of the file or folder; an address for NIfTI files. ``scan.nii.gz#3`` is volume 3 of a file with several,
            counted from 0.

    Returns:
        The volume, with the values of the file after its rescaling.

    Raises:
        PictureError: missing, damaged, too large, or not a volume.
        MissingExtraError: the package that reads the format is not installed.

    >>> read_volume("no/such/file.nii.gz")
    Traceback (most recent call last):
    camscope.errors.PictureError: there is no file 'no/such/file.nii.gz'
    """
    source = str(path)
    try:
        if os.path.isdir(source):  # noqa: PTH112  Path.is_dir() raises on names that are too long
            return read_series(source)
        if suffix := volume_suffix(source):
            return VOLUME_READERS[suffix](source)
    except MemoryError:
        raise PictureError(f"{source!r} needs more memory than there is; crop or resample it first") from None
    raise PictureError(
        f"{source!r} is not a volume, which the model takes; readable are files ending in "
        f"{', '.join(VOLUME_READERS)}, and folders with the DICOM files of one series"
    )


def as_volume(source: Any) -> Volume:
    """Convert a path, an array, a tensor or an image of nibabel to a `Volume`.

    Args:
        source: a path; a `Volume`; an array or a tensor (I, J, K), whose axes are taken as right, anterior and
            superior at 1 mm; or an image of nibabel.

    Returns:
        The volume; arrays are copied.

    Raises:
        PictureError: an unreadable file, an object of another kind, or values that are not finite.

    >>> as_volume(np.zeros((4, 5, 6))).size
    (4, 5, 6)
    """
    if isinstance(source, Volume):
        return source
    if isinstance(source, (str, Path)):
        return read_volume(source)
    affine = getattr(source, "affine", None)
    values = source.dataobj if affine is not None and hasattr(source, "dataobj") else source
    values = values.detach().cpu() if hasattr(values, "detach") else values
    if not hasattr(values, "__array__") or len(getattr(values, "shape", ())) != 3:
        shape = f" of shape {tuple(source.shape)}" if hasattr(source, "shape") else ""
        raise PictureError(
            f"cannot read an object of type {type(source).__name__}{shape} as a volume; pass a path, an array "
            "(I, J, K) or a Volume"
        )
    array = np.array(np.asarray(values), np.float32)
    if not np.isfinite(array).all():
        raise PictureError(f"{_NAME} has values that are not finite (NaN or infinite)")
    if affine is not None:
        return Volume(array, np.asarray(affine, np.float64), _NAME)
    note = "an array has no affine: its axes are taken as right, anterior and superior, with 1 mm between voxels"
    return replace(Volume(array, source=_NAME), notes=(note,))
