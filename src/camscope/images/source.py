"""Fetch the content of image files, by path or address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from camscope.errors import MissingExtraError, PictureError, require, shortened
from camscope.errors import reason as reason
from camscope.images.limits import MAX_BYTES

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
SCHEMES = ("file", "http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Allowed schemes of addresses. Tables are untrusted, and other schemes of fsspec can run code or read any file."""

_FRAME = re.compile(r"(.+)#([0-9]{1,9})", re.DOTALL)


def fetch(source: str | Path) -> bytes:
    """Return the content of a file.

    Args:
        source: a path, or an address with one of `SCHEMES`. A frame (``scan.dcm#3``) is no part of the file's name,
            unless there is such a file.

    Returns:
        All its bytes, at least one.

    Raises:
        PictureError: the file is missing, a folder, empty, or may not be read; or an address that is not possible.
        MissingExtraError: an address whose package is not installed.

    >>> fetch("no/such/file.png")
    Traceback (most recent call last):
    camscope.errors.PictureError: there is no file 'no/such/file.png'
    """
    with opened(source) as file:
        return file.read()


@contextmanager
def opened(source: str | Path) -> Iterator[BinaryIO]:
    """Open a file that is there and not empty, as `fetch` does; what is read lazily inside is under the same errors."""
    source = str(source)
    label, (name, _) = repr(source), split(source)
    try:
        with _remote(name) if is_address(name) else _local(name) as file:
            yield file
    except (PictureError, MissingExtraError):
        raise
    except _Empty:
        raise PictureError(f"{label} is empty (0 bytes)") from None
    except IsADirectoryError:
        raise PictureError(f"{label} is a folder, not an image; name the files in it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise PictureError(f"there is no file {label}") from None
    except (OSError, ValueError) as fault:  # a name that is too long, contains a null byte, or is not permitted
        raise PictureError(f"cannot read {label}: {reason(fault)}") from None


class _Empty(Exception):  # noqa: N818  never leaves this file
    """An empty file."""


@contextmanager
def _local(name: str) -> Iterator[BinaryIO]:
    path = Path(name)
    if path.is_dir():
        raise IsADirectoryError
    if (size := path.stat().st_size) == 0:  # before opening it: a named pipe would block
        raise _Empty
    _check_bytes(size, name)
    with path.open("rb") as file:
        yield file


@contextmanager
def _remote(name: str) -> Iterator[BinaryIO]:
    check_address(name)
    fsspec = require("fsspec", f"reading {name}", "remote")
    try:
        system, place = fsspec.core.url_to_fs(name)
        with system.open(place, "rb") as file:
            _check_bytes(getattr(file, "size", None), name)
            content = cast(BinaryIO, file if file.seekable() else BytesIO(file.read()))
            if not content.read(1):
                raise _Empty
            content.seek(0)
            yield content
    except (_Empty, PictureError, MissingExtraError, OSError):
        raise
    except ImportError as fault:  # the package of the scheme, such as s3fs
        raise MissingExtraError(f"reading {name} needs one more package: {reason(fault)}") from None
    except Exception as fault:  # each service raises other exceptions
        raise PictureError(f"cannot read {name!r}: {reason(fault)}") from None


def _check_bytes(size: int | None, name: str) -> None:
    if size is not None and size > MAX_BYTES:
        raise PictureError(f"{name!r} has {size:,} bytes, more than the {MAX_BYTES:,} of the largest file that is read")


def is_address(source: str) -> bool:
    """Return whether a name has a scheme, such as ``s3://bucket/a.png``.

    >>> is_address("s3://bucket/a.png"), is_address("C:/a.png")
    (True, False)
    """
    return _SCHEME.match(source) is not None


def check_address(address: str) -> None:
    """Check that an address has one of `SCHEMES` and names one file or folder.

    Raises:
        PictureError: another scheme, such as ``reference://``, or several joined by ``::``.

    >>> check_address("s3://bucket/a.png")
    >>> check_address("zip://a.png::https://host/a.zip")
    Traceback (most recent call last):
    camscope.errors.PictureError: cannot use the address 'zip://a.png::https://host/a.zip': '::' is not possible in it
    """
    if "::" in address:
        raise PictureError(f"cannot use the address {shortened(address)}: '::' is not possible in it")
    if address.partition("://")[0] not in SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise PictureError(f"cannot use the address {shortened(address)}: possible schemes are {schemes}")


def split(source: str) -> tuple[str, int | None]:
    """Return the file's name, and the frame that ``#index`` at its end selects; a file of that very name comes first.

    >>> split("scan.dcm#3")
    ('scan.dcm', 3)
    >>> split("scan.dcm")
    ('scan.dcm', None)
    """
    match = _FRAME.fullmatch(source)
    if match is None or (not is_address(source) and os.path.lexists(source)):
        return source, None
    return match[1], int(match[2])


def frame_notes(source: str, frames: int) -> tuple[str, ...]:
    """Return a note if a file has several frames and the first is read by default.

    >>> frame_notes("scan.dcm", 3)
    ('the file holds 3 frames, of which the first is read; add #k to its name for frame k, counted from 0',)
    >>> frame_notes("scan.dcm#0", 3), frame_notes("photo.png", 1)
    ((), ())
    """
    if frames < 2 or split(source)[1] is not None:
        return ()
    note = f"the file holds {frames} frames, of which the first is read; add #k to its name for frame k, counted from 0"
    return (note,)


def no_frame(source: str, frames: int) -> PictureError:
    """Return the error of a frame that a file does not have."""
    name, frame = split(source)
    contents = "one frame, #0" if frames == 1 else f"{frames} frames, #0 to #{frames - 1}"
    return PictureError(f"{name!r} has no frame #{frame}; it holds {contents}")
