"""Registry of image readers: file suffix -> function that reads the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from camscope.errors import CamscopeError, PictureError
from camscope.images.picture import Peek, Picture
from camscope.images.source import fetch, opened, split

Reader = Callable[[bytes, str], Picture]
"""(content of a file, its source) -> the image."""

Peeker = Callable[[BinaryIO, str], Peek]
"""(an open file, its source) -> the facts in its header; reads as little as it can."""

READERS: dict[str, Reader] = {}
"""Lower-case suffix, with its dot -> reader; the reader under "" reads files of any other name."""

_PEEKERS: dict[str, Peeker] = {}
_SIGNATURES: dict[str, Sequence[tuple[int, bytes]]] = {}
_PIXEL = 3 * 4  # bytes
_BEGINNING = 1024  # bytes; all signatures lie within them


def reader(
    *suffixes: str, peeker: Peeker | None = None, signatures: Sequence[tuple[int, bytes]] = ()
) -> Callable[[Reader], Reader]:
    """Register a function as the reader of files that end in one of ``suffixes``.

    Args:
        suffixes: lower-case suffixes, each with its dot.
        peeker: reads the header alone; None: `peek` decodes the whole image.
        signatures: (offset, bytes) pairs; any of them identifies the format of a file whose name has no known suffix.

    >>> import numpy as np
    >>> @reader(".zeros")
    ... def read_zeros(content, source):
    ...     return Picture(np.zeros((2, 3, 1), np.float32), source)
    >>> READERS.pop(".zeros") is read_zeros
    True
    """

    def register(function: Reader) -> Reader:
        for suffix in suffixes:
            READERS[suffix] = function
            if peeker is not None:
                _PEEKERS[suffix] = peeker
            _SIGNATURES[suffix] = signatures
        return function

    return register


def read(path: str | Path) -> Picture:
    """Read one image file of any format.

    The longest registered suffix of the name decides which reader is used, so that ``.nii.gz`` can have a reader of its
    own. For a name without a known suffix, the content decides.

    Args:
        path: a path, or an address such as ``https://...`` or ``s3://...``; ``scan.dcm#3`` is frame 3, counted from 0.

    Returns:
        The image: float32 in [0, 1], (H, W, 1) for grey files and (H, W, 3) for all others.

    Raises:
        PictureError: the file is missing, a folder, empty, damaged, too large or not an image.
        MissingExtraError: a format or an address whose package is not installed.

    >>> from tempfile import NamedTemporaryFile
    >>> from PIL import Image
    >>> with NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("RGB", (6, 4)).save(file.name)
    ...     picture, seen = read(file.name), peek(file.name)
    >>> picture.pixels.shape, seen.size
    ((4, 6, 3), (4, 6))
    >>> read("no/such/file.png")
    Traceback (most recent call last):
    camscope.errors.PictureError: there is no file 'no/such/file.png'
    """
    return decode(fetch(path), str(path))


def decode(content: bytes, source: str) -> Picture:
    """Decode the content of an image file of any format.

    Args:
        content: all bytes of the file.
        source: its path or address, which determines the format and is the name of the image.

    Returns:
        The image: float32 in [0, 1], (H, W, 1) for grey files and (H, W, 3) for all others.

    Raises:
        PictureError: the content is damaged, too large or not an image.
        MissingExtraError: a format whose package is not installed.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (6, 4)).save(file, "PNG")
    >>> decode(file.getvalue(), "black.png").size
    (4, 6)
    """
    try:
        return READERS[_format(content[:_BEGINNING], source)](content, source)
    except MemoryError:
        raise PictureError(f"{source!r} needs more memory than there is; reduce or crop it first") from None


def peek(source: str | Path) -> Peek:
    """Read the header of an image file, without decoding its pixels.

    Args:
        source: a path, or an address such as ``https://...`` or ``s3://...``; the frame in ``scan.dcm#3`` is allowed.

    Returns:
        The size, and for DICOM files "patient" (PatientID) and "view" (ViewPosition) where the header has them.

    Raises:
        PictureError: the file is missing, a folder, empty, or not an image by its beginning.
        MissingExtraError: a format or an address whose package is not installed.

    >>> peek("no/such/file.png")
    Traceback (most recent call last):
    camscope.errors.PictureError: there is no file 'no/such/file.png'
    """
    with opened(source) as file:
        return peek_open(file, str(source))


def decoded_bytes(source: object) -> int:
    """Return the memory that an image file takes as float32 RGB, by its header; 0 if it is unknown.

    Args:
        source: a path; of an address, or of an image in memory, nothing is known.

    >>> decoded_bytes("no/such/file.png")
    0
    """
    if not isinstance(source, (str, Path)) or "://" in str(source):
        return 0
    try:
        height, width = peek(source).size
    except (CamscopeError, OSError, ValueError):  # it is told when it is read
        return 0
    return _PIXEL * height * width


def peek_open(file: BinaryIO, source: str) -> Peek:
    """Read the header of an open image file; see `peek`."""
    suffix = _format(file.read(_BEGINNING), source)
    file.seek(0)
    if suffix in _PEEKERS:
        return _PEEKERS[suffix](file, source)
    return Peek(READERS[suffix](file.read(), source).size)


def _format(beginning: bytes, source: str) -> str:
    """Return the key of `READERS` for a file."""
    name = split(source)[0].lower()
    if suffix := max((s for s in READERS if name.endswith(s)), key=len):
        return suffix
    signatures = ((suffix, start, mark) for suffix, marks in _SIGNATURES.items() for start, mark in marks)
    return next((suffix for suffix, start, mark in signatures if beginning.startswith(mark, start)), "")
