"""No line is ever wider than its place, whatever the words."""

import numpy as np
import pytest
from PIL import Image

from camscope.render.text import INK, Words, clean, face, wrap, write

TEXTS = [
    "a few short words that are wrapped",
    "x" * 500,
    "a/very/long/path/without/any/space/" * 20,
    "Пневмония " * 30,
    "العربية " * 30,
    "肺炎" * 200,
    "😀" * 50,
    "tabs\tand\nlines\x00and \udc80 surrogates \u202e turned",
    "",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("width", [40, 200, 900])
def test_wrapped_lines_fit_and_can_be_drawn(text, width):
    font = face(14)
    lines = wrap(text, font, width=width, lines=3)
    assert len(lines) <= 3
    assert all(font.getlength(line) <= width for line in lines)
    canvas = Image.new("RGB", (width, 80), "white")
    write(canvas, [Words(0, 20 * n, line, font, INK) for n, line in enumerate(lines)])
    assert (np.asarray(canvas).min() < 128) == bool(text)


def test_nothing_is_lost_where_there_is_room():
    text = "all of these words, and-one-compound/word, are still there"
    assert "".join(wrap(text, face(12), width=60, lines=99)).replace(" ", "") == text.replace(" ", "")


def test_what_is_left_out_is_marked():
    assert wrap("one two three four five six", face(12), width=60, lines=2)[-1].endswith("…")
    assert wrap("one", face(12), width=60, lines=2) == ["one"]


def test_long_names_break_after_a_mark():
    assert wrap("n01537544_indigo_bunting.JPEG", face(14), width=190, lines=2) == ["n01537544_indigo_", "bunting.JPEG"]


def test_bold_is_wider():
    assert face(20, bold=True).getlength("camscope") > face(20).getlength("camscope")


def test_control_characters_are_replaced():
    assert clean(" a\x1b[31m \r\n\tb\x7f ") == "a [31m b"
