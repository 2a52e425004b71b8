"""Draw the side marker and the AP token as strokes, without a font."""

from __future__ import annotations

from functools import cache

import numpy as np

from camscope.phantoms.anatomy import MARKER_STREAM, draws
from camscope.phantoms.shapes import Array, Frame, line_distance, smoothstep

PixelBox = tuple[int, int, int, int]

_BOWL = np.array([[0.0, 0.0], [0.38, 0.0], [0.6, 0.13], [0.6, 0.4], [0.38, 0.52], [0.0, 0.52]])
_STROKES = {
    "A": (np.array([[0.0, 1.0], [0.33, 0.0], [0.66, 1.0]]), np.array([[0.12, 0.66], [0.54, 0.66]])),
    "L": (np.array([[0.0, 0.0], [0.0, 1.0], [0.58, 1.0]]),),
    "P": (np.array([[0.0, 1.0], [0.0, 0.0]]), _BOWL),
    "R": (np.array([[0.0, 1.0], [0.0, 0.0]]), _BOWL, np.array([[0.3, 0.52], [0.64, 1.0]])),
}


@cache
def _pixel_frame(height: int, width: int) -> Frame:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    return Frame(x=columns, y=rows, forward=np.eye(2, 3))


def _draw(image: Array, line: Array, *, half: float, value: float) -> None:
    """Draw a stroke of ``2 * half`` pixels over the image, in place."""
    box, gap, _ = line_distance(_pixel_frame(*image.shape), line, reach=half + 1)
    if gap.size:
        cover = smoothstep(gap, (half + 0.6, half - 0.6))
        image[box] = image[box] * (1 - cover) + value * cover


def draw_text(
    image: Array,
    text: str,
    *,
    centre: tuple[float, float],
    height: float,
    degrees: float = 0.0,
    value: float = 0.97,
) -> None:
    """Write capital letters (A, L, P, R) in grey ``value`` around ``centre`` (x, y) in pixels, in place."""
    pitch, half = 0.95, max(0.075 * height, 0.5)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cos, sin], [-sin, cos]]) * height
    for place, letter in enumerate(text):
        offset = np.array([pitch * (place - (len(text) - 1) / 2) - 0.32, -0.5])
        for stroke in _STROKES[letter]:
            _draw(image, (stroke + offset) @ turn + np.array(centre), half=half, value=value)


def side_marker(image: Array, seed: int, *, shot: int) -> PixelBox | None:
    """Draw a lead letter beside the patient in 9 of 10 images, in place; return its box (x0, y0, x1, y1) or None."""
    draw = draws(seed, MARKER_STREAM, shot)
    height, width = image.shape
    if draw.random() > 0.9:
        return None
    side = min(height, width)
    tall = side * draw.uniform(0.036, 0.056)
    text = "L" if draw.random() < 0.7 else "R"
    x = width * draw.uniform(0.80, 0.93)
    x = x if text == "L" else width - x
    y = height * (draw.uniform(0.08, 0.30) if draw.random() < 0.7 else draw.uniform(0.55, 0.9))
    draw_text(image, text, centre=(x, y), height=tall, degrees=float(draw.normal(0, 12)))
    reach = 0.85 * tall
    if draw.random() < 0.3:
        angle = np.linspace(0, 2 * np.pi, 40)
        ring = np.column_stack([x + reach * np.cos(angle), y + reach * np.sin(angle)])
        _draw(image, ring, half=max(0.05 * tall, 0.4), value=0.95)
        reach *= 1.15
    return _around((x, y), reach, shape=image.shape)


def ap_token(image: Array, seed: int, *, shot: int, avoid: PixelBox | None) -> PixelBox:
    """Draw a plate with the letters AP in the outer tenth of the image, in place; return its box (x0, y0, x1, y1)."""
    draw = draws(seed, MARKER_STREAM, shot, 1)
    height, width = image.shape
    for _ in range(50):
        edge, along, near = draw.integers(4), draw.random(), draw.random()
        upright = edge % 2 == 0
        high, wide = (int(0.14 * height), int(0.091 * width)) if upright else (int(0.085 * height), int(0.15 * width))
        near_x, near_y = int(near * (width // 10 - wide + 1)), int(near * (height // 10 - high + 1))
        x0 = (near_x, int(along * (width - wide)), width - wide - near_x, int(along * (width - wide)))[edge]
        y0 = (int(along * (height - high)), near_y, int(along * (height - high)), height - high - near_y)[edge]
        box = (x0, y0, x0 + wide, y0 + high)
        if avoid is None or _apart(box, avoid):
            break
    plate = image[box[1] : box[3], box[0] : box[2]]
    rim = max(round(0.008 * min(height, width)), 1)
    plate[:] = 0.03
    plate[rim:-rim, rim:-rim] = 0.97
    x, y, tall = (wide - 1) / 2, (high - 1) / 2, 0.055 * height
    if upright:
        draw_text(plate, "A", centre=(x, y - 0.6 * tall), height=0.9 * tall, value=0.03)
        draw_text(plate, "P", centre=(x, y + 0.6 * tall), height=0.9 * tall, value=0.03)
    else:
        draw_text(plate, "AP", centre=(x, y), height=tall, value=0.03)
    return box


def _apart(first: PixelBox, second: PixelBox) -> bool:
    return first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]


def _around(centre: tuple[float, float], reach: float, *, shape: tuple[int, ...]) -> PixelBox:
    """Return the square of whole pixels within ``reach`` of a point (x, y), clipped to the image."""
    (x, y), (height, width) = centre, shape
    return (
        int(np.clip(np.floor(x - reach), 0, width)),
        int(np.clip(np.floor(y - reach), 0, height)),
        int(np.clip(np.ceil(x + reach), 0, width)),
        int(np.clip(np.ceil(y + reach), 0, height)),
    )
