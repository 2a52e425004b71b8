"""File names from arbitrary text, the folder for caches, and the usual spellings of methods."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_LONGEST = 80


def file_name(text: str) -> str:
    """Return a text as a harmless name of a file: letters and digits of any script, dashes, underscores; 80 characters.

    >>> file_name("gradcam_tiger shark, Galeocerdo/../cuvieri")
    'gradcam_tiger_shark_Galeocerdo_cuvieri'
    """
    return re.sub(r"[^\w-]+", "_", text).strip("_")[:_LONGEST] or "_"


def unique_file_name(text: str) -> str:
    """Return `file_name` of a text, with part of its hash if characters were replaced, so that names are unique.

    >>> unique_file_name("P001"), unique_file_name("../P001")
    ('P001', 'P001-...')
    """
    name = file_name(text)
    return name if name == text else f"{name}-{fingerprint(text)}"


def fingerprint(text: str) -> str:
    """Return eight hexadecimal digits of a text's hash."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def cache_folder(part: str) -> Path:
    """Return a folder in ``CAMSCOPE_CACHE``, or in ``camscope`` in the user's folder for caches.

    >>> cache_folder("openvino").name
    'openvino'
    """
    folder = os.environ.get("CAMSCOPE_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(folder) if folder else home / "camscope") / part


def method_spelling(name: str) -> str:
    """Return the name of a method in the one spelling of the registry: lower case, "pp" for "++".

    >>> method_spelling("Grad-CAM++"), method_spelling("SmoothGradCAMPlusPlus"), method_spelling("Augmented(HiRes CAM)")
    ('gradcampp', 'smoothgradcampp', 'augmented(hirescam)')
    """
    return re.sub(r"[\s_-]", "", name.lower()).replace("+", "p").replace("plusplus", "pp")
