import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from camscope.statistics.auc import auc_interval, clustered_auc
from camscope.statistics.clustered import difference, difference_p, share
from camscope.statistics.intervals import bootstrap


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def cohort(draw, m=40, images=3):
    """Images of patients who are alike within: success, patient."""
    patients = np.repeat(np.arange(m), images)
    return draw.random(len(patients)) < draw.beta(3, 1.5, m)[patients], patients


def everyone(patients):
    return np.ones(len(patients), bool)


def test_with_one_image_a_patient_it_is_wilsons_interval(draw):
    success = draw.random(50) < 0.7
    found = share(success, everyone(success), np.arange(50)).interval()
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, 49))
    theirs = proportion_confint(success.mean() * 49, 49, alpha=alpha, method="wilson")
    assert (found.low, found.high) == pytest.approx(theirs)


def test_the_standard_error_is_that_of_a_regression_with_clusters(draw):
    success, patients = cohort(draw)
    found = share(success, everyone(success), patients)
    theirs = sm.OLS(success.astype(float), np.ones(len(success))).fit(cov_type="cluster", cov_kwds={"groups": patients})
    assert np.sqrt(40 / 39 * found.influence @ found.influence) == pytest.approx(theirs.bse[0])
    n, t = found.estimate * (1 - found.estimate) / theirs.bse[0] ** 2, stats.t.ppf(0.975, 39)
    ends = proportion_confint(found.estimate * n, n, alpha=2 * stats.norm.sf(t), method="wilson")
    assert (found.interval().low, found.interval().high) == pytest.approx(ends)


def test_copies_of_images_do_not_narrow_the_interval(draw):
    success, patients = cohort(draw, images=1)
    one = share(success, everyone(success), patients).interval()
    many = share(np.repeat(success, 9), np.ones(360, bool), np.repeat(patients, 9)).interval()
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


@pytest.mark.parametrize("value", [0, 1])
def test_at_the_ends_the_number_of_patients_decides(value):
    for images in (1, 5):
        patients = np.repeat(np.arange(12), images)
        found = share(np.full(len(patients), value), everyone(patients), patients).interval()
        t = stats.t.ppf(0.975, 11)
        reach = t**2 / (12 + t**2)
        assert (found.low, found.high) == pytest.approx((0, reach) if value == 0 else (1 - reach, 1))


def test_what_has_no_interval_has_none():
    one = share([1, 0, 1], [True] * 3, np.zeros(3, int))
    assert one.estimate == pytest.approx(2 / 3)
    assert np.isnan([one.interval().low, one.interval().high]).all()
    for nothing in (share([1, 0], [False, False], np.arange(2)), share([], [], np.zeros(0, int))):
        assert np.isnan(nothing.estimate)
        assert np.isnan(nothing.interval().low)
    assert np.isnan(difference_p(one, one))
    assert np.isnan(difference(one, one).low)


def test_the_interval_covers_with_few_patients_and_a_large_share(draw):
    inside = 0
    for _ in range(300):
        patients = np.repeat(np.arange(10), 3)
        success = draw.random(30) < draw.beta(2.2, 0.12, 10)[patients]
        found = share(success, everyone(success), patients).interval()
        inside += found.low <= 2.2 / 2.32 <= found.high
    assert inside >= 279


def test_a_difference_of_other_patients_is_newcombes(draw):
    success, patients = cohort(draw, images=1)
    first = patients < 15
    a, b = (share(success, of, patients) for of in (first, ~first))
    found, x, y = difference(a, b), a.interval(), b.interval()
    low = x.estimate - y.estimate - np.hypot(x.estimate - x.low, y.high - y.estimate)
    assert found.low == pytest.approx(low)
    swapped = difference(b, a)
    assert (found.low, found.high) == pytest.approx((-swapped.high, -swapped.low))
    assert difference_p(a, b) == pytest.approx(difference_p(b, a))


def test_patients_in_both_sets_make_the_difference_surer(draw):
    patients = np.repeat(np.arange(300), 2)
    success = draw.random(600) < draw.choice([0.1, 0.9], 300)[patients]
    first = np.arange(600) % 2 == 0
    a, b = (share(success, of, patients) for of in (first, ~first))
    found, gain = difference(a, b), success[first].astype(float) - success[~first]
    paired = bootstrap(gain, range(300), seed=0, replicates=2000)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=0.01)
    others = patients + 300 * ~first
    apart = difference(*(share(success, of, others) for of in (first, ~first)))
    assert apart.high - apart.low > 1.5 * (found.high - found.low)


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_0_out(draw):
    found = set()
    for _ in range(60):
        success, patients = cohort(draw, m=20)
        first = np.arange(60) % 3 == 0
        a, b = share(success | (first & (draw.random(60) < 0.6)), first, patients), share(success, ~first, patients)
        ends = difference(a, b)
        out = ends.low > 0 or ends.high < 0
        assert (difference_p(a, b) < 0.05) == out
        found.add(out)
    assert found == {True, False}


def test_p_holds_its_level_for_patients_in_one_set_and_in_both(draw):
    for within in (True, False):
        small = 0
        for _ in range(200):
            patients = np.repeat(np.arange(48), 3)
            truth = (np.arange(48) % 2 == 0)[patients]
            scores = draw.normal(size=48)[patients] + draw.normal(size=144) + 1.5 * truth
            first = np.arange(144) % 3 == 0 if within else (np.arange(48) // 2 % 3 == 0)[patients]
            a, b = (clustered_auc(scores, truth, patients, cases=of) for of in (first, ~first))
            small += difference_p(a, b) < 0.05
        assert small <= 18


def test_equal_and_opposite_estimates():
    patients, first = np.arange(40), np.arange(40) < 20
    a, b = (share(everyone(patients), of, patients) for of in (first, ~first))
    assert difference_p(a, b) == 1
    assert difference(a, b).low < 0 < difference(a, b).high
    none = share(~everyone(patients), ~first, patients)
    assert difference(a, none).estimate == 1
    assert difference_p(a, none) < 1e-5


def test_an_auc_of_some_cases_is_that_of_these_cases(draw):
    patients, truth = np.repeat(np.arange(30), 3), draw.random(90) < 0.5
    scores, of = draw.normal(size=90) + truth, draw.random(90) < 0.6
    found = clustered_auc(scores, truth, patients, cases=of)
    assert found.interval(0.9) == auc_interval(scores[of], truth[of], patients=patients[of], level=0.9)
    assert found.influence.shape == (30,)
    assert found.influence.sum() == pytest.approx(0)
    assert np.isnan(difference_p(found, clustered_auc(scores, truth, patients, cases=truth)))
