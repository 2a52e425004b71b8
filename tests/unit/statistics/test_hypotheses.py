import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from camscope.errors import SettingError
from camscope.statistics.hypotheses import (
    benjamini_hochberg,
    holm,
    max_statistic,
    patient_index,
    patient_means,
    sign_flip,
    tost,
)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_patients_are_numbered_as_they_appear():
    assert patient_index(["p9", 3, "p9", None, 3]).tolist() == [0, 1, 0, 2, 1]
    assert patient_index(np.array([7, 5, 7])).tolist() == [0, 1, 0]
    assert patient_index([]).shape == (0,)


def test_patient_means_of_numbers_and_maps(draw):
    patients = draw.permutation(np.repeat(list("abcd"), [1, 2, 3, 4]))
    maps = draw.normal(size=(10, 3, 2))
    means = patient_means(maps, patients)
    for row, patient in zip(means, dict.fromkeys(patients), strict=True):
        assert row == pytest.approx(maps[patients == patient].mean(0))
    assert patient_means(maps[:, 0, 0], patients) == pytest.approx(means[:, 0, 0])


def test_patient_means_leave_nan_out():
    means = patient_means([1, np.nan, np.nan, 5], ["a", "a", "b", "a"])
    assert means[0] == 3
    assert np.isnan(means[1])
    assert patient_means([], []).shape == (0,)


def test_an_id_for_each_value():
    with pytest.raises(SettingError, match="3 values and 2 patient ids"):
        patient_means([1, 2, 3], ["a", "b"])


def test_sign_flip_is_exact_for_few_patients(draw):
    effects = draw.normal(0.5, 1, 8)
    sums = [abs(np.dot(signs, effects)) for signs in itertools.product([1, -1], repeat=8)]
    expected = np.mean(np.array(sums) >= abs(effects.sum()) - 1e-12)
    assert sign_flip(effects, seed=0) == pytest.approx(expected, abs=1e-12)
    assert sign_flip(effects, seed=0) == sign_flip(effects, seed=1)


def test_sign_flip_by_sampling_comes_close_to_exact_and_to_scipy(draw):
    effects = draw.normal(0.5, 1, 12)
    exact = sign_flip(effects, seed=0)
    assert sign_flip(effects, seed=0, replicates=4000) == pytest.approx(exact, abs=0.02)
    theirs = stats.permutation_test((effects,), np.mean, permutation_type="samples", n_resamples=10_000)
    assert exact == pytest.approx(theirs.pvalue, abs=1e-9)


def test_sign_flip_of_a_clear_effect_is_the_smallest_p_there_is(draw):
    assert sign_flip(draw.normal(3, 1, 70), seed=0, replicates=999) == 1 / (20 * 999 + 1)
    assert sign_flip([1.0] * 12, seed=0, replicates=999) == 2 / 2**12  # then all sign vectors are used


def test_sign_flip_has_a_sign_on_both_sides_and_a_seed(draw):
    effects = draw.normal(0.2, 1, 30)
    p = sign_flip(effects, seed=3, replicates=999)
    assert p == sign_flip(-effects, seed=3, replicates=999) == sign_flip(1e6 * effects, seed=3, replicates=999)
    assert len({sign_flip(effects, seed=seed, replicates=999) for seed in range(5)}) > 1


def test_sign_flip_without_effect_or_patients():
    assert sign_flip(np.zeros(20), seed=0, replicates=99) == 1
    assert sign_flip([0.3], seed=0) == 1
    assert np.isnan(sign_flip([np.nan], seed=0))
    assert sign_flip([1, 2, 3, np.nan], seed=0) == sign_flip([1, 2, 3], seed=0) == 0.25
    with pytest.raises(SettingError, match="replicates is 0"):
        sign_flip([1, 2], seed=0, replicates=0)


def test_max_statistic_is_what_t_tests_on_flipped_maps_give(draw):
    maps = draw.normal(0.4, 1, size=(7, 2, 3))
    t = np.abs(stats.ttest_1samp(maps, 0).statistic)
    highest = [
        np.abs(stats.ttest_1samp(np.array(signs)[:, None, None] * maps, 0).statistic).max()
        for signs in itertools.product([1, -1], repeat=7)
    ]
    expected = (np.array(highest)[:, None, None] >= t - 1e-9).mean(0)
    assert max_statistic(maps, seed=0) == pytest.approx(expected, abs=1e-12)


def test_max_statistic_finds_the_planted_cell_and_bounds_the_family(draw):
    rejected = 0
    for seed in range(200):
        maps = draw.normal(size=(20, 5, 5))
        rejected += bool((max_statistic(maps, seed=seed, replicates=199) <= 0.05).any())
        maps[:, 2, 2] += 2
        assert max_statistic(maps, seed=seed, replicates=199)[2, 2] <= 0.05
    assert stats.binomtest(rejected, 200, 0.05).pvalue > 0.01


def test_max_statistic_of_one_cell_is_the_sign_flip_test(draw):
    effects = draw.normal(0.5, 1, 10)
    assert max_statistic(effects[:, None, None], seed=0)[0, 0] == pytest.approx(sign_flip(effects, seed=0))


def test_max_statistic_of_empty_and_unseen_cells(draw):
    maps = draw.normal(1, 1, size=(20, 2, 2))
    maps[:, 0, 0] = 0
    maps[3, 0, 1] = np.nan
    p = max_statistic(maps, seed=0, replicates=99)
    assert p[0, 0] == 1
    assert np.isnan(p[0, 1])
    assert (p[1] < 0.1).all()
    assert (max_statistic(np.empty((0, 2, 2)), seed=0) == 1).all()


def test_tost_equals_statsmodels(draw):
    effects = draw.normal(0.02, 0.2, 25)
    for delta in (0.05, 0.1, 0.3):
        theirs = ttost_paired(effects, np.zeros(25), -delta, delta)[0]
        assert tost(effects, delta=delta).p == pytest.approx(theirs, abs=1e-9)


def test_tost_passes_from_the_smallest_delta_on(draw):
    effects = draw.normal(-0.1, 0.5, 70)
    smallest = tost(effects, delta=0.1).smallest_delta
    assert tost(effects, delta=smallest).p == pytest.approx(0.05)
    assert tost(effects, delta=smallest * 1.01).p < 0.05 < tost(effects, delta=smallest * 0.99).p


def test_tost_without_spread_or_patients():
    assert tost([0.05] * 4, delta=0.1).p == 0
    assert tost([0.2] * 4, delta=0.1).p == 1
    assert tost([0.2] * 4, delta=0.1).smallest_delta == pytest.approx(0.2)
    assert np.isnan(tost([0.2, np.nan], delta=0.1).p)
    with pytest.raises(SettingError, match="above 0"):
        tost([0, 1], delta=0)


@pytest.mark.parametrize(("ours", "name"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_adjusted_p_equal_statsmodels(ours, name, draw):
    for size in (1, 2, 5, 40):
        p = draw.random(size) ** 3
        p[size // 2] = p[0]
        assert ours(p) == pytest.approx(multipletests(p, method=name)[1], abs=1e-12)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_tests_that_were_not_made_do_not_count(adjust):
    p = np.array([[0.01, np.nan], [0.2, 0.02]])
    adjusted = adjust(p)
    assert adjusted.shape == p.shape
    assert np.isnan(adjusted[0, 1])
    assert adjusted[~np.isnan(p)] == pytest.approx(adjust([0.01, 0.2, 0.02]))
    assert p[0, 0] == 0.01
    assert adjust([]).shape == (0,)
    assert np.isnan(adjust([np.nan])).all()
