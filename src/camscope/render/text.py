"""Draw text on images: fonts and line breaks."""

from __future__ import annotations

import bisect
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

INK: Colour = (28, 30, 34)
MUTED: Colour = (112, 116, 124)
WARNING: Colour = (150, 84, 0)
PAPER: Colour = (255, 255, 255)
BLANK: Colour = (232, 233, 236)

Face = ImageFont.FreeTypeFont


class Words(NamedTuple):
    """One line of text and where its top left corner goes, in pixels."""

    x: float
    y: float
    text: str
    face: Face
    colour: Colour


@lru_cache
def face(size: int, *, bold: bool = False) -> Face:
    """Return the font at a size in pixels.

    DejaVu Sans, which Matplotlib brings: Pillow's own font has nothing beyond ASCII. Scripts that DejaVu lacks, such
    as Chinese, appear as boxes.
    """
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", name), size)


def line_height(font: Face) -> int:
    """Return the line height in pixels."""
    return round(font.size * 1.45)


def clean(text: str) -> str:
    r"""Return a text on one line; what cannot be drawn (control characters, lone surrogates) is replaced.

    >>> clean("two\nlines \udc80")
    'two lines ?'
    """
    text = text.encode("utf-8", "replace").decode()
    return " ".join("".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split())


def wrap(text: str, font: Face, *, width: float, lines: int) -> list[str]:
    """Break a text into lines no wider than ``width`` pixels; beyond ``lines`` of them it ends in an ellipsis.

    >>> wrap("one two three four five", face(10), width=60, lines=2)
    ['one two', 'three four…']
    """
    # No visible character is narrower than a pixel, so the rest could not show anyway.
    remainder = clean(text[: int(width) * lines + 1])
    rows: list[str] = []
    while remainder and len(rows) < lines:
        line, remainder = _first_line(remainder, font, width)
        rows.append(line)
    if remainder:
        longer = f"{rows[-1]} {remainder}"
        rows[-1] = longer[: _fitting(longer, font, width, tail="…")].rstrip() + "…"
    return rows


def _first_line(text: str, font: Face, width: float) -> tuple[str, str]:
    count = _fitting(text, font, width)
    if count == len(text):
        return text, ""
    space = text.rfind(" ", 0, count + 1)
    if space > 0:
        count = space
    else:  # a long name: after a mark in its second half if possible
        mark = max(text.rfind(character, count // 2, count) for character in "/\\_-.:")
        count = mark + 1 if mark >= 0 else max(count, 1)
    return text[:count].rstrip(), text[count:].lstrip()


def _fitting(text: str, font: Face, width: float, tail: str = "") -> int:
    """Return how many characters of the text, followed by the tail, are at most ``width`` pixels wide."""
    return max(bisect.bisect_right(range(len(text) + 1), width, key=lambda n: font.getlength(text[:n] + tail)) - 1, 0)


def write(canvas: Image.Image, words: list[Words]) -> None:
    """Draw lines of text on an image, in place."""
    draw = ImageDraw.Draw(canvas)
    for x, y, text, font, colour in words:
        draw.text((x, y), text, font=font, fill=colour)
