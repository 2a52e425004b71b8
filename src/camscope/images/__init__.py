"""Read images and volumes: the types `Picture` and `Volume`, one reader per format. Nothing here imports torch."""

from camscope.images import dicom as dicom  # importing a reader registers it
from camscope.images import photo as photo
from camscope.images.find import find_pictures, find_volumes, require_one
from camscope.images.memory import as_picture
from camscope.images.picture import Peek, Picture, Window
from camscope.images.registry import READERS, decode, decoded_bytes, peek, peek_open, read, reader
from camscope.images.source import fetch
from camscope.images.volume import Turn, Volume
from camscope.images.volume_registry import VOLUME_READERS, as_volume, read_volume, volume_suffix

__all__ = [
    "READERS",
    "VOLUME_READERS",
    "Peek",
    "Picture",
    "Turn",
    "Volume",
    "Window",
    "as_picture",
    "as_volume",
    "decode",
    "decoded_bytes",
    "fetch",
    "find_pictures",
    "find_volumes",
    "peek",
    "peek_open",
    "read",
    "read_volume",
    "reader",
    "require_one",
    "volume_suffix",
]
