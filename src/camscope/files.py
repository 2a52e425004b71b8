"""Files that are there whole or not at all, in a folder or behind an address."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from camscope.errors import CamscopeError, MissingExtraError, require
from camscope.images.source import is_address, reason
from camscope.naming import fingerprint

PARTIAL = re.compile(r"\.[0-9a-f]{8}\.part")
"""The names of files that are being written."""


class StoreError(CamscopeError):
    """A folder of results that cannot be used or written."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file that is there whole or not at all, whatever stops the process or the machine.

    Args:
        path: of the file; its folder is made where missing.
        write: is given a file in memory; what it raises is raised.

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
        raise _unwritable(path, fault) from None
    except (CamscopeError, pl.exceptions.PolarsError):
        raise
    except Exception as fault:
        if not is_remote(path):
            raise
        raise _unwritable(path, fault) from None  # each service has exceptions of its own


def _unwritable(path: Path, fault: Exception) -> StoreError:
    return StoreError(f"cannot write {path}: {reason(fault)}; what is done is kept, and the same command continues")


def place(folder: str | Path) -> Path:
    """A folder as a path; an address as what has a path's methods and reads and writes through fsspec.

    Raises:
        MissingExtraError: the package of the address is not installed.

    >>> place("results").name, place("memory://results").name
    ('results', 'results')
    """
    if isinstance(folder, Path) or not is_address(str(folder)):
        return Path(folder)
    upath = require("upath", f"writing to {folder}", "remote")
    try:
        # Other processes write there too: a listing is true only once.
        return cast(Path, upath.UPath(folder, use_listings_cache=False))
    except ImportError as fault:
        raise MissingExtraError(f"writing to {folder} needs one more package: {reason(fault)}") from None


def is_remote(path: object) -> bool:
    """Whether a path of `place` lies behind an address, where every file is whole and there are no folders."""
    return not isinstance(path, Path)


def read_parquet(path: Path, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a Parquet file, or some of its columns, wherever it lies.

    Raises:
        OSError: it cannot be read.
        polars.exceptions.PolarsError: it is no Parquet file, or lacks a column.
    """
    source = io.BytesIO(path.read_bytes()) if is_remote(path) else path
    return pl.read_parquet(source, columns=None if columns is None else list(columns))
