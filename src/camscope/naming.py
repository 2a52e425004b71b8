"""File names from arbitrary text, the folder for caches, and the usual spellings of methods."""

from __future__ import annotations

import hashlib
import os
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from camscope.errors import SettingError, nearest

_LONGEST = 80
_MOST_BYTES = 200
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAP_FILES = "{image}/{method}_{label}_{model}/{kind}"
"""Pattern of the files of `camscope explain`: one folder per map."""


def file_name(text: str) -> str:
    """Return a text as a harmless name of a file, of at most 80 characters.

    Letters and digits of any script, single spaces, ``-_(),`` and the dots of "v2.1" and "No. 3" stay; whatever means
    something to a file system, a spreadsheet or an address becomes an underscore.

    >>> file_name("Mein Modell (v2.1)"), file_name("gradcam_tiger shark/../report.html")
    ('Mein Modell (v2.1)', 'gradcam_tiger shark_report_html')
    """
    return re.sub(r"([^\w (),.-]|\.(?![\d ])|  )+", "_", text).strip("_ .")[:_LONGEST].rstrip(" .") or "_"


def unique_file_name(text: str) -> str:
    """Return `file_name` of a text, with part of its hash if characters were replaced, so that names are unique.

    >>> unique_file_name("P001"), unique_file_name("../P001")
    ('P001', 'P001-...')
    """
    name = file_name(text)
    return name if name == text else f"{name}-{fingerprint(text)}"


def fields_of(pattern: str, known: Sequence[str]) -> set[str]:
    """Return the fields of a pattern of file names, such as "{image}/{method}.jpg".

    Args:
        pattern: a relative path with "/" between the folders, and fields in braces.
        known: fields that it may have.

    Raises:
        SettingError: an unknown field, a formatted one, or a path that is absolute or has "..".

    >>> sorted(fields_of("{image}/{method}.jpg", ["image", "label", "method"]))
    ['image', 'method']
    """
    try:
        fields = [field for field in string.Formatter().parse(pattern) if field[1] is not None]
    except ValueError as error:
        raise SettingError(f"{pattern!r} is no pattern of file names: {error}") from None
    if odd := next((name for _, name, form, conversion in fields if form or conversion), None):
        raise SettingError(f"{pattern!r} formats a field: write {{{odd}}} alone")
    names = {name for _, name, _, _ in fields if name is not None}
    if unknown := sorted(names - set(known)):
        raise SettingError(f"{nearest('field', unknown[0], known)}; expected {', '.join(known)}")
    path = PurePosixPath(pattern)
    if path.is_absolute() or ".." in path.parts:
        raise SettingError(f"{pattern!r} must be a relative path without '..'")
    return names


def filled(pattern: str, fields: Mapping[str, str]) -> str:
    """Return the path of a pattern; folders with an empty name are left out, and long names are cut and stay unique.

    Args:
        pattern: see `fields_of`.
        fields: harmless names, see `file_name`.

    >>> filled("{group}/{image}.jpg", {"group": "", "image": "P1"})
    'P1.jpg'
    """
    return "/".join(_cut(part) for part in pattern.format(**fields).split("/") if part.strip("."))


def _cut(part: str) -> str:
    """Return a unique name that every file system accepts."""
    if len(part.encode("utf-8", "replace")) <= _MOST_BYTES:
        return part
    stem, dot, suffix = part.rpartition(".")
    beginning = (stem if dot else part).encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    return f"{beginning}-{fingerprint(part)}{dot}{suffix if dot else ''}"


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
