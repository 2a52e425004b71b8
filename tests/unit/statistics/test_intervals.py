import numpy as np
import pytest
from scipy import stats

from camscope.errors import SettingError
from camscope.statistics import intervals
from camscope.statistics.hypotheses import patient_means
from camscope.statistics.intervals import _without, bootstrap, exact_interval, ratio


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_the_estimate_is_the_mean_of_patient_means(draw):
    patients = np.repeat(np.arange(10), draw.integers(1, 5, 10))
    values = draw.normal(size=len(patients))
    found = bootstrap(values, patients, seed=0, replicates=99)
    assert found.estimate == pytest.approx(patient_means(values, patients).mean())
    cases = bootstrap(values, patients, seed=0, replicates=99, weigh="cases")
    assert cases.estimate == pytest.approx(values.mean())


def test_the_interval_is_bca_with_wider_levels(draw):
    values = draw.exponential(size=25)
    ours = bootstrap(values, np.arange(25), seed=0, replicates=20_000)
    wider = 2 * stats.norm.cdf(stats.t.ppf(0.975, 24) * np.sqrt(25 / 24)) - 1
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=wider, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_for_many_patients_it_is_the_usual_interval(draw):
    patients = np.repeat(np.arange(400), 2)
    values = draw.normal(size=400)[patients] + draw.normal(size=800)
    found = bootstrap(values, patients, seed=0, replicates=5000)
    means = patient_means(values, patients)
    usual = stats.t.interval(0.95, 399, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx(usual, abs=0.02)


def test_images_of_one_patient_add_little(draw):
    values = draw.normal(size=30)
    few = bootstrap(values, np.arange(30), seed=0, replicates=999)
    many = bootstrap(np.repeat(values, 20), np.repeat(np.arange(30), 20), seed=0, replicates=999)
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


def test_the_order_of_cases_does_not_matter(draw):
    patients, values = np.repeat(np.arange(15), 3), draw.normal(size=45)
    within = np.concatenate([3 * p + draw.permutation(3) for p in range(15)])
    one = bootstrap(values, patients, seed=0, replicates=500)
    other = bootstrap(values[within], patients[within], seed=0, replicates=500)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_a_ratio_of_means(draw):
    patients = np.repeat(np.arange(40), 3)
    area = 0.1 + 0.1 * draw.random(40)[patients]
    mass = 1.5 * area * np.exp(0.2 * draw.normal(size=120) - 0.02)
    found = bootstrap(np.column_stack([mass, area]), patients, statistic=ratio, seed=0, replicates=999)
    assert found.estimate == pytest.approx(patient_means(mass, patients).mean() / patient_means(area, patients).mean())
    assert 1 < found.low < 1.5 < found.high < 2


def test_nan_cases_are_left_out_and_seeds_decide(draw):
    values, patients = draw.normal(size=40), np.repeat(np.arange(20), 2)
    values[::7] = np.nan
    kept = ~np.isnan(values)
    one = bootstrap(values, patients, seed=0, replicates=500)
    assert one == bootstrap(values[kept], patients[kept], seed=0, replicates=500)
    assert one != bootstrap(values, patients, seed=1, replicates=500)


def test_too_few_patients_have_no_interval():
    one = bootstrap([1, 2, 3], ["a", "a", "a"], seed=0, replicates=99)
    assert one.estimate == 2
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(bootstrap([np.nan], ["a"], seed=0).estimate)
    assert np.isnan(bootstrap([], [], seed=0).estimate)
    same = bootstrap([2, 2, 2], ["a", "b", "c"], seed=0, replicates=99)
    assert same.low == same.high == same.estimate == 2


def test_replicates_without_a_value_are_left_out():
    def positive_share(values, weights):
        total = weights @ (values > 0)
        return np.where(total >= 1, total, np.nan)

    often = bootstrap([1, 1, 1, 0], range(4), statistic=positive_share, seed=0, replicates=999)
    assert 1 <= often.low <= often.high <= 4
    seldom = bootstrap([1] + [0] * 2, range(3), statistic=lambda v, w: positive_share(v, w - 1), seed=0, replicates=999)
    assert np.isnan([seldom.low, seldom.high]).all()


def test_exact_interval_holds_what_a_binomial_test_does_not_reject():
    found = exact_interval(3, 20)
    assert found.estimate == 0.15
    assert stats.binom.sf(2, 20, found.low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 20, found.high) == pytest.approx(0.025)
    assert exact_interval(0, 60).low == 0
    assert exact_interval(0, 60, level=0.9).high == pytest.approx(1 - 0.05 ** (1 / 60))
    for impossible in ((4, 3), (-1, 3), (0, 0)):
        with pytest.raises(SettingError, match="successes"):
            exact_interval(*impossible)


def test_of_many_patients_groups_are_left_out(draw, monkeypatch):
    values, patients = draw.exponential(size=1200), np.repeat(np.arange(600), 2)
    each = bootstrap(values, patients, seed=0, replicates=999)
    weights = np.concatenate([*_without(600, rows=7)])
    assert (weights == 1 - np.eye(600)).all()
    monkeypatch.setattr(intervals, "_GROUPS", 100)
    groups = np.concatenate([*_without(600, rows=7)])
    assert groups.shape == (100, 600)
    assert (groups.sum(1) == 594).all()
    assert (groups.sum(0) == 99).all(), "each patient is left out once"
    found = bootstrap(values, patients, seed=0, replicates=999)
    assert (found.low, found.high) == pytest.approx((each.low, each.high), abs=0.1 * (each.high - each.low))
