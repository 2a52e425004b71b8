"""Margins with straight edges are found where they are, and nothing else is taken for one."""

import numpy as np
import pytest

from camscope.cohort.collimation import open_field

SIZE = (120, 160)


def content(seed=0):
    return np.random.default_rng(seed).uniform(0.3, 0.8, SIZE).astype(np.float32)


@pytest.mark.parametrize("tone", [0.0, 1.0])
def test_bars_are_found_to_the_pixel(tone):
    grey = content()
    grey[:10], grey[:, :7], grey[:, -20:] = tone, tone, tone
    truth = np.zeros(SIZE, bool)
    truth[10:, 7:-20] = True
    np.testing.assert_array_equal(open_field(grey), truth)
    inside = np.zeros(SIZE, bool)
    inside[14:, 11:-24] = True
    np.testing.assert_array_equal(open_field(grey, rim=4 / 120), inside)


def test_letters_in_a_bar_do_not_hide_it():
    grey = content()
    grey[:, :20] = 0
    grey[30:42, 5:15] = 1
    assert not open_field(grey)[:, :20].any()
    assert open_field(grey)[:, 20:].all()


@pytest.mark.parametrize("degrees", [-8, -3, 2, 6])
def test_tilted_blades(degrees):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    truth = columns >= 16 + np.tan(np.radians(degrees)) * (rows - 60)
    found = open_field(np.where(truth, content(), 0.02).astype(np.float32))
    assert (found != truth).mean() < 0.01


def test_what_is_no_margin():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    round_body = np.hypot(rows - 60, columns - 80) < 45
    ramp = (columns / 160).astype(np.float32)
    grey_bar = content()
    grey_bar[:, :20] = 0.5
    for picture in (content(), np.where(round_body, content(), 0.0), ramp, grey_bar, np.zeros(SIZE), np.ones(SIZE)):
        assert open_field(picture.astype(np.float32)).all()
