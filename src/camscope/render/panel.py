"""Draw one explanation on one page: image, heat map, overlay and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from camscope.images.picture import Picture, Window
from camscope.render.colour import check_fit, colourise, overlay
from camscope.render.scaling import Limits
from camscope.render.text import INK, MUTED, PAPER, WARNING, Face, Words, face, line_height, wrap, write

_TILE = 480  # longer side of a tile, pixels
_NARROWEST = 640  # minimum width of a panel, for its text
_WIDE = 2.4  # images with a larger width / height are stacked vertically


def panel(
    picture: Picture,
    values: npt.NDArray[np.floating],
    *,
    limits: Limits,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    cmap: str = "byr",
    opacity: float = 0.5,
    window: Window | None = None,
) -> Image.Image:
    """Draw original, heatmap and overlay side by side with a title, facts, colour bar and notes.

    Small images are enlarged by a whole factor and large ones reduced, so that the page is readable at any size.

    Args:
        picture: the image, H x W.
        values: (H, W) in [0, 1].
        limits: the raw values at 0 and 1, from `scale`.
        title: the largest line, such as the explained label.
        facts: what else to say above the images: {"score": "12.3", "method": "gradcam"}.
        notes: sentences to put below, such as why a map is empty.
        cmap: see `colourise`.
        opacity: of the map in the overlay.
        window: what the network saw; the rest is left uncoloured.

    Returns:
        An RGB image.

    Raises:
        SettingError: as `overlay` does.

    >>> page = panel(Picture(np.ones((32, 32, 1), np.float32)), np.zeros((32, 32)), limits=(0, 1), title="cat")
    >>> page.width > 3 * 400
    True
    """
    check_fit(picture, values)
    stacked = picture.size[1] > _WIDE * picture.size[0]
    size = _display_size(picture.size, 2 * _TILE if stacked else _TILE)
    display, values, window = _resized(picture, values, window or Window.whole(picture.size), size=size)
    tiles = {
        "original": Image.fromarray(display.rgb),
        "heatmap": Image.fromarray(colourise(values, cmap, window=window)),
        "overlay": overlay(display, values, cmap=cmap, opacity=opacity, window=window),
    }
    facts, across = facts or {}, 1 if stacked else 3
    return framed(tiles, limits=limits, across=across, title=title, facts=facts, notes=notes, cmap=cmap)


def framed(
    tiles: Mapping[str, Image.Image],
    *,
    limits: Limits,
    across: int = 3,
    title: str = "",
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    cmap: str = "byr",
) -> Image.Image:
    """Draw images of one size under their names, with a title, facts, colour bar and notes.

    Args:
        tiles: name -> image.
        limits: the raw values of the lowest and the highest colour.
        across: images per row.
        title: the largest line.
        facts: what else to say above the images.
        notes: sentences to put below.
        cmap: see `colourise`.

    Returns:
        An RGB image.

    >>> tiles = {name: Image.new("RGB", (200, 200)) for name in ("axial", "coronal", "sagittal")}
    >>> framed(tiles, limits=(0, 1), facts={"score": "2"}).width > 600
    True
    """
    tile_width = next(iter(tiles.values())).width
    font_size = int(np.clip((across * tile_width + 160) / 80, 13, 20))
    body = _body(tiles, limits, across=across, cmap=cmap, font_size=font_size)
    margin = round(1.5 * font_size)
    width = max(body.width + 2 * margin, _NARROWEST)
    words, top = _header(title, facts, font_size=font_size, left=margin, right=width - margin)
    below, bottom = _notes(notes, face(font_size), left=margin, right=width - margin, top=top + body.height + font_size)
    canvas = Image.new("RGB", (width, bottom + font_size // 2), PAPER)
    canvas.paste(body, (margin, top))
    write(canvas, words + below)
    return canvas


def _body(tiles: Mapping[str, Image.Image], limits: Limits, *, across: int, cmap: str, font_size: int) -> Image.Image:
    """Return the tiles under their names, ``across`` per row, with the colour bar on the right."""
    font = face(font_size)
    name_height, gap = line_height(font), font_size
    tile = next(iter(tiles.values()))
    down = len(tiles) // across
    row_height = tile.height if down > 1 else max(tile.height, 6 * name_height)  # space for the bar
    step_x = max(tile.width, *(math.ceil(font.getlength(name)) for name in tiles)) + gap
    step_y = name_height + row_height + gap
    bar = colour_bar(limits, cmap=cmap, height=down * step_y - gap - name_height, font_size=font_size)
    canvas = Image.new("RGB", (across * step_x + bar.width, name_height + bar.height), PAPER)
    words = []
    for number, (name, image) in enumerate(tiles.items()):
        x, y = number % across * step_x, number // across * step_y
        words.append(Words(x, y, name, font, MUTED))
        canvas.paste(image, (x, y + name_height))
    canvas.paste(bar, (across * step_x, name_height))
    write(canvas, words)
    return canvas


def colour_bar(limits: Limits, *, cmap: str = "byr", height: int = 480, font_size: int = 16) -> Image.Image:
    """Draw a vertical colour bar, labelled with raw values.

    Args:
        limits: the raw values of the lowest and the highest colour; equal ones give a bar of the lowest colour.
        cmap: see `colourise`.
        height: of the bar, in pixels.
        font_size: of the labels, in pixels.

    Returns:
        An RGB image ``height`` pixels high, or as high as two labels.

    >>> colour_bar((0, 0.5), height=200).height
    200
    """
    font = face(font_size)
    height = max(height, 2 * line_height(font))
    low, high = limits
    count = int(np.clip(height // (3 * font_size), 2, 5)) if high > low else 1
    places = np.linspace(0, 1, count)
    labels = _labels(low + places * (high - low))
    bar_width, tick = round(1.1 * font_size), round(0.35 * font_size)
    left = bar_width + tick + round(0.3 * font_size)
    width = left + math.ceil(max(map(font.getlength, labels)))
    canvas = Image.new("RGB", (width, height), PAPER)
    ramp = np.linspace(1, 0, height) if high > low else np.zeros(height)
    canvas.paste(Image.fromarray(np.repeat(colourise(ramp[:, None], cmap), bar_width, axis=1)))
    draw = ImageDraw.Draw(canvas)
    for place, label in zip(places, labels, strict=True):
        y = round((1 - place) * (height - 1))
        draw.line([(bar_width, y), (bar_width + tick, y)], fill=MUTED)
        # Centred on its tick, but the first and last stay within the bar's height.
        half = font_size * 0.6
        draw.text((left, np.clip(y, half, height - half)), label, font=font, fill=INK, anchor="lm")
    return canvas


def _labels(values: npt.NDArray[np.float64]) -> list[str]:
    """Format rising values with three digits, or more if needed to distinguish them."""
    span = float(values[-1] - values[0])
    digits = 3
    if span > 0:
        unit = 10.0 ** (math.floor(math.log10(span)) - 3)
        values = np.rint(values / unit) * unit  # values below a thousandth of the bar are shown as 0, not as 1.7e-9
        digits = int(np.clip(math.ceil(math.log10(np.abs(values).max() / span) - 0.1) + 3, 3, 12))
    labels = (re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.{digits}g}") for value in values)
    return [label.replace("-", "\u2212") for label in labels]


def _display_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the displayed (height, width): a whole multiple for small images, at most ``longest`` for large ones."""
    factor = longest / max(size)
    factor = math.floor(factor) if factor >= 1 else factor
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _resized(
    picture: Picture, values: npt.NDArray[np.floating], window: Window, *, size: tuple[int, int]
) -> tuple[Picture, npt.NDArray[np.floating], Window]:
    """Resize image, map and window; pixels of an enlarged image stay visible, the map stays smooth."""
    resample = Image.Resampling.NEAREST if size[0] > picture.size[0] else Image.Resampling.LANCZOS
    pixels = np.asarray(Image.fromarray(picture.rgb).resize(size[::-1], resample), np.float32) / np.float32(255)
    smooth = Image.fromarray(np.nan_to_num(values).astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    return Picture(pixels), np.asarray(smooth), window.resized(size)


def _header(title: str, facts: Mapping[str, str], *, font_size: int, left: int, right: int) -> tuple[list[Words], int]:
    """Return the lines of title and facts, and the y position below them."""
    large, font = face(round(1.5 * font_size), bold=True), face(font_size)
    words, y = [], left
    for line in wrap(title, large, width=right - left, lines=2):
        words.append(Words(left, y, line, large, INK))
        y += line_height(large)
    x, deepest = float(left), y
    for name, value in facts.items():
        indent = font.getlength(f"{name} ")
        lines = wrap(value, font, width=right - left - indent, lines=3)
        length = indent + max(map(font.getlength, lines), default=0)
        if x > left and x + length > right:
            x, y = left, deepest
        words.append(Words(x, y, name, font, MUTED))
        words += [Words(x + indent, y + n * line_height(font), line, font, INK) for n, line in enumerate(lines)]
        deepest = max(deepest, y + max(len(lines), 1) * line_height(font))
        x += length + 1.5 * font_size
    return words, deepest + (font_size // 2 if words else 0)


def _notes(notes: Sequence[str], font: Face, *, left: int, right: int, top: int) -> tuple[list[Words], int]:
    """Return the lines of the notes, and the y position below them."""
    words, y, indent = [], top, font.getlength("\u2022 ")
    for note in notes:
        words.append(Words(left, y, "\u2022", font, WARNING))
        for line in wrap(note, font, width=right - left - indent, lines=4):
            words.append(Words(left + indent, y, line, font, WARNING))
            y += line_height(font)
    return words, y + (round(font.size) if words else 0)
