import numpy as np

from camscope.acquisition.property import centre, grey, margins, reduced, resized, without
from camscope.images.picture import Picture


def test_a_picture_is_reduced_by_means_of_blocks():
    pixels = np.random.default_rng(0).random((9, 13, 2), dtype=np.float32)
    small = reduced(Picture(pixels), 4)
    assert small.size == (3, 4)
    np.testing.assert_allclose(small.pixels[1, 2], pixels[3:6, 6:9].mean((0, 1)), rtol=1e-6)
    assert small.bits == 16
    assert reduced(Picture(pixels), 7) is not None
    assert reduced(Picture(pixels), 7).size == (9, 13)


def test_a_region_is_filled_in_from_around_it():
    pixels = np.full((30, 30, 1), 0.2, np.float32)
    pixels[:, 15:] = 0.6
    damaged = pixels.copy()
    damaged[10:15, 4:9] = 1.0
    region = damaged[..., 0] == 1.0
    filled = without(Picture(damaged), region)
    np.testing.assert_allclose(filled.pixels[region], 0.2, atol=0.02)
    np.testing.assert_array_equal(filled.pixels[~region], pixels[~region])
    everything = np.ones((30, 30), bool)
    assert without(Picture(pixels), everything).pixels is pixels


def test_margins_are_lines_of_one_tone():
    values = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    values[:3], values[-5:], values[:, :7] = 0, 0, 0
    assert margins(values) == (3, 5, 7, 0)
    assert margins(np.zeros((8, 8), np.float32)) == (0, 0, 0, 0)


def test_grey_values_and_the_middle():
    pixels = np.zeros((10, 20, 3), np.float32)
    pixels[..., 1] = 1
    np.testing.assert_allclose(grey(Picture(pixels)), 0.587, rtol=1e-6)
    assert grey(Picture(np.ones((4, 4, 7), np.float32))).shape == (4, 4)
    assert centre(grey(Picture(pixels))).shape == (6, 12)
    assert resized(grey(Picture(pixels)), (5, 4)).shape == (5, 4)
