"""A contact sheet of whatever comes."""

import numpy as np
import pytest
from PIL import Image

from camscope.errors import SettingError
from camscope.render import Cell, sheet

RED, LIME = (255, 0, 0), (0, 255, 0)


def extent(image, colour):
    hits = (np.asarray(image) == colour).all(-1)
    rows, columns = np.flatnonzero(hits.any(1)), np.flatnonzero(hits.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_pictures_are_fitted_in_and_never_distorted():
    image = sheet([[Cell(Image.new("RGB", (400, 200), RED)), Cell(Image.new("RGB", (10, 10), LIME))]], cell_width=100)
    top, bottom, left, right = extent(image, RED)
    assert (bottom - top, right - left) == (50, 100)
    top, bottom, left, right = extent(image, LIME)
    assert (bottom - top, right - left) == (100, 100)


def test_rows_do_not_overlap_and_the_border_stays_empty():
    red, lime = (
        Cell(Image.new("RGB", (30, 90), RED), "long caption " * 40),
        Cell(Image.new("L", (90, 30), 128), "x" * 400),
    )
    image = sheet(
        [[red, lime], [Cell(None, "failed"), Cell(Image.new("RGB", (50, 50), LIME))]],
        column_headings=["a heading that is long " * 9, ""],
        row_headings=["one " * 90, "two"],
        title="title " * 99,
    )
    assert extent(image, RED)[1] < extent(image, LIME)[0]
    pixels = np.asarray(image)
    for edge in (pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:]):
        assert (edge == 255).all()


def test_rows_of_different_length():
    cell = Cell(Image.new("RGB", (10, 10), RED))
    assert sheet([[cell], [cell, cell, cell], []]).size == sheet([[cell] * 3, [cell], []]).size


@pytest.mark.parametrize("rows", [[], [[]]])
def test_nothing_to_show(rows):
    with pytest.raises(SettingError, match="at least one"):
        sheet(rows)


def test_headings_that_do_not_fit():
    cell = Cell(Image.new("RGB", (10, 10)))
    with pytest.raises(SettingError, match="3 column headings do not fit on 2 columns"):
        sheet([[cell, cell]], column_headings=["a", "b", "c"])
    with pytest.raises(SettingError, match="2 row headings do not fit on 1 rows"):
        sheet([[cell, cell]], row_headings=["a", "b"])
