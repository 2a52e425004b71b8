"""Colours mean what they say, and stay where the network looked."""

import colorsys

import matplotlib as mpl
import numpy as np
import pytest

from camscope.errors import SettingError
from camscope.images import Picture, Window
from camscope.render import COLOUR_MAPS, colourise, grey, overlay

RANDOM = np.random.default_rng(0)
LEVELS = np.arange(256)[None] / 255


def hue(rgb):
    """Degrees: red 0, yellow 60, green 120, blue 240."""
    return 360 * colorsys.rgb_to_hsv(*(rgb / 255))[0]


def test_byr_is_blue_then_yellow_then_red():
    low, medium, high = colourise(np.array([[0.0, 0.5, 1.0]]))[0]
    assert 215 < hue(low) < 250
    assert 45 < hue(medium) < 62
    assert hue(high) > 345 or hue(high) < 10


def test_byr_is_never_muddy_and_never_jumps():
    table = colourise(LEVELS)[0].astype(float)
    assert np.abs(np.diff(table, axis=0)).max() < 12
    assert len(np.unique(table, axis=0)) == 256
    # Muddy is dark and of little colour at once.
    saturation, value = (table.max(1) - table.min(1)) / table.max(1), table.max(1) / 255
    assert (saturation + 2 * value).min() > 1.9


def test_other_maps_are_matplotlibs():
    for name in (*COLOUR_MAPS[1:], "RdBu_r", "tab10"):
        expected = mpl.colormaps[name](np.linspace(0, 1, 256), bytes=True)[:, :3]
        np.testing.assert_array_equal(colourise(LEVELS, name)[0], expected, err_msg=name)


def test_out_of_range_and_nan():
    np.testing.assert_array_equal(colourise(np.array([[np.nan, -1, 2]])), colourise(np.array([[0.0, 0, 1]])))


def test_an_unknown_map_names_the_nearest():
    with pytest.raises(SettingError, match="no colour map called 'virdis'; nearest: 'viridis'"):
        colourise(LEVELS, "virdis")


def test_the_shared_table_cannot_be_changed():
    colourise(LEVELS)[:] = 0
    assert colourise(LEVELS).any()


def test_grey_is_the_map_not_the_photograph():
    image = grey(np.array([[0.0, 0.5, 1.0, np.nan]]))
    assert image.mode == "L"
    assert list(image.tobytes()) == [0, 128, 255, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_is_the_blend_of_picture_and_colours(channels):
    picture = Picture(RANDOM.random((5, 7, channels), np.float32))
    values = RANDOM.random((5, 7))
    before = picture.pixels.copy()
    for opacity in (0, 0.3, 1):
        image = np.asarray(overlay(picture, values, opacity=opacity), float)
        expected = (1 - opacity) * picture.rgb + opacity * colourise(values)
        np.testing.assert_allclose(image, expected, atol=0.51)
    np.testing.assert_array_equal(picture.pixels, before)


@pytest.mark.parametrize(
    ("start", "extent", "rows", "columns"),
    [((1, 2), (3, 4), slice(1, 4), slice(2, 6)), ((-2, 0), (12, 4), slice(0, 8), slice(0, 4))],
)
def test_what_the_network_did_not_see_stays_uncoloured(start, extent, rows, columns):
    picture = Picture(np.full((8, 8, 3), 0.5, np.float32))
    image = np.asarray(overlay(picture, np.ones((8, 8)), window=Window((8, 8), start, extent)))
    coloured = (image != picture.rgb).any(-1)
    expected = np.zeros((8, 8), bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(coloured, expected)


def test_what_cannot_be_overlaid():
    picture = Picture(np.zeros((4, 6, 1), np.float32))
    with pytest.raises(SettingError, match=r"\(6, 4\) does not fit .* \(4, 6\)"):
        overlay(picture, np.zeros((6, 4)))
    for opacity in (-0.1, 1.1, np.nan):
        with pytest.raises(SettingError, match="opacity"):
            overlay(picture, np.zeros((4, 6)), opacity=opacity)
