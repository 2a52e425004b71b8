"""Fill-ins with known answers, and shams that touch nothing that they must not."""

import numpy as np
import pytest
from scipy import ndimage

from camscope.cohort.fill_ins import FILL_INS, sham
from camscope.errors import SettingError

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((4, 3, 24, 30)).astype(np.float32)
DONOR = RANDOM.standard_normal((3, 24, 30)).astype(np.float32)
MEAN = RANDOM.standard_normal((3, 24, 30)).astype(np.float32)
PATCH = np.zeros((24, 30), bool)
PATCH[5:12, 8:20] = True
RING = np.ones((24, 30), bool)
RING[3:-3, 4:-4] = False


def without_noise(x, mask, **given):
    """The mean over many seeds leaves the imputation itself."""
    return np.mean([FILL_INS["impute"](x, mask, seed=seed, **given) for seed in range(40)], axis=0)


@pytest.mark.parametrize("name", FILL_INS)
def test_every_fill_in_changes_the_region_and_nothing_else(name):
    before = X.copy()
    filled = FILL_INS[name](X, RING, donor=DONOR, mean=MEAN, seed=3)
    np.testing.assert_array_equal(X, before)
    assert filled.dtype == np.float32
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[..., ~RING], X[..., ~RING])
    assert (filled[..., RING] != X[..., RING]).mean() > 0.99
    for one, alone in zip(X, filled, strict=True):
        np.testing.assert_allclose(FILL_INS[name](one, RING, donor=DONOR, mean=MEAN, seed=3), alone, atol=1e-5)


@pytest.mark.parametrize("name", FILL_INS)
def test_nothing_of_the_region_is_left(name):
    other = np.where(RING, 1000 * X[::-1], X)
    kept, lost = (FILL_INS[name](x, RING, donor=DONOR, mean=MEAN) for x in (X, other.astype(np.float32)))
    np.testing.assert_array_equal(kept, lost)


@pytest.mark.parametrize("name", FILL_INS)
def test_padding_is_neither_used_nor_replaced(name):
    seen = np.zeros((24, 30), bool)
    seen[4:20] = True
    ring = RING.copy()
    ring[:8] = ring[16:] = True
    padded = np.where(seen, X, 50).astype(np.float32)
    filled = FILL_INS[name](padded, ring, donor=DONOR, mean=MEAN, visible=seen)
    assert (filled[..., ~seen] == 50).all()
    assert (filled[..., ring & seen] != X[..., ring & seen]).mean() > 0.99
    other = FILL_INS[name](X, ring, donor=DONOR, mean=MEAN, visible=seen)
    np.testing.assert_array_equal(filled[..., seen], other[..., seen])


def test_a_linear_ramp_is_imputed():
    rows, columns = np.mgrid[:24, :30].astype(np.float32)
    x = np.stack([2 * rows - columns + 3, 0.1 * columns, 0 * rows + 7])
    holed = np.where(PATCH, -99, x).astype(np.float32)
    spread = x[:, ~PATCH].std(axis=1)[:, None]
    filled = FILL_INS["impute"](holed, PATCH, seed=1)
    noise = (filled - x)[:, PATCH] / np.where(spread > 0, 0.01 * spread, 1)
    assert noise[:2].std(axis=1) == pytest.approx([1, 1], abs=0.25)
    np.testing.assert_allclose(noise[2], 0, atol=1e-5)
    error = np.abs(without_noise(holed, PATCH) - x)[:, PATCH] / np.maximum(spread, 1)
    assert error.max() < 0.01  # 0.01 standard deviations of noise / sqrt(40), at its largest


def test_impute_solves_its_own_equation():
    """Every pixel of the region is the weighted mean of the neighbours that it has: ROAD's weights, 1/6 and 1/12."""
    kernel = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    for mask in (PATCH, RING, PATCH | (RANDOM.random((24, 30)) < 0.3)):
        x = X[0, 0].astype(np.float64)
        filled = without_noise(X[0], mask)[0]
        weight = ndimage.convolve(np.ones_like(x), kernel, mode="constant")
        neighbours = ndimage.convolve(filled, kernel, mode="constant") / weight
        assert np.abs(neighbours - filled)[mask].max() < 0.02 * x.std()


def test_a_region_on_the_frame_carries_on_what_is_inside():
    x = np.tile(np.arange(30, dtype=np.float32)[None, None], (1, 24, 1))
    mask = np.zeros((24, 30), bool)
    mask[:6] = True
    filled = without_noise(np.where(mask, -50, x).astype(np.float32), mask)
    assert filled.min() >= -0.1
    assert filled.max() <= 29.1
    np.testing.assert_allclose(filled[0, 5, 8:22], x[0, 5, 8:22], atol=0.3)


def test_blur_is_the_weighted_mean_of_what_surrounds_the_region():
    filled = FILL_INS["blur"](X[0], PATCH)
    rows, columns = np.mgrid[:24, :30]
    for row, column in ((5, 8), (8, 14), (11, 19)):
        weight = np.exp(-0.5 * (((rows - row) / 2.4) ** 2 + ((columns - column) / 3.0) ** 2)) * ~PATCH
        expected = (X[0] * weight).sum(axis=(1, 2)) / weight.sum()
        np.testing.assert_allclose(filled[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_donor_and_mean():
    np.testing.assert_array_equal(FILL_INS["donor"](X, PATCH, donor=DONOR), np.where(PATCH, DONOR, X))
    np.testing.assert_array_equal(FILL_INS["donor"](X, PATCH, donor=X[::-1]), np.where(PATCH, X[::-1], X))
    np.testing.assert_array_equal(FILL_INS["mean"](X, PATCH, mean=MEAN), np.where(PATCH, MEAN, X))
    colour = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(FILL_INS["mean"](X, PATCH, mean=colour), np.where(PATCH, colour[:, None, None], X))
    assert (FILL_INS["mean"](X, PATCH, mean=0.0)[..., PATCH] == 0).all()


def test_reflect_mirrors_at_the_inner_edge():
    filled = FILL_INS["reflect"](X, RING)
    np.testing.assert_array_equal(filled[..., 2, 4:-4], X[..., 3, 4:-4])
    np.testing.assert_array_equal(filled[..., 0, 4:-4], X[..., 5, 4:-4])
    np.testing.assert_array_equal(filled[..., 3:-3, -1], X[..., 3:-3, -8])
    np.testing.assert_array_equal(filled[..., 0, 0], X[..., 5, 7])


@pytest.mark.parametrize(
    ("name", "mask", "given", "says"),
    [
        ("impute", np.zeros((24, 30), bool), {}, "leave some of it free"),
        ("blur", np.ones((24, 30), bool), {}, "leave some of it free"),
        ("impute", PATCH.T, {}, "does not fit"),
        ("impute", PATCH, {"visible": PATCH.T}, "does not fit"),
        ("impute", PATCH, {"visible": PATCH}, "leave some of it free"),
        ("donor", PATCH, {}, "given: none"),
        ("donor", PATCH, {"donor": DONOR[:1]}, r"given: one of shape \(1, 24, 30\)"),
        ("mean", PATCH, {}, "a mean is needed"),
        ("mean", PATCH, {"mean": [1.0, 2.0]}, "a mean is needed"),
        ("reflect", PATCH, {}, "leaves a box"),
    ],
)
def test_what_cannot_be_filled_in(name, mask, given, says):
    with pytest.raises(SettingError, match=says):
        FILL_INS[name](X, mask, **given)


def test_a_sham_has_the_shape_and_keeps_off():
    forbidden = np.zeros((24, 30), bool)
    forbidden[:, 24:] = True
    shape = PATCH[5:12, 8:20].copy()
    shape[2:4, 3:5] = False
    shape[-1, :4] = False
    mask = PATCH.copy()
    mask[5:12, 8:20] = shape
    places = set()
    for seed in range(200):
        moved = sham(mask, forbidden, seed=seed)
        assert not (moved & (mask | forbidden)).any()
        row, column = np.argwhere(moved.any(1))[0, 0], np.argwhere(moved.any(0))[0, 0]
        np.testing.assert_array_equal(moved[row : row + 7, column : column + 12], shape)
        assert moved.sum() == mask.sum()
        places.add((row, column))
        np.testing.assert_array_equal(moved, sham(mask, forbidden, seed=seed))
    possible = set()
    for row in range(24 - 6):
        for column in range(30 - 11):
            if not ((mask | forbidden)[row : row + 7, column : column + 12] & shape).any():
                possible.add((row, column))
    assert places <= possible
    assert len(places) > 0.6 * len(possible)


def test_parts_of_a_sham_move_as_one():
    two = np.zeros((10, 20), bool)
    two[1:3, 1:3] = two[1:3, 6:8] = True
    moved = sham(two, seed=4)
    labels, count = ndimage.label(moved)
    assert count == 2
    first, second = ndimage.find_objects(labels)
    assert first[0] == second[0]
    assert second[1].start - first[1].start == 5


def test_where_no_sham_fits_there_is_none():
    assert sham(RING) is None
    assert sham(PATCH, ~PATCH) is None
    with pytest.raises(SettingError, match="empty"):
        sham(np.zeros((4, 4), bool))
