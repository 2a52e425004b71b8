"""The files of the viewer as texts, and its tables of colours."""

from __future__ import annotations

import base64
import importlib.resources
import re
from collections.abc import Iterable

import numpy as np

from camscope.render import colourise

COLOURS = {
    "byr": "blue, yellow, red",
    "viridis": "viridis (for every reader)",
    "turbo": "turbo (rainbow)",
    "RdBu_r": "signed: blue against, red for",
}
"""Colour map -> what the viewer calls it; "RdBu_r" shows negative values too, and 0 is white."""

_FILES = importlib.resources.files("camscope.viewer").joinpath("files")
_IMPORT = re.compile(r"^import .*;\n", re.MULTILINE)
_ALL = ("heat", "picture", "viewer", "controls")


def module(parts: Iterable[str] = _ALL) -> str:
    """Return the viewer as one ES module, without imports, so that a page can hold it.

    Args:
        parts: names of its files, each after those that it imports: "heat" (place and colour a map), "picture" (tones
            and outlines), "viewer" (class ``Viewer``), "controls" (sliders and lists).

    >>> "export function place" in module(["heat"]), "import" in module()
    (True, False)
    """
    return "".join(_IMPORT.sub("", _FILES.joinpath(f"{part}.js").read_text("utf-8")) for part in parts)


def style() -> str:
    """Return the style sheet of the viewer.

    >>> ".viewer" in style()
    True
    """
    return _FILES.joinpath("viewer.css").read_text("utf-8")


def colour_tables(names: Iterable[str] = COLOURS) -> dict[str, str]:
    """Return colour maps as 256 times three bytes (red, green, blue), in base64.

    Args:
        names: "byr" or colour maps of Matplotlib.

    >>> {name: len(base64.b64decode(table)) for name, table in colour_tables(["byr", "viridis"]).items()}
    {'byr': 768, 'viridis': 768}
    """
    levels = np.linspace(0, 1, 256)[None]
    return {name: base64.b64encode(colourise(levels, name).tobytes()).decode() for name in names}
