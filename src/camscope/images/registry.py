"""Which function reads which file: a dict from file suffix to reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from camscope.errors import PictureError
from camscope.images.picture import Picture

Reader = Callable[[Path], Picture]

READERS: dict[str, Reader] = {}
"""Lower-case suffix, with its dot -> reader; the reader under "" takes every other name."""


def reader(*suffixes: str) -> Callable[[Reader], Reader]:
    """Register a function as the reader of files that end in one of ``suffixes``.

    >>> import numpy as np
    >>> @reader(".zeros")
    ... def read_zeros(path):
    ...     return Picture(np.zeros((2, 3, 1), np.float32), str(path))
    >>> READERS.pop(".zeros") is read_zeros
    True
    """

    def register(function: Reader) -> Reader:
        READERS.update(dict.fromkeys(suffixes, function))
        return function

    return register


def read(path: str | Path) -> Picture:
    """Read one picture file, whatever its format.

    The longest registered suffix that the name ends with decides who reads it, so that ``.nii.gz`` can have a
    reader of its own.

    Args:
        path: the file.

    Returns:
        The picture: float32 in [0, 1], (H, W, 1) for grey files and (H, W, 3) for all others.

    Raises:
        PictureError: the file is missing, a folder, empty, damaged, too large or not a picture.

    >>> read("no/such/file.png")
    Traceback (most recent call last):
    camscope.errors.PictureError: there is no file 'no/such/file.png'
    """
    path = Path(path)
    named = repr(str(path))
    try:
        if path.is_dir():
            raise PictureError(f"{named} is a folder, not a picture; name the files in it")
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise PictureError(f"there is no file {named}") from None
    except (OSError, ValueError) as fault:  # a name that is too long, holds a null byte, or lies behind a locked door
        raise PictureError(f"cannot read {named}: {reason(fault)}") from None
    if size == 0:
        raise PictureError(f"{named} is empty (0 bytes)")
    suffix = max((s for s in READERS if path.name.lower().endswith(s)), key=len)
    return READERS[suffix](path)


def reason(fault: BaseException) -> str:
    """The words of a fault on one line, without the path that the system repeats in them.

    >>> reason(PermissionError(13, "Permission denied", "a.png"))
    'Permission denied'
    >>> reason(MemoryError())
    'MemoryError'
    """
    words = getattr(fault, "strerror", None) or str(fault)
    return " ".join(words.split()) or type(fault).__name__
