"""DICOM files: what a radiologist's screen would show of one frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from camscope.errors import MissingExtraError, PictureError, require
from camscope.images.picture import Peek, Picture, Pixels
from camscope.images.pixels import unit
from camscope.images.registry import reader
from camscope.images.source import no_frame, reason, split

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_HEADER = ["Rows", "Columns", "NumberOfFrames", "SOPClassUID", "PatientID", "ViewPosition", "SpecificCharacterSet"]
_HEADER += ["FileSetID"]  # of folders of DICOM files, which have none of the others
_FACTS = {"patient": "PatientID", "view": "ViewPosition"}
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")


def peek(file: BinaryIO, source: str) -> Peek:
    """What the header says: the size, and "patient" (PatientID) and "view" (ViewPosition) where they are given."""
    with _faults(source):
        dataset = _dataset(file, source, stop_before_pixels=True, specific_tags=_HEADER)
        size, _ = _size_and_frame(dataset, source)
        facts = {fact: str(dataset.get(element) or "").strip() for fact, element in _FACTS.items()}
    return Peek(size, {fact: words for fact, words in facts.items() if words})


@reader(".dcm", ".dicom", peeker=peek, signature=(128, b"DICM"))
def read(content: bytes, source: str) -> Picture:
    """Read one frame of a DICOM file as it is meant to be seen; needs the extra ``dicom``.

    Grey frames go through the modality transform (lookup table, or slope and intercept), then through the first VOI
    lookup table or, where there is none, the first window: for centre c and width w
    ``(x - c + 1/2) / (w - 1) + 1/2`` cut to [0, 1], or the exact-linear or sigmoid form that the file names.
    Without either, unsigned frames of b <= 8 bits are v / (2^b - 1), as a screen shows them, and all others lie
    between the smallest and the largest of their values that are no padding. MONOCHROME1 is inverted. Palettes and
    luminance-chrominance become RGB.

    Pixels stay as they are where they are not square; ``spacing`` says so. Nothing that could name the patient goes
    into the picture.

    Args:
        content: the whole file.
        source: what to call it; ``#3`` at its end selects frame 3, counted from 0.

    Returns:
        The picture with its spacing (PixelSpacing, else ImagerPixelSpacing); ``bits`` are 8 where every pixel is a
        whole number of 255ths, else those stored, 32 where fewer than 9 are and a transform made fractions of them.

    Raises:
        PictureError: not DICOM, damaged, truncated, without a picture or that frame, or of an unknown compression.
        MissingExtraError: pydicom is not installed.

    Reference:
        DICOM PS3.3, C.7.6.3 (pixels), C.11.1 (modality LUT), C.11.2 (VOI LUT).
    """
    with _faults(source):
        dataset = _dataset(BytesIO(content), source)
        _, frame = _size_and_frame(dataset, source)
        if not any(element in dataset for element in _PIXELS):
            raise PictureError(
                f"{source!r} is damaged or truncated: its header tells of a picture, but no pixels follow"
            )
        _decodable(dataset, source)
        _raise_groups(dataset, frame)
        stored = _pydicom("pydicom.pixels", source).pixel_array(dataset, index=frame)
        if dataset.PhotometricInterpretation in _COLOURS:
            pixels, bits = _colour(stored, dataset, source)
        elif dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2"):
            pixels, bits = _grey(stored, dataset, source)
        else:
            raise PictureError(
                f"{source!r} has the colours {dataset.PhotometricInterpretation}; readable are grey, palette, RGB, YBR"
            )
        return Picture(pixels, source, spacing=_spacing(dataset), bits=bits)


def _pydicom(module: str, source: str) -> Any:
    return require(module, f"reading {split(source)[0]}", "dicom")


@contextmanager
def _faults(source: str) -> Iterator[None]:
    """Whatever pydicom and its decoders raise, as one sentence."""
    try:
        yield
    except (PictureError, MissingExtraError):
        raise
    except RuntimeError as fault:  # every installed decoder has given up
        raise PictureError(f"{source!r} is damaged, or of a kind that no decoder takes: {reason(fault)}") from None
    except BaseException as fault:
        # A decoder written in Rust panics on damaged data, and its panic is no Exception.
        if not isinstance(fault, Exception) and type(fault).__name__ != "PanicException":
            raise
        raise PictureError(f"{source!r} is damaged or truncated: {reason(fault)}") from None


def _dataset(file: BinaryIO, source: str, **options: Any) -> Any:
    pydicom = _pydicom("pydicom", source)
    try:
        dataset = pydicom.dcmread(file, **options)
    except pydicom.errors.InvalidDicomError:
        raise PictureError(f"{source!r} is not a DICOM file, or damaged at its beginning") from None
    if not len(dataset):  # so pydicom returns files that end within an element of unknown length
        raise PictureError(f"{source!r} is damaged or truncated: it ends too early")
    return dataset


def _size_and_frame(dataset: Any, source: str) -> tuple[tuple[int, int], int]:
    """(H, W), and the index of the frame that is asked for."""
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise _no_picture(dataset, source)
    height, width = int(dataset.Rows), int(dataset.Columns)
    if height * width > (limit := 2 * (Image.MAX_IMAGE_PIXELS or height * width)):
        raise PictureError(f"{source!r} says it has more than {limit:,} pixels; reduce or crop it first")
    frames, frame = int(dataset.get("NumberOfFrames") or 1), split(source)[1] or 0
    if frame >= frames:
        raise no_frame(source, frames)
    return (height, width), frame


def _no_picture(dataset: Any, source: str) -> PictureError:
    stated = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    kind = getattr(stated, "name", "kind unknown")
    return PictureError(f"{source!r} is a DICOM file without a picture ({kind}), or its header is cut off")


def _decodable(dataset: Any, source: str) -> None:
    """Raise an error that names the compression where nothing installed can undo it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = _pydicom("pydicom.pixels", source).get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise PictureError(
            f"{source!r} is compressed as {syntax.name}, which nothing installed decodes; "
            "try pip install 'camscope[dicom]', or store it uncompressed"
        )


def _raise_groups(dataset: Any, frame: int) -> None:
    """Put what enhanced multi-frame files say of this frame where other files say it: at the top of the header."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *own[frame : frame + 1]]:
        for macro in ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(macro) or [])[:1]:
                dataset.update(item)


def _colour(stored: npt.NDArray[Any], dataset: Any, source: str) -> tuple[Pixels, int]:
    """RGB of a frame that pydicom has decoded; (H, W, 3) and its bits."""
    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = _pydicom("pydicom.pixels", source).apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    return unit(stored, 2**bits - 1), bits if bits >= 8 else 32


def _grey(stored: npt.NDArray[Any], dataset: Any, source: str) -> tuple[Pixels, int]:
    """One frame through the modality transform, the VOI transform and the inversion; (H, W, 1) and its bits."""
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    bits = int(dataset.get("BitsStored") or 32)
    processing = _pydicom("pydicom.pixels", source)
    values = processing.apply_modality_lut(stored, dataset)
    if not np.isfinite(values).all():
        raise PictureError(f"{source!r} holds values that are no numbers (NaN or infinite)")
    if dataset.get("VOILUTSequence"):
        table = processing.apply_voi(np.rint(values).astype(np.int64), dataset)
        shown = table / (2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        shown = _window(values, dataset, source)
    elif bits <= 8 and stored.dtype == np.uint8 and np.array_equal(values, stored):
        shown = values / (2.0**bits - 1)
    else:
        shown = _spread(values, ~_padding(stored, dataset))
    shown = np.clip(1 - shown if inverted else shown, 0, 1)
    bytes_ = np.rint(255 * shown)
    if bits <= 8 and np.allclose(bytes_, 255 * shown, rtol=0, atol=1e-6):
        return unit(bytes_.astype(np.uint8), 255), 8
    return shown.astype(np.float32)[..., None], bits if bits > 8 else 32


def _window(values: npt.NDArray[Any], dataset: Any, source: str) -> npt.NDArray[np.float64]:
    """The first window of the file, as PS3.3 C.11.2.1.2 and C.11.2.1.3 define it; not yet cut to [0, 1]."""
    centre, width = (_numbers(dataset.get(element))[0] for element in ("WindowCenter", "WindowWidth"))
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
    """(x - min) / (max - min), with min and max of what counts; 0 where all values are one."""
    seen = values[counted] if counted.any() else values
    low, high = float(seen.min()), float(seen.max())
    return (values.astype(np.float64) - low) / (high - low or 1.0)


def _padding(stored: npt.NDArray[Any], dataset: Any) -> npt.NDArray[np.bool_]:
    """Where the frame was filled up with values that are no measurement."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    ends = sorted([int(value), int(dataset.get("PixelPaddingRangeLimit", value))])
    return np.logical_and(stored >= ends[0], stored <= ends[1])


def _spacing(dataset: Any) -> tuple[float, float] | None:
    """Millimetres per pixel (row, column)."""
    for element in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = _numbers(dataset.get(element))
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing[0], spacing[1]
    return None


def _numbers(value: Any) -> list[float]:
    """The numbers of an element of none, one or several values."""
    return [float(number) for number in ([] if value is None else np.atleast_1d(value))]
