"""Draw many images on one page: a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from camscope.errors import SettingError
from camscope.render.text import BLANK, INK, MUTED, PAPER, Face, Words, face, line_height, wrap, write


@dataclass(frozen=True)
class Cell:
    """One image of a sheet (None for an empty cell), and its caption."""

    image: Image.Image | None
    caption: str = ""


def sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    column_headings: Sequence[str] = (),
    row_headings: Sequence[str] = (),
    title: str = "",
    cell_width: int = 220,
    caption_lines: int = 3,
) -> Image.Image:
    """Draw a contact sheet.

    Args:
        rows: the cells, row by row; rows may differ in length.
        column_headings: one above each column, or none.
        row_headings: one before each row, or none.
        title: the largest line.
        cell_width: of each image, in pixels; images are fitted in, never distorted.
        caption_lines: most lines of a caption; what does not fit ends in an ellipsis.

    Returns:
        An RGB image.

    Raises:
        SettingError: no cell, or a number of headings that does not fit.

    >>> sheet([[Cell(Image.new("RGB", (64, 64)), "a"), Cell(None, "missing")]], column_headings=["one", "two"]).width
    485
    """
    columns = max(map(len, rows), default=0)
    _check("column", columns, column_headings)
    _check("row", len(rows), row_headings)
    gap = cell_width // 14
    font, bold = face(max(cell_width // 15, 11)), face(max(cell_width // 15, 11), bold=True)
    large = face(round(1.6 * font.size), bold=True)
    left = gap + (round(0.6 * cell_width) + gap if row_headings else 0)
    lefts = [left + n * (cell_width + gap) for n in range(columns)]
    width = lefts[-1] + cell_width + gap
    words: list[Words] = []
    y = _stack(words, title, large, at=(gap, gap), width=width - 2 * gap, lines=2) + (gap // 2 if title else 0)
    ends = [
        _stack(words, heading, bold, at=(x, y), width=cell_width, lines=2)
        for x, heading in zip(lefts, column_headings, strict=False)
    ]
    y = max(ends) + gap // 3 if ends else y
    places: list[tuple[Cell, tuple[int, int], tuple[int, int]]] = []
    for number, row in enumerate(rows):
        box = cell_width, _row_height(row, cell_width)
        ends = [y + box[1]]
        if row_headings:
            ends.append(_stack(words, row_headings[number], bold, at=(gap, y), width=left - 2 * gap, lines=4))
        for x, cell in zip(lefts, row, strict=False):
            places.append((cell, (x, y), box))
            at = x, y + box[1] + gap // 4
            ends.append(_stack(words, cell.caption, font, at=at, width=cell_width, lines=caption_lines, colour=MUTED))
        y = max(ends) + gap
    canvas = Image.new("RGB", (width, y), PAPER)
    for cell, at, box in places:
        _place(canvas, cell.image, at, box)
    write(canvas, words)
    return canvas


def _check(kind: str, count: int, headings: Sequence[str]) -> None:
    if count == 0:
        raise SettingError("a sheet needs at least one image")
    if headings and len(headings) != count:
        raise SettingError(f"{len(headings)} {kind} headings do not fit on {count} {kind}s")


def _stack(
    words: list[Words],
    text: str,
    font: Face,
    *,
    at: tuple[int, int],
    width: int,
    lines: int,
    colour: tuple[int, int, int] = INK,
) -> int:
    """Add a text's lines to ``words``, one below the other; return the y position below them."""
    x, y = at
    for line in wrap(text, font, width=width, lines=lines):
        words.append(Words(x, y, line, font, colour))
        y += line_height(font)
    return y


def _row_height(row: Sequence[Cell], width: int) -> int:
    """Return the height of the row's highest image at full width, up to a limit."""
    shapes = [cell.image.height / cell.image.width for cell in row if cell.image]
    return round(width * float(np.clip(max(shapes, default=0.75), 0.3, 1.5)))


def _place(canvas: Image.Image, image: Image.Image | None, at: tuple[int, int], box: tuple[int, int]) -> None:
    """Paste an image into its box, centred and uncropped; an empty cell is marked."""
    if image is None:
        ImageDraw.Draw(canvas).rectangle([at, (at[0] + box[0] - 1, at[1] + box[1] - 1)], fill=BLANK)
        return
    factor = min(box[0] / image.width, box[1] / image.height)
    size = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
    resample = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS
    thumbnail = image.convert("RGB").resize(size, resample)
    canvas.paste(thumbnail, (at[0] + (box[0] - size[0]) // 2, at[1] + (box[1] - size[1]) // 2))
