"""Open DICOM files: damage, missing preambles, compression; shared by the readers of images and of series."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from camscope.errors import MissingExtraError, PictureError, require
from camscope.images.limits import MAX_BYTES
from camscope.images.source import reason, split

_FIRST = {2: (0, 1, 2, 3, 16), 8: (0, 1, 5, 8, 18, 20, 22, 24)}
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_CHUNK = 1 << 16

# The first elements of files without the preamble that PS3.10 asks for: of groups 2 and 8.
BARE = tuple((0, bytes([group, 0, element, 0])) for group, elements in _FIRST.items() for element in elements)


def pydicom_module(module: str, source: str) -> Any:
    """Return a module of pydicom, or raise the error that names its extra."""
    return require(module, f"reading {split(source)[0]}", "dicom")


@contextmanager
def dicom_faults(source: str) -> Iterator[None]:
    """Turn any exception of pydicom and its decoders into a one-sentence error."""
    try:
        yield
    except (PictureError, MissingExtraError, MemoryError):
        raise
    except RuntimeError as fault:  # every installed decoder has given up
        raise PictureError(f"{source!r} is damaged, or of a kind that no decoder takes: {reason(fault)}") from None
    except BaseException as fault:
        # A decoder written in Rust panics on damaged data, and its panic is no Exception.
        if not isinstance(fault, Exception) and type(fault).__name__ != "PanicException":
            raise
        # Quoted words may be a patient's, where a damaged header shifts its values.
        words = re.sub(r"'[^']*'|\"[^\"]*\"", "...", reason(fault))
        raise PictureError(f"{source!r} is damaged or truncated: {words}") from None


def read_dataset(file: BinaryIO, source: str, **options: Any) -> Any:
    """Return the dataset of an open file, also of one without the preamble.

    Args:
        file: at the beginning of the dataset.
        source: what to call it.
        **options: of ``pydicom.dcmread``.

    Raises:
        PictureError: not DICOM, damaged, or larger than `MAX_BYTES` after unpacking.
        MissingExtraError: pydicom is not installed.
    """
    pydicom = pydicom_module("pydicom", source)
    start = file.tell()
    beginning = file.read(1024)
    file.seek(start)
    if _DEFLATED in beginning:
        _check_deflated(file, source)
    try:
        dataset = pydicom.dcmread(file, **options)
    except pydicom.errors.InvalidDicomError:
        absent = PictureError(f"{source!r} is not a DICOM file, or damaged at its beginning")
        if not beginning.startswith(tuple(mark for _, mark in BARE)):
            raise absent from None
        file.seek(start)
        dataset = pydicom.dcmread(file, force=True, **options)
        if "Rows" not in dataset or "Columns" not in dataset:
            raise absent from None
        _state_syntax(dataset)
    if not len(dataset):  # so pydicom returns files that end within an element of unknown length
        raise PictureError(f"{source!r} is damaged or truncated: it ends too early")
    return dataset


def _state_syntax(dataset: Any) -> None:
    """Name the encoding of a file without a file meta header, where it is not compressed."""
    from pydicom import uid

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        plain = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else plain


def _check_deflated(file: BinaryIO, source: str) -> None:
    """Raise a PictureError for a deflated file that unpacks to more than `MAX_BYTES`; the place in the file is kept."""
    start = file.tell()
    header = file.read(144)
    if header[128:136] == b"DICM\x02\0\0\0":
        file.seek(start + 144 + int.from_bytes(header[140:144], "little"))
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        with contextlib.suppress(zlib.error):  # the reader reports damage
            while size <= MAX_BYTES and (chunk := unpacker.unconsumed_tail or file.read(_CHUNK)):
                size += len(unpacker.decompress(chunk, 64 * _CHUNK))
        if size > MAX_BYTES:
            raise PictureError(f"{source!r} unpacks to more than {MAX_BYTES:,} bytes; store it uncompressed by frame")
    file.seek(start)


def check_decodable(dataset: Any, source: str) -> None:
    """Raise a PictureError that names the compression where nothing installed can undo it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = pydicom_module("pydicom.pixels", source).get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise PictureError(
            f"{source!r} is compressed as {syntax.name}, which nothing installed decodes; "
            "try pip install 'camscope[dicom]', or store it uncompressed"
        )


def numbers(value: Any) -> list[float]:
    """Return the numbers of an element of none, one or several values."""
    return [float(number) for number in ([] if value is None else np.atleast_1d(value))]
