"""Which function reads which file: a dict from file suffix to reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from camscope.errors import PictureError
from camscope.images.picture import Peek, Picture
from camscope.images.source import fetch, opened, split

Reader = Callable[[bytes, str], Picture]
"""(content of a file, its source) -> the picture."""

Peeker = Callable[[BinaryIO, str], Peek]
"""(an open file, its source) -> what its header says; reads as little as it can."""

READERS: dict[str, Reader] = {}
"""Lower-case suffix, with its dot -> reader; the reader under "" takes every other name."""

_PEEKERS: dict[str, Peeker] = {}
_SIGNATURES: dict[str, Sequence[tuple[int, bytes]]] = {}
_BEGINNING = 1024  # bytes; no signature lies behind them


def reader(
    *suffixes: str, peeker: Peeker | None = None, signatures: Sequence[tuple[int, bytes]] = ()
) -> Callable[[Reader], Reader]:
    """Register a function as the reader of files that end in one of ``suffixes``.

    Args:
        suffixes: lower-case, each with its dot.
        peeker: reads the header alone; without one, `peek` decodes the picture.
        signatures: (place, bytes), by one of which a file of this format is known when its name has no known suffix.

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
    """Read one picture file, whatever its format.

    The longest registered suffix that the name ends with decides who reads it, so that ``.nii.gz`` can have a
    reader of its own; where the name has none, the content decides.

    Args:
        path: the file, or an address as `fetch` takes it; ``scan.dcm#3`` is frame 3, counted from 0.

    Returns:
        The picture: float32 in [0, 1], (H, W, 1) for grey files and (H, W, 3) for all others.

    Raises:
        PictureError: the file is missing, a folder, empty, damaged, too large or not a picture.
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
    """Decode the content of a picture file, as `read` does.

    Args:
        content: all bytes of the file.
        source: its path or address; tells the format, and is the picture's name.

    Returns:
        The picture.

    Raises:
        PictureError: the content is damaged, too large or not a picture.
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
    """What the header of a picture file says, read without decoding its pixels.

    Args:
        source: as for `read`.

    Returns:
        The size, and for DICOM files "patient" (PatientID) and "view" (ViewPosition) where the header has them.

    Raises:
        PictureError: as `read`, for what shows at the beginning of a file: missing, empty, not a picture.
        MissingExtraError: a format or an address whose package is not installed.

    >>> peek("no/such/file.png")
    Traceback (most recent call last):
    camscope.errors.PictureError: there is no file 'no/such/file.png'
    """
    with opened(source) as file:
        suffix = _format(file.read(_BEGINNING), str(source))
        file.seek(0)
        if suffix in _PEEKERS:
            return _PEEKERS[suffix](file, str(source))
        return Peek(READERS[suffix](file.read(), str(source)).size)


def _format(beginning: bytes, source: str) -> str:
    """The key of READERS for a file."""
    name = split(source)[0].lower()
    if suffix := max((s for s in READERS if name.endswith(s)), key=len):
        return suffix
    known = ((suffix, start, mark) for suffix, marks in _SIGNATURES.items() for start, mark in marks)
    return next((suffix for suffix, start, mark in known if beginning.startswith(mark, start)), "")
