"""Read images: the type `Picture`, and one reader per file format. Nothing here imports torch."""

from camscope.images import dicom as dicom  # importing a reader registers it
from camscope.images import photo as photo
from camscope.images.find import find_pictures, require_one
from camscope.images.memory import as_picture
from camscope.images.picture import Peek, Picture, Window
from camscope.images.registry import READERS, decode, decoded_bytes, peek, peek_open, read, reader
from camscope.images.source import fetch

__all__ = [
    "READERS",
    "Peek",
    "Picture",
    "Window",
    "as_picture",
    "decode",
    "decoded_bytes",
    "fetch",
    "find_pictures",
    "peek",
    "peek_open",
    "read",
    "reader",
    "require_one",
]
