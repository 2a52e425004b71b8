"""Pictures: the type, and one reader a file format. Nothing here imports torch."""

from camscope.images import photo as photo  # importing a reader registers it
from camscope.images.find import find_pictures
from camscope.images.memory import as_picture
from camscope.images.picture import Picture, Window
from camscope.images.registry import READERS, read, reader

__all__ = ["READERS", "Picture", "Window", "as_picture", "find_pictures", "read", "reader"]
