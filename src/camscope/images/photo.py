"""Read photographs and scans with Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from camscope.errors import MissingExtraError, PictureError
from camscope.images.bands import band_size, band_tags, read_bands
from camscope.images.limits import max_pixels
from camscope.images.picture import Peek, Picture, strips
from camscope.images.pixels import unit, unit_float
from camscope.images.quiet import quiet
from camscope.images.registry import reader
from camscope.images.source import frame_notes, no_frame, reason, split

# A closed list: other formats of Pillow are rare, untested here, or start programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")
_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")

_HALF, _VISIBLE = 128, 0.005  # alpha below which a pixel is transparent, and the share of them that is worth a note
_PHOTOMETRIC, _BITS_PER_SAMPLE, _WHITE_IS_ZERO = 262, 258, 0  # tags of the TIFF standard


def peek(file: BinaryIO, source: str) -> Peek:
    """Return what the header of an image says; Pillow reads WebP files whole, of all others only their beginning."""
    if tags := band_tags(file):
        return Peek(band_size(tags))
    with _faults(source), _open(file, source) as image:
        width, height = image.size
        return Peek((width, height) if _lies_on_its_side(image) else (height, width))


@reader("", *_SUFFIXES, peeker=peek)
def read(content: bytes, source: str) -> Picture:
    """Read a JPEG, PNG, TIFF, BMP, WebP or GIF file; of several frames the first, or the one that ``#index`` names.

    The EXIF orientation is applied. Pixels are those of Pillow's ``convert("RGB")``, as in the input pipelines of
    torchvision and timm: alpha is dropped, not blended (a note says how much is transparent), and colour profiles are
    ignored. Grey files stay one channel and keep 16 bits or float; Pillow reduces 16-bit *colour* files to 8 bits. TIFF
    files with more bands than RGB, or with a fourth that is not declared as alpha, are read whole (see `read_bands`).

    Args:
        content: the whole file; its content determines the format, not its suffix.
        source: what to call it.

    Returns:
        The image: v / 255 at 8 bits, v / 65535 at 16 bits, the value itself for float files.

    Raises:
        PictureError: not an image, damaged, truncated, too many pixels, or float values outside [0, 1].
        MissingExtraError: a TIFF file of many bands, and tifffile is not installed.
    """
    file = BytesIO(content)
    if tags := band_tags(file):
        return read_bands(file, source, tags)
    with _faults(source), _open(file, source) as image:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's preview is not a frame
        picture = from_pillow(image, source=source)
        return replace(picture, notes=(*frame_notes(source, frames), *picture.notes))


@contextmanager
def _faults(source: str) -> Iterator[None]:
    """Turn any exception of Pillow into a one-sentence error."""
    label = repr(source)
    try:
        yield
    except (PictureError, MissingExtraError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"{label} says it has more than {max_pixels():,} pixels; reduce or crop it first") from None
    except UnidentifiedImageError:
        if split(source)[0].lower().endswith(_VOLUMES):
            raise PictureError(
                f"{label} is a volume, which explain() reads for a network of volumes; for one of images pass one "
                "slice as an array, scaled to [0, 1]"
            ) from None
        formats = ", ".join((*FORMATS, "DICOM"))
        raise PictureError(f"{label} is not an image, or damaged at its beginning; readable are {formats}") from None
    # Pillow's decoders raise many exception types for damaged files, from SyntaxError to struct.error.
    except Exception as fault:
        raise PictureError(f"{label} is damaged or truncated: {reason(fault)}") from None


def _open(file: BinaryIO, source: str) -> Image.Image:
    """Open a file without decoding it; images up to Pillow's error limit are fine, so its warning is not shown."""
    with quiet():
        image = Image.open(file, formats=FORMATS)
    if frame := split(source)[1]:
        if frame >= (frames := getattr(image, "n_frames", 1)):
            raise no_frame(source, frames)
        image.seek(frame)
    return image


def _lies_on_its_side(image: Image.Image) -> bool:
    """Return whether its EXIF data will swap height and width; Pillow has done so itself for TIFF files."""
    if image.format == "TIFF":
        return False
    try:
        # Not image.getexif(): for PNG files that decodes the pixels, since EXIF data may come after them.
        return bool(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) > 4)
    except Exception:
        return False


def from_pillow(image: Image.Image, *, source: str) -> Picture:
    """Convert a Pillow image of any mode to a `Picture`; the image is not changed.

    Args:
        image: a Pillow image; its EXIF orientation, where it still has one, is applied.
        source: what to call it.

    Returns:
        The image, grey for grey modes and RGB for all others.

    Raises:
        PictureError: a mode without a known range: 32-bit integers, float outside [0, 1].

    >>> from_pillow(Image.new("CMYK", (4, 2)), source="white").pixels.shape
    (2, 4, 3)
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF file; the transposed image is a copy without them
    image = _upright(image)
    if image.mode.startswith("I;16"):
        values, highest, bits = _sixteen_bits(image, tags)
        return Picture(unit(values, highest), source, bits=bits, highest=highest)
    if image.mode == "F":
        return Picture(unit_float(np.asarray(image), source=source), source, bits=32)
    if image.mode == "I":
        raise PictureError(
            f"{source!r} holds signed or 32-bit whole numbers of unknown range; save it as 8 or 16 bits unsigned"
        )
    notes = _transparency(image)
    mode, channels = ("L", 1) if image.mode in {"1", "L", "LA"} else ("RGB", 3)
    pixels = np.empty((image.height, image.width, channels), np.float32)
    for part, rows in _strips(image):
        part.info.pop("transparency", None)  # dropped anyway, and Pillow warns about it
        pixels[rows] = unit(np.asarray(part.convert(mode)), 255)
    return Picture(pixels, source, notes=notes)


def _strips(image: Image.Image) -> Iterator[tuple[Image.Image, slice]]:
    """Yield copies of parts of an image and their rows, so that no second copy of a large image is needed."""
    for rows in strips((image.height, image.width)):
        yield image.crop((0, rows.start, image.width, rows.stop)), rows


def _transparency(image: Image.Image) -> tuple[str, ...]:
    if not image.has_transparency_data:
        return ()
    alpha = (np.asarray(part.convert("RGBA").getchannel("A")) for part, _ in _strips(image))
    hidden = sum(int((values < _HALF).sum()) for values in alpha) / (image.width * image.height)
    if hidden < _VISIBLE:
        return ()
    share = f"{hidden:.0%}".replace("%", " %")
    return (f"{share} of the pixels are transparent: the colours that the file has there are used",)


def _upright(image: Image.Image) -> Image.Image:
    """Return the image with its EXIF orientation applied; a copy if that changes it."""
    image.load()  # so damaged pixels raise an error, and damaged EXIF data below do not
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:
        return image


def _sixteen_bits(image: Image.Image, tags: Mapping[int, Any]) -> tuple[npt.NDArray[np.uint16], int, int]:
    """Return the values of a 16-bit grey image, the value of white, and the bits that its file says it uses."""
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    values = np.asarray(image).astype(np.uint16)
    # Pillow inverts "white is zero" files of 8 bits, but not those of 16.
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = np.uint16(2**bits - 1) - values
    return values, 2**bits - 1, bits
