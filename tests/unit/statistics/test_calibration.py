import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from camscope.errors import SettingError
from camscope.statistics.calibration import bin_index, brier, calibration_error, recalibration, reliability
from camscope.statistics.intervals import bootstrap


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def cohort(draw, m=70, *, slope=1.0, shift=0.0):
    """Log-odds that a model gives, truth, patients; slope 1 and shift 0: the model is right."""
    patients = np.repeat(np.arange(m), 3)
    x = draw.normal(size=m)[patients] + draw.normal(size=3 * m)
    return slope * x + shift, draw.random(3 * m) < expit(x), patients


def test_brier_equals_scikit_learn(draw):
    x, truth, patients = cohort(draw)
    found = brier(expit(x), truth, patients, seed=0, replicates=500)
    assert found.estimate == pytest.approx(brier_score_loss(truth, expit(x)))
    assert found.low < found.estimate < found.high
    whole = bootstrap((expit(x) - truth) ** 2, patients, seed=0, weigh="cases", replicates=500)
    assert (found.low, found.high) == pytest.approx((whole.low, whole.high))
    wide = brier(np.repeat(expit(x), 4), np.repeat(truth, 4), np.repeat(patients, 4), seed=0, replicates=500)
    assert (wide.low, wide.high) == pytest.approx((found.low, found.high))


def test_the_curve_equals_scikit_learn(draw):
    x, truth, patients = cohort(draw)
    points = reliability(expit(x), truth, patients)
    observed, predicted = calibration_curve(truth, expit(x), n_bins=10, strategy="quantile")
    assert [point.observed.estimate for point in points] == pytest.approx(observed)
    assert [point.probability for point in points] == pytest.approx(predicted)
    assert sum(point.cases for point in points) == len(x)


def test_the_error_is_the_mean_gap_of_the_bins(draw):
    x, truth, patients = cohort(draw, slope=2)
    bins, p = bin_index(expit(x)), expit(x)
    expected = sum((bins == b).mean() * abs(p[bins == b].mean() - truth[bins == b].mean()) for b in range(10))
    found = calibration_error(p, truth, patients, seed=0, replicates=200)
    assert found.error.estimate == pytest.approx(expected)


@pytest.mark.parametrize(
    ("probabilities", "bins"),
    [
        (np.full(40, 0.3), 1),
        (np.repeat([0.0, 1.0], 20), 2),
        (np.linspace(0, 1, 9), 1),
        (np.linspace(0, 1, 35), 3),
        (np.repeat([0.0, 0.2, 0.9], [95, 3, 2]), 2),
    ],
)
def test_images_of_one_probability_share_a_bin_and_small_cohorts_have_few(probabilities, bins):
    found = bin_index(probabilities)
    assert len(set(found)) == found.max() + 1 == bins
    for value in np.unique(probabilities):
        assert len(set(found[probabilities == value])) == 1
    points = reliability(probabilities, probabilities > 0.5, np.arange(len(probabilities)))
    assert sum(point.cases for point in points) == len(probabilities)


def test_perfect_and_perfectly_wrong_probabilities():
    truth, patients = np.arange(40) % 2 == 0, np.arange(40)
    right = calibration_error(1.0 * truth, truth, patients, seed=0, replicates=200)
    assert (right.error.low, right.error.estimate, right.error.high, right.p) == (0, 0, 0, 1)
    assert brier(1.0 * truth, truth, patients, seed=0, replicates=99).high == 0
    wrong = calibration_error(1.0 * ~truth, truth, patients, seed=0, replicates=200)
    assert (wrong.error.estimate, wrong.error.high) == (1, 1)
    assert wrong.error.low > 0.9
    assert wrong.p == 1 / 201


def test_chance_explains_the_error_of_a_model_that_is_right(draw):
    small, covered, chances, errors = 0, 0, [], []
    for seed in range(60):
        x, truth, patients = cohort(draw)
        found = calibration_error(expit(x), truth, patients, seed=seed, replicates=200)
        small, covered = small + (found.p < 0.05), covered + (found.error.low == 0)
        chances.append(found.chance)
        errors.append(found.error.estimate)
    assert small <= 8
    assert covered >= 53
    assert np.mean(errors) == pytest.approx(np.mean(chances), rel=0.1)
    x, truth, patients = cohort(draw, slope=4)
    off = calibration_error(expit(x), truth, patients, seed=0, replicates=500)
    assert off.p < 0.01
    assert 0.05 < off.error.low < off.error.estimate <= off.error.high < 0.35


def test_one_patient_and_no_image_have_no_interval():
    one = calibration_error([0.2, 0.9], [False, True], np.zeros(2, int), seed=0, replicates=99)
    assert one.error.estimate == pytest.approx(0.05)
    assert np.isnan([one.error.low, one.error.high, one.chance, one.p]).all()
    none = calibration_error([], [], np.zeros(0, int), seed=0, replicates=99)
    assert np.isnan(none.error.estimate)
    assert reliability([], [], np.zeros(0, int)) == []


@pytest.mark.parametrize("values", [[0.2, np.nan], [0.2, 1.1], [-0.1, 0.5]])
def test_what_is_no_probability_is_an_error(values):
    for compute in (
        reliability,
        lambda *given: calibration_error(*given, seed=0),
        lambda *given: brier(*given, seed=0),
    ):
        with pytest.raises(SettingError, match="between 0 and 1"):
            compute(values, [True, False], np.arange(2))
    with pytest.raises(SettingError, match="2, 1 and 2"):
        recalibration(values, [True], np.arange(2))


def test_slope_and_intercept_equal_statsmodels(draw):
    x, truth, patients = cohort(draw, slope=2, shift=0.7)
    y, m = truth.astype(float), 70
    found = recalibration(x, truth, patients)
    families = {"family": sm.families.Binomial()}
    clusters = {"cov_type": "cluster", "cov_kwds": {"groups": patients, "use_correction": False}}
    slope = sm.GLM(y, sm.add_constant(x), **families).fit(**clusters)
    intercept = sm.GLM(y, np.ones((len(x), 1)), offset=x, **families).fit(**clusters)
    for mine, theirs in ((found.slope, slope), (found.intercept, intercept)):
        reach = stats.t.ppf(0.975, m - 1) * theirs.bse[-1] * np.sqrt(m / (m - 1))
        assert mine.estimate == pytest.approx(theirs.params[-1])
        assert (mine.low, mine.high) == pytest.approx((theirs.params[-1] - reach, theirs.params[-1] + reach))
    assert found.slope.high < 1
    assert found.intercept.high < 0


def test_log_odds_of_any_size_have_the_same_fit(draw):
    x, truth, patients = cohort(draw)
    large, usual = recalibration(1e4 * x, truth, patients), recalibration(x, truth, patients)
    assert large.slope.estimate == pytest.approx(usual.slope.estimate / 1e4)
    assert large.slope.low == pytest.approx(usual.slope.low / 1e4)


def test_where_no_finite_fit_exists_none_is_given():
    truth, patients = np.arange(20) > 11, np.arange(20)
    separated = recalibration(np.arange(20) - 12.0, truth, patients)
    assert np.isnan(separated.slope.estimate)
    assert np.isfinite(separated.intercept.estimate)
    assert np.isnan(recalibration(-np.arange(20.0), truth, patients).slope.estimate)
    same = recalibration(np.full(20, 0.3), truth, patients)
    assert np.isnan(same.slope.estimate)
    assert same.intercept.estimate == pytest.approx(logit(8 / 20) - 0.3)
    for odd in (recalibration([np.inf, 0.0, 1.0], [True, False, True], np.arange(3)), recalibration([1.0], [1], [0])):
        assert np.isnan([odd.slope.estimate, odd.intercept.estimate]).all()
    alone = recalibration([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1], np.zeros(4, int))
    assert np.isfinite(alone.slope.estimate)
    assert np.isnan(alone.slope.low)
