"""Write files atomically, to a folder or an address."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from camscope.errors import (
    CamscopeError,
    DamagedError,
    MissingExtraError,
    PictureError,
    StoreError,
    reason,
    require,
    unwritable,
)
from camscope.images.source import check_address, is_address
from camscope.naming import fingerprint

PARTIAL = re.compile(r"\.[0-9a-f]{8}\.part")
"""Names of files that are being written."""


MARKER = ".camscope"
"""File that names the command which wrote a folder of results."""

MAPS = "maps"
"""Kind of the folders of explain, layers and compare (see `claim`)."""

_CLUTTER = {
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "lost+found",
    ".lock",
}  # files of a folder that looks empty to its owner

_SEAL = b"camscope_sha256"
_BLANK = "0" * 64
_SEALED = re.compile(_SEAL + rb"\x18\x40([0-9a-f]{64})")  # the two bytes: a Thrift string of 64 bytes


def claim(folder: Path, kind: str, *, record: tuple[str, str] | None = None) -> None:
    """Take a folder for the results of one command; afterwards it holds `MARKER`.

    Args:
        folder: created if missing. It must be empty, or hold earlier results of the same kind.
        kind: what the results are, such as "a study".
        record: a JSON file, and a key of it, that show the kind where the marker was not copied along.

    Raises:
        StoreError: it holds anything else, or cannot be written.
    """
    marker = folder / MARKER
    with writing(folder):
        if marker.exists():
            contents = marker.read_text(encoding="utf-8", errors="replace").strip()
            if contents != kind:
                raise StoreError(f"{folder} holds {contents}, not {kind}: give another --out")
            return
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        foreign = sorted(name for name in names if name not in _CLUTTER and not PARTIAL.fullmatch(name))
        if foreign and not (record and _has_key(folder / record[0], record[1])):
            raise StoreError(
                f"{folder} is not empty, and not a folder of {kind} (it holds {foreign[0]!r}): give another --out, or "
                "empty it"
            )
        write_atomically(marker, lambda file: file.write(f"{kind}\n".encode()))


def _has_key(path: Path, key: str) -> bool:
    try:
        return key in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file atomically: it is complete or absent, even if the process or the machine stops.

    Args:
        path: path of the file; its folder is created if missing.
        write: called with a file in memory; its exceptions are raised.

    Raises:
        StoreError: it cannot be written, as on a full disk.
    """
    content = io.BytesIO()
    write(content)
    if is_remote(path):
        with writing(path):
            path.write_bytes(content.getvalue())
        return
    partial = path.with_name(f".{fingerprint(path.name)}.part")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that cannot be written into one sentence."""
    try:
        yield
    except OSError as fault:
        raise unwritable(path, fault) from None
    except (CamscopeError, pl.exceptions.PolarsError):
        raise
    except Exception as fault:
        if not is_remote(path):
            raise
        raise unwritable(path, fault) from None  # each service raises other exceptions


def place(folder: str | Path) -> Path:
    """Return a folder as a path; an address as what has a path's methods and reads and writes through fsspec.

    Raises:
        MissingExtraError: the package of the address is not installed.
        StoreError: an address that is not possible.

    >>> place("results").name, place("memory://results").name
    ('results', 'results')
    """
    if isinstance(folder, Path) or not is_address(str(folder)):
        return Path(folder)
    try:
        check_address(str(folder))
    except PictureError as error:
        raise StoreError(str(error)) from None
    upath = require("upath", f"writing to {folder}", "remote")
    try:
        # Other processes write there too: listings must not be cached.
        path = upath.UPath(folder, use_listings_cache=False)
        path.fs  # noqa: B018  the package of the scheme is imported here
        return cast(Path, path)
    except ImportError as fault:
        raise MissingExtraError(f"writing to {folder} needs one more package: {reason(fault)}") from None


def is_remote(path: object) -> bool:
    """Return whether a path of `place` lies behind an address, where every file is whole and there are no folders."""
    return not isinstance(path, Path)


def write_parquet(path: Path, table: pl.DataFrame) -> None:
    """Write a table as a sealed Parquet file: its metadata hold the SHA-256 of the file with a blank in its place.

    Raises:
        StoreError: it cannot be written.
    """
    file = io.BytesIO()
    table.write_parquet(file, compression="zstd", metadata={_SEAL.decode(): _BLANK})
    content = bytearray(file.getvalue())
    start, end = _seal_of(content).span(1)
    content[start:end] = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, lambda out: out.write(content))


def read_parquet(path: Path, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a sealed Parquet file, or some of its columns, wherever it lies.

    Raises:
        DamagedError: it is not as `write_parquet` wrote it, down to the last bit, or lacks a column.
        OSError: it cannot be read.
    """
    content = check_sealed(path)
    try:
        return pl.read_parquet(content, columns=None if columns is None else list(columns))
    except pl.exceptions.PolarsError as fault:
        raise DamagedError(f"{path} cannot be read ({reason(fault)})") from None


def check_sealed(path: Path) -> bytes:
    """Return the content of a sealed Parquet file.

    Raises:
        DamagedError: it is not as `write_parquet` wrote it.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    start, end = _seal_of(content, path).span(1)
    blank = content[:start] + _BLANK.encode() + content[end:]
    if hashlib.sha256(blank).hexdigest().encode() != content[start:end]:
        raise DamagedError(f"{path} is damaged (its checksum differs)")
    return content


def is_sealed(path: Path) -> bool:
    """Return whether `write_parquet` wrote a file, even if it is damaged now."""
    try:
        return _SEAL in path.read_bytes()
    except OSError:
        return False


def _seal_of(content: bytes | bytearray, path: Path | None = None) -> re.Match[bytes]:
    """Find the checksum in the file's metadata, which are its last part."""
    seal = _SEALED.search(content, max(content.rfind(_SEAL), 0))
    if seal is None:
        raise DamagedError(f"{path} is damaged, or was not written by camscope (it has no checksum)")
    return seal
