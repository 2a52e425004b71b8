"""Read the DICOM files of one series, a folder, as a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from camscope.errors import PictureError
from camscope.images.dicom_file import (
    check_decodable,
    dicom_faults,
    numbers,
    pydicom_module,
    read_dataset,
)
from camscope.images.limits import check_voxels
from camscope.images.quiet import quiet
from camscope.images.source import opened
from camscope.images.volume import Affine, Volume

_HEADER = ["SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "Modality"]
_HEADER += ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SOPClassUID", "SpecificCharacterSet"]
_HEADER += ["RescaleType", "FileSetID"]
_TURNED = 1e-3
"""Difference of direction cosines from which two slices are not parallel."""
_UNEVEN, _ROUNDING = 0.05, 0.01
"""Share of the distance between slices, and millimetres, by which a slice may be off its place."""
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes lead left, posterior and superior


class _Slice(NamedTuple):
    """The header of one file: its place in the patient in millimetres (LPS)."""

    path: Path
    series: str
    modality: str
    rows: int
    columns: int
    directions: npt.NDArray[np.float64]  # (2, 3): along a row, along a column
    position: npt.NDArray[np.float64]
    spacing: npt.NDArray[np.float64]  # between rows, between columns


def read_series(folder: str) -> Volume:
    """Read the DICOM files in a folder, not in its folders, as one volume; needs the extra ``dicom``.

    The slices are sorted by their position along the normal of the slices, whatever the names of the files. The axes of
    the volume are columns, rows and slices. Values are those after the modality transform: Hounsfield units in CT.

    Args:
        folder: path of the folder.

    Returns:
        The volume.

    Raises:
        PictureError: no series, several series, slices of different orientation, size or spacing, gaps between them,
            several slices in one place, or a damaged file.
        MissingExtraError: pydicom is not installed.
    """
    with quiet():
        slices = [found for path in _files(folder) if (found := _header(path)) is not None]
        if len(slices) < 2:
            count = "one DICOM image" if slices else "no DICOM images"
            raise PictureError(f"{folder!r} has {count}, and a volume is a series of at least two slices")
        first = slices[0]
        _check_alike(slices, folder)
        normal = np.cross(*first.directions)
        slices.sort(key=lambda one: float(one.position @ normal))
        affine = _affine(slices, normal, folder)
        check_voxels((first.columns, first.rows, len(slices)), folder)
        values = np.empty((len(slices), first.rows, first.columns), np.float32)
        for one, into in zip(slices, values, strict=True):
            into[:] = _pixels(one.path)
    return Volume(np.ascontiguousarray(values.transpose(2, 1, 0)), affine, folder, first.modality)


def _files(folder: str) -> list[Path]:
    try:
        return sorted(path for path in Path(folder).iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as fault:
        raise PictureError(f"cannot read {folder!r}: {fault.strerror}") from None


def _header(path: Path) -> _Slice | None:
    """Return what a file says of its place; None for files that are no DICOM image."""
    with path.open("rb") as file:
        beginning = file.read(132)
    named_so = path.suffix.lower() in (".dcm", ".dicom")
    if path.name.upper() == "DICOMDIR" or not (named_so or beginning.endswith(b"DICM")):
        return None
    source = str(path)
    with opened(source) as file, dicom_faults(source):
        dataset = read_dataset(file, source, stop_before_pixels=True, specific_tags=_HEADER)
        return _place(dataset, path)


def _place(dataset: Any, path: Path) -> _Slice | None:
    directions, position = (numbers(dataset.get(f"Image{what}Patient")) for what in ("Orientation", "Position"))
    spacing = numbers(dataset.get("PixelSpacing"))
    if not dataset.get("Rows") or not dataset.get("Columns"):
        return None
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise PictureError(f"{str(path)!r} holds several frames; a series is read from files of one slice each")
    if int(dataset.get("SamplesPerPixel") or 1) > 1:
        raise PictureError(f"{str(path)!r} is a colour image; a volume has one number per voxel")
    if len(directions) != 6 or len(position) != 3 or len(spacing) != 2 or min(spacing) <= 0:
        raise PictureError(f"{str(path)!r} does not state its place in the patient, so that it is no slice of a volume")
    return _Slice(
        path,
        str(dataset.get("SeriesInstanceUID") or ""),
        str(dataset.get("Modality") or ""),
        int(dataset.Rows),
        int(dataset.Columns),
        np.array(directions).reshape(2, 3),
        np.array(position),
        np.array(spacing),
    )


def _check_alike(slices: Sequence[_Slice], folder: str) -> None:
    """Raise the error of slices that are not of one stack."""
    series = Counter(one.series for one in slices)
    if len(series) > 1:
        counts = ", ".join(str(count) for count in sorted(series.values(), reverse=True))
        raise PictureError(
            f"{folder!r} holds {len(series)} series, of {counts} images: put the files of each into a folder of its own"
        )
    first = slices[0]
    sizes = Counter((one.rows, one.columns) for one in slices)
    if len(sizes) > 1:
        text = " and ".join(f"{rows} x {columns}" for rows, columns in sizes)
        raise PictureError(f"the slices in {folder!r} have different sizes, {text} pixels: use those of one size")
    turned = sum(not np.allclose(one.directions, first.directions, rtol=0, atol=_TURNED) for one in slices)
    if turned:
        raise PictureError(
            f"the slices in {folder!r} have different orientations ({turned} of {len(slices)} are not parallel to the "
            "first): remove localizers, and give one stack"
        )
    if not all(np.allclose(one.spacing, first.spacing, rtol=1e-3) for one in slices):
        raise PictureError(f"the slices in {folder!r} have different pixel spacings: use those of one")


def _affine(slices: Sequence[_Slice], normal: npt.NDArray[np.float64], folder: str) -> Affine:
    """Return the affine of sorted slices, which must be evenly spaced on a line."""
    positions = np.stack([one.position for one in slices])
    heights = positions @ normal
    distances = np.diff(heights)
    usual = float(np.median(distances))
    if (distances < _ROUNDING).any():
        count = int((distances < _ROUNDING).sum())
        raise PictureError(
            f"{folder!r} has several slices in the same place ({count} times), such as phases or echoes: put each "
            "volume into a folder of its own"
        )
    widest = int(distances.argmax())
    if distances[widest] > usual * (1 + _UNEVEN) + _ROUNDING:
        below, above = heights[widest], heights[widest + 1]
        raise PictureError(
            f"the slices in {folder!r} have a gap: {above - below:.2f} mm between slices {widest + 1} and "
            f"{widest + 2}, where {usual:.2f} mm are usual, so that slices are missing or unevenly spaced"
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    line = positions[0] + np.arange(len(slices))[:, None] * step
    if np.abs(positions - line).max() > _UNEVEN * usual + _ROUNDING:
        raise PictureError(
            f"the slices in {folder!r} are unevenly spaced or do not lie on a line: resample the series first"
        )
    first = slices[0]
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    turned: Affine = _TO_RAS @ affine
    return turned


def _pixels(path: Path) -> npt.NDArray[Any]:
    """Return the values (rows, columns) of a slice after the modality transform."""
    source = str(path)
    with opened(source) as file, dicom_faults(source):
        dataset = read_dataset(file, source)
        check_decodable(dataset, source)
        processing = pydicom_module("pydicom.pixels", source)
        values = processing.apply_modality_lut(processing.pixel_array(dataset, index=0), dataset)
        if not np.isfinite(values).all():
            raise PictureError(f"{source!r} has values that are not finite (NaN or infinite)")
        return np.asarray(values)
