"""Read one frame of a DICOM file, windowed as on a radiologist's screen."""

from __future__ import annotations

from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from camscope.errors import PictureError
from camscope.images.dicom_file import (
    BARE,
    check_decodable,
    dicom_faults,
    numbers,
    pydicom_module,
    read_dataset,
)
from camscope.images.limits import check_size
from camscope.images.picture import Peek, Picture, Pixels
from camscope.images.pixels import unit
from camscope.images.quiet import quiet
from camscope.images.registry import reader
from camscope.images.source import frame_notes, no_frame, split

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_HEADER = ["Rows", "Columns", "NumberOfFrames", "SOPClassUID", "PatientID", "ViewPosition", "SpecificCharacterSet"]
_HEADER += ["StudyInstanceUID", "ImageLaterality", "Laterality", "StudyDate", "Modality"]
_HEADER += ["FileSetID"]  # tags of DICOMDIR files, which have none of the others
_LEVELS = 0.1
"""Share of pixels between black and white, below which a window is noted."""
_FACTS = {
    "patient": ("PatientID",),
    "view": ("ViewPosition",),
    "study": ("StudyInstanceUID",),
    "laterality": ("ImageLaterality", "Laterality"),
    "date": ("StudyDate",),
    "modality": ("Modality",),
}
"""Fact -> elements of the header that may hold it, in the order of preference."""

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")


def peek(file: BinaryIO, source: str) -> Peek:
    """Read the header: the size, and the facts that it has.

    Facts are "patient", "view", "study", "laterality", "date" and "modality".
    """
    with quiet(), dicom_faults(source):
        dataset = read_dataset(file, source, stop_before_pixels=True, specific_tags=_HEADER)
        size, _ = _size_and_frame(dataset, source)
        facts = {
            fact: next((words for name in names if (words := str(dataset.get(name) or "").strip())), "")
            for fact, names in _FACTS.items()
        }
    return Peek(size, {fact: words for fact, words in facts.items() if words})


@reader(".dcm", ".dicom", peeker=peek, signatures=((128, b"DICM"), *BARE))
def read(content: bytes, source: str) -> Picture:
    """Read one frame of a DICOM file as it is meant to be seen; needs the extra ``dicom``.

    Grey frames go through the modality transform (lookup table, or slope and intercept), then through the first VOI
    lookup table or, where there is none, the first window: for centre c and width w
    ``(x - c + 1/2) / (w - 1) + 1/2`` cut to [0, 1], or the exact-linear or sigmoid form that the file names.
    Without either, unsigned frames of b <= 8 bits are v / (2^b - 1), as a screen shows them, and all others lie
    between the smallest and the largest of their values that are no padding. MONOCHROME1 is inverted. Palettes and
    luminance-chrominance become RGB.

    Pixels stay as they are where they are not square; ``spacing`` says so. Nothing that could name the patient goes
    into the image.

    Args:
        content: the whole file.
        source: what to call it; ``#3`` at its end selects frame 3, counted from 0.

    Returns:
        The image with its spacing (PixelSpacing, else ImagerPixelSpacing); ``bits`` are 8 where every pixel is a
        whole number of 255ths, else those stored, 32 where fewer than 9 are and a transform made fractions of them.

    Raises:
        PictureError: not DICOM, damaged, truncated, without an image or that frame, or of an unknown compression.
        MissingExtraError: pydicom is not installed.

    Reference:
        DICOM PS3.3, C.7.6.3 (pixels), C.11.1 (modality LUT), C.11.2 (VOI LUT).
    """
    with quiet(), dicom_faults(source):
        dataset = read_dataset(BytesIO(content), source)
        _, frame = _size_and_frame(dataset, source)
        if not any(element in dataset for element in _PIXELS):
            raise PictureError(
                f"{source!r} is damaged or truncated: its header tells of an image, but no pixels follow"
            )
        check_decodable(dataset, source)
        _raise_groups(dataset, frame)
        _size_and_frame(dataset, source)  # again, since a group may hold another size
        stored = pydicom_module("pydicom.pixels", source).pixel_array(dataset, index=frame)
        if dataset.PhotometricInterpretation in _COLOURS:
            pixels, bits = _colour(stored, dataset, source)
            notes: tuple[str, ...] = ()
        elif dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            pixels, bits, notes = _grey(stored, dataset, source)
        else:
            raise PictureError(
                f"{source!r} has the colours {dataset.PhotometricInterpretation}; readable are grey, palette, RGB, YBR"
            )
        notes = (*frame_notes(source, int(dataset.get("NumberOfFrames") or 1)), *notes)
        return Picture(pixels, source, spacing=_spacing(dataset), bits=bits, notes=notes)


def _size_and_frame(dataset: Any, source: str) -> tuple[tuple[int, int], int]:
    """Return (H, W), and the index of the requested frame."""
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise _no_picture(dataset, source)
    height, width = int(dataset.Rows), int(dataset.Columns)
    check_size((height, width), source, channels=int(dataset.get("SamplesPerPixel") or 1))
    frames, frame = int(dataset.get("NumberOfFrames") or 1), split(source)[1] or 0
    if frame >= frames:
        raise no_frame(source, frames)
    return (height, width), frame


def _no_picture(dataset: Any, source: str) -> PictureError:
    stated = dataset.get("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID")
    kind = getattr(stated, "name", "kind unknown")
    return PictureError(f"{source!r} is a DICOM file without an image ({kind}), or its header is cut off")


def _raise_groups(dataset: Any, frame: int) -> None:
    """Put what enhanced multi-frame files say of this frame where other files say it: at the top of the header."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    frame_groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *frame_groups[frame : frame + 1]]:
        for macro in ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(macro) or [])[:1]:
                dataset.update(item)


def _colour(stored: npt.NDArray[Any], dataset: Any, source: str) -> tuple[Pixels, int]:
    """Return a decoded frame as RGB (H, W, 3), and its bits."""
    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = pydicom_module("pydicom.pixels", source).apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    return unit(stored, 2**bits - 1), bits if bits >= 8 else 32


def _grey(stored: npt.NDArray[Any], dataset: Any, source: str) -> tuple[Pixels, int, tuple[str, ...]]:
    """Return one frame after modality transform, VOI transform and inversion: (H, W, 1), its bits, notes.

    Each different stored value is transformed once.
    """
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    bits = int(dataset.get("BitsStored") or 32)
    processing = pydicom_module("pydicom.pixels", source)
    levels, counts = _levels(stored)
    values = processing.apply_modality_lut(levels, dataset)
    if not np.isfinite(values).all():
        raise PictureError(f"{source!r} has values that are not finite (NaN or infinite)")
    padding = _padding(levels, dataset)
    if dataset.get("VOILUTSequence"):
        table = processing.apply_voi(np.rint(values).astype(np.int64), dataset)
        grey = table / (2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        grey = _window(values, dataset, source)
    elif bits <= 8 and stored.dtype == np.uint8 and np.array_equal(values, levels):
        grey = values / (2.0**bits - 1)
    else:
        grey = _spread(values, ~padding)
    notes = _window_notes(grey, values, dataset, counts=np.where(padding, 0, counts))
    grey = np.clip(1 - grey if inverted else grey, 0, 1)
    bytes_ = np.rint(255 * grey)
    if bits <= 8 and np.allclose(bytes_, 255 * grey, rtol=0, atol=1e-6):
        return _placed(unit(bytes_.astype(np.uint8)[None], 255)[0, :, 0], levels, stored), 8, notes
    return _placed(grey.astype(np.float32), levels, stored), bits if bits > 8 else 32, notes


def _levels(stored: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Return the different values of a frame (H, W) in order, and how many pixels have each."""
    if not _is_narrow(stored):
        return np.unique(stored, return_counts=True)
    low, high = int(stored.min()), int(stored.max())
    counts = np.zeros(high - low + 1, np.intp)
    for row in stored:
        counts += np.bincount(row.astype(np.intp) - low, minlength=len(counts))
    present = np.flatnonzero(counts)
    return (present + low).astype(stored.dtype), counts[present]


def _placed(grey: npt.NDArray[np.float32], levels: npt.NDArray[Any], stored: npt.NDArray[Any]) -> Pixels:
    """Return the image (H, W, 1) of a frame, from the grey value of each of its levels."""
    pixels = np.empty((*stored.shape, 1), np.float32)
    if not _is_narrow(stored):
        for row, into in zip(stored, pixels[..., 0], strict=True):
            into[:] = grey[np.searchsorted(levels, row)]
        return pixels
    low = int(levels[0])
    table = np.zeros(int(levels[-1]) - low + 1, np.float32)
    table[levels.astype(np.intp) - low] = grey
    for row, into in zip(stored, pixels[..., 0], strict=True):
        into[:] = table[row.astype(np.intp) - low]
    return pixels


def _is_narrow(stored: npt.NDArray[Any]) -> bool:
    """Return whether values are whole numbers of at most 16 bits, of which a table can be made."""
    return stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2


def _window_notes(
    grey: npt.NDArray[Any], values: npt.NDArray[Any], dataset: Any, *, counts: npt.NDArray[np.intp]
) -> tuple[str, ...]:
    """Return a note if the file's window or lookup table leaves hardly any grey levels of different values.

    Args:
        grey: (n,) grey values of the levels of the frame; not yet cut to [0, 1].
        values: (n,) the levels after the modality transform.
        dataset: the header.
        counts: (n,) pixels of each level, 0 for padding.
    """
    counted = counts > 0
    if not counted.any() or values[counted].min() == values[counted].max():
        return ()
    inside = counted & (grey > 0) & (grey < 1)
    between = float(counts[inside].sum() / counts.sum())
    if between >= _LEVELS or not (dataset.get("VOILUTSequence") or dataset.get("WindowWidth")):
        return ()
    levels = len(np.unique(values[inside]))
    if len(np.unique(values[counted])) <= levels + 2:  # nothing but black and white is cut off
        return ()
    if dataset.get("VOILUTSequence"):
        cause = "lookup table"
    else:
        centre, width = (numbers(dataset.get(element))[0] for element in ("WindowCenter", "WindowWidth"))
        cause = f"window (centre {centre:g}, width {width:g})"
    low, high = values[counted].min(), values[counted].max()
    note = (
        f"the file's {cause} shows {between:.0%} of its pixels between black and white, as {levels} grey levels; the "
        f"values of the file go from {low:g} to {high:g}"
    )
    return (note,)


def _window(values: npt.NDArray[Any], dataset: Any, source: str) -> npt.NDArray[np.float64]:
    """Return the first window of the file, as PS3.3 C.11.2.1.2 and C.11.2.1.3 define it; not yet cut to [0, 1]."""
    centre, width = (numbers(dataset.get(element))[0] for element in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "LINEAR" and width >= 1:
        # At width 1 the ramp is a step between two values.
        return (values - centre + 0.5) / max(width - 1, 1e-6) + 0.5
    if function == "LINEAR_EXACT" and width > 0:
        return (values - centre) / width + 0.5
    if function == "SIGMOID" and width > 0:
        return 0.5 + 0.5 * np.tanh(2 * (values - centre) / width)  # 1 / (1 + exp(-4 (x - c) / w))
    raise PictureError(f"{source!r} has a window that DICOM does not know: {function} of width {width:g}")


def _spread(values: npt.NDArray[Any], counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return (x - min) / (max - min), with min and max over valid pixels; 0 if all are equal."""
    sample = values[counted] if counted.any() else values
    low, high = float(sample.min()), float(sample.max())
    return (values.astype(np.float64) - low) / (high - low or 1.0)


def _padding(stored: npt.NDArray[Any], dataset: Any) -> npt.NDArray[np.bool_]:
    """Return where the frame was filled up with values that are no measurement."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    ends = sorted([int(value), int(dataset.get("PixelPaddingRangeLimit", value))])
    return np.logical_and(stored >= ends[0], stored <= ends[1])


def _spacing(dataset: Any) -> tuple[float, float] | None:
    """Return millimetres per pixel (row, column)."""
    for element in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = numbers(dataset.get(element))
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing[0], spacing[1]
    return None
