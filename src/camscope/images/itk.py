"""Read NRRD and MHA files with SimpleITK."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from camscope.errors import PictureError, require
from camscope.images.limits import check_voxels
from camscope.images.nifti import finite
from camscope.images.source import is_address, opened, reason
from camscope.images.volume import Volume

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes lead left, posterior and superior
_BEGINNING = 1 << 16
_ELSEWHERE = re.compile(rb"^(data ?file:|ElementDataFile *= *+(?!LOCAL))", re.IGNORECASE | re.MULTILINE)
"""Line of a header that names another file for the voxels."""


def read_itk(source: str) -> Volume:
    """Read a NRRD or MHA file; needs the extra ``volumes``.

    Args:
        source: path.

    Returns:
        The volume.

    Raises:
        PictureError: missing, damaged, too large, an address, of colours or not of three axes, or a header whose voxels
            are in another file.
        MissingExtraError: SimpleITK is not installed.
    """
    sitk = require("SimpleITK", f"reading {source}", "volumes")
    if is_address(source):
        raise PictureError(f"{source!r} is an address; NRRD and MHA files are read from this machine only")
    with opened(source) as file:
        if _ELSEWHERE.search(file.read(_BEGINNING)):
            raise PictureError(f"{source!r} has its voxels in another file: save it as one file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(source)
    try:
        reader.ReadImageInformation()
        size, count = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) != 3 or count != 1:
            shape = " x ".join(map(str, size))
            raise PictureError(
                f"{source!r} has {shape} voxels of {count} value(s); a volume has three axes and one value per voxel"
            )
        check_voxels(size, source)
        image = reader.Execute()
        values, notes = finite(np.ascontiguousarray(sitk.GetArrayViewFromImage(image).T, np.float32))
    except RuntimeError as fault:
        raise PictureError(f"{source!r} is damaged or truncated: {_last_line(fault)}") from None
    return Volume(values, _affine(image), source, notes=notes)


def _affine(image: Any) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _TO_RAS @ affine


def _last_line(fault: BaseException) -> str:
    """Return the last line of an error of ITK, which is the one that says what is wrong."""
    lines = str(fault).strip().splitlines()
    return reason(ValueError(lines[-1])) if lines else type(fault).__name__
