import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from camscope.errors import SettingError
from camscope.statistics.hypotheses import sign_flip, tost
from camscope.statistics.power import detectable, patients_to_exclude, patients_to_show


@pytest.mark.parametrize("patients", [8, 20, 70, 5000])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_it_equals_statsmodels(patients, level):
    theirs = TTestPower().solve_power(nobs=patients, alpha=level, power=0.8)
    assert detectable(1.0, patients, level=level) == pytest.approx(theirs, rel=1e-4)
    assert detectable(0.3, patients, level=level) == pytest.approx(0.3 * theirs, rel=1e-4)


@pytest.mark.parametrize("patients", [8, 70, 100_000])
def test_it_is_found_at_very_small_levels(patients):
    levels = [0.05 / k for k in (1, 2, 100, 10_000)]
    found = [detectable(1.0, patients, level=level, replicates=10**9) for level in levels]
    assert found == sorted(found)
    assert not np.isnan(found).any()


def test_a_sign_flip_test_has_that_power():
    draw = np.random.default_rng(0)
    effect = detectable(1.0, 25, level=0.02)
    p = [sign_flip(effect + draw.normal(size=25), seed=seed, replicates=999) for seed in range(400)]
    assert np.mean(np.array(p) < 0.02) == pytest.approx(0.8, abs=0.06)


def test_where_no_p_is_small_enough_no_effect_is_shown():
    assert sign_flip(np.full(7, 100.0), seed=0) == 2.0**-6
    assert detectable(1.0, 7, level=0.01) == np.inf
    assert np.isfinite(detectable(1.0, 7, level=0.02))
    assert detectable(1.0, 70, level=0.005, replicates=99) == np.inf


def test_odd_numbers():
    assert detectable(0.0, 20) == 0
    assert np.isnan(detectable(float("nan"), 20))
    assert np.isnan(detectable(1.0, 1))
    for level, power in ((0.0, 0.8), (0.05, 1.0), (0.9, 0.8)):
        with pytest.raises(SettingError, match="level"):
            detectable(1.0, 20, level=level, power=power)


@pytest.mark.parametrize("size", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 200])
def test_one_patient_fewer_has_too_little_power(size, level):
    needed = patients_to_show(-2 * size, 2.0, level=level)
    power, less = (
        stats.nct.sf(stats.t.isf(level / 2, m - 1), m - 1, size * math.sqrt(m)) for m in (needed, needed - 1)
    )
    fewest = math.ceil(1 - math.log2(level))  # of a sign-flip test
    assert power >= 0.8
    assert less < 0.8 or needed == fewest


def test_patients_to_exclude_an_effect_have_the_power():
    draw = np.random.default_rng(0)
    m = patients_to_exclude(0.3, 0.1, 1.0)
    passed = [tost(0.1 + draw.standard_normal(m), delta=0.3).p < 0.05 for _ in range(2000)]
    assert np.mean(passed) == pytest.approx(0.8, abs=0.03)
