"""Convert Matplotlib figures to inline SVG without styles and metadata, and with unique ids."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_FONT = re.compile(r"^(?:(?P<style>italic|oblique)\s+)?(?:(?P<weight>bold|\d{3})\s+)?(?P<size>[\d.]+px)\s")
_BROAD = 400  # pixels; a phone shows less
_REFERENCE = re.compile(r"url\(#([^)]+)\)")

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "camscope",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.edgecolor": "#8893a2",
    "axes.labelcolor": "#29323d",
    "axes.titlesize": 8.5,
    "axes.titlecolor": "#1b2330",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "x",
    "grid.color": "#e3e7ec",
    "xtick.color": "#55606f",
    "ytick.color": "#29323d",
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
}
"""Matplotlib's settings for every figure of a report; texts are never read as formulas."""


def svg(figure: Figure, name: str, *, text: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Style attributes become presentation attributes, since the page's content security policy allows no others.

    Args:
        figure: drawn with ``SETTINGS``.
        name: sets its ids apart from those of all other figures.
        text: what it shows, for those who do not see it.

    Returns:
        The element; its texts are escaped.
    """
    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # browsers use their own fonts
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _LINK)
    root = ET.fromstring(_CONTROL.sub("", buffer.getvalue().decode()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _presentation(element)
        _named(element, name)
    width = float(root.attrib.pop("width").removesuffix("pt")) * 96 / 72
    root.attrib.pop("height")
    root.attrib |= {
        "role": "img",
        "aria-label": _CONTROL.sub("", text),
        "class": "figure broad" if width > _BROAD else "figure",
        "width": f"{width:.0f}",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ET.tostring(root, encoding="unicode")


def _presentation(element: ET.Element) -> None:
    """Replace the attribute ``style="a: b"`` by ``a="b"``."""
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = (text.strip() for text in part.partition(":"))
        if key == "font":
            if match := _FONT.match(value):
                element.set("font-size", match["size"])
                if match["weight"]:
                    element.set("font-weight", match["weight"])
        elif key and not key.startswith(("-", "image-rendering")):
            element.set(key, value)


def _named(element: ET.Element, name: str) -> None:
    """Add the figure's name to ids and to references to them."""
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key in ("href", f"{{{_LINK}}}href") and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
