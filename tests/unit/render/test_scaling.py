"""Display scaling says what it did, and never makes content out of nothing."""

import warnings

import numpy as np
import pytest

from camscope.errors import SettingError
from camscope.render import scale

MAP = np.array([[-1.0, 0.0], [1.0, 3.0]], np.float32)


@pytest.mark.parametrize(
    ("how", "expected", "limits"),
    [
        ("minmax", [[0, 0.25], [0.5, 1]], (-1, 3)),
        ("max", [[0, 0], [1 / 3, 1]], (0, 3)),
        ("fixed:0,6", [[0, 0], [1 / 6, 0.5]], (0, 6)),
        ("fixed:-1,1", [[0, 0.5], [1, 1]], (-1, 1)),
        ("fixed: -2e0 , 2", [[0.25, 0.5], [0.75, 1]], (-2, 2)),
    ],
)
def test_each_scale(how, expected, limits):
    values, found = scale(MAP, how)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert found == limits


def test_percentile_ignores_the_outliers():
    heatmap = np.arange(1001, dtype=np.float32)
    heatmap[-1] = 1e6
    values, (low, high) = scale(heatmap, "percentile")
    assert (low, high) == (10, 990)
    np.testing.assert_allclose(values[[0, 10, 500, 990, 1000]], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_percentile_keeps_a_single_small_spot():
    heatmap = np.zeros((100, 100))
    heatmap[3, 4] = 2
    values, limits = scale(heatmap, "percentile")
    assert limits == (0, 2)
    assert values[3, 4] == 1
    assert values.sum() == 1


@pytest.mark.parametrize("how", ["minmax", "max", "percentile"])
@pytest.mark.parametrize("level", [0.0, 7.0, -3.0, 1e-20])
def test_a_flat_map_stays_empty(how, level):
    heatmap = np.full((8, 8), level, np.float32)
    heatmap[2] = np.nextafter(np.float32(level), np.float32(np.inf)) if level > 1e-10 else level  # rounding
    values, limits = scale(heatmap, how)
    assert not values.any()
    assert limits[0] <= limits[1]


def test_a_negative_map_on_a_scale_from_zero_is_empty():
    values, limits = scale(-MAP - 4, "max")
    assert not values.any()
    assert limits == (0, 0)


def test_a_flat_map_on_a_fixed_scale_shows_its_level():
    assert scale(np.full((2, 2), 0.3), "fixed:0,1")[0] == pytest.approx(0.3)


def test_very_small_maps_are_not_flat():
    values, limits = scale(MAP * np.float32(1e-30), "minmax")
    np.testing.assert_allclose(values, [[0, 0.25], [0.5, 1]], rtol=1e-6)
    assert limits[1] == pytest.approx(3e-30)


@pytest.mark.parametrize("how", ["minmax", "max", "percentile", "fixed:0,3"])
def test_nan_is_shown_as_zero(how):
    heatmap = MAP.copy()
    heatmap[0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, limits = scale(heatmap, how)
        nothing, no_limits = scale(np.full((2, 2), np.nan), how)
    assert values[0, 0] == 0
    assert np.isfinite(values).all()
    assert np.isfinite(limits).all()
    assert not nothing.any()
    assert np.isfinite(no_limits).all()


def test_the_map_itself_is_left_alone_and_may_have_three_axes():
    heatmap = np.stack([MAP, MAP + 1]).astype(np.float64)
    before = heatmap.copy()
    assert scale(heatmap, "minmax")[0].shape == (2, 2, 2)
    np.testing.assert_array_equal(heatmap, before)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("minimax", "no scale called 'minimax'; expected minmax, max"),
        ("fixed", "two numbers"),
        ("fixed:LO,HI", "two numbers"),
        ("fixed:1", "two numbers"),
        ("fixed:1,2,3", "two numbers"),
        ("fixed:2,1", "lower number before a higher"),
        ("fixed:1,1", "lower number before a higher"),
        ("fixed:0,inf", "lower number before a higher"),
        ("fixed:nan,1", "lower number before a higher"),
        ("minmax:0,1", "no scale called"),
    ],
)
def test_what_is_no_scale(how, says):
    with pytest.raises(SettingError, match=says):
        scale(MAP, how)
