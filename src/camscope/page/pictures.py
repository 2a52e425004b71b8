"""Embed images in a page."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_address(image: Image.Image, *, quality: int = 85) -> str:
    """Return an image as ``data:image/jpeg;base64,...``."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
