import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import confusion_matrix

from camscope.errors import SettingError
from camscope.statistics.decision import THRESHOLDS, decision_curve


@pytest.fixture
def cohort():
    draw = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 3)
    p = np.clip(draw.random(60)[patients] + 0.2 * draw.normal(size=180), 0, 1).round(2)
    return p, draw.random(180) < p, patients


def test_net_benefit_is_that_of_the_confusion_matrix(cohort):
    p, truth, patients = cohort
    assert {0.0, 1.0} < set(p)
    curve = decision_curve(p, truth, patients)
    for n, t in enumerate(THRESHOLDS):
        for said, found in ((p >= t, curve.model), (np.ones(180, bool), curve.treat_all)):
            (_, fp), (_, tp) = confusion_matrix(truth, said, labels=[False, True])
            assert found[n] == pytest.approx(tp / 180 - fp / 180 * t / (1 - t))


def test_the_interval_is_that_of_a_mean_with_clusters(cohort):
    p, truth, patients = cohort
    curve = decision_curve(p, truth, patients, thresholds=np.array([0.25]))
    each = (p >= 0.25) * np.where(truth, 1, -1 / 3)
    theirs = sm.OLS(each, np.ones(180)).fit(cov_type="cluster", cov_kwds={"groups": patients})
    reach = stats.t.ppf(0.975, 59) * theirs.bse[0]
    assert (curve.low[0], curve.high[0]) == pytest.approx((each.mean() - reach, each.mean() + reach))


def test_the_model_is_better_only_where_it_beats_both(cohort):
    p, truth, patients = cohort
    good = decision_curve(p, truth, patients)
    assert good.is_better.sum() > 20
    assert (good.model > np.maximum(good.treat_all, 0))[good.is_better].all()
    assert not good.is_better[0], "too few images are below 1 %"
    ((first, last), *_) = good.ranges()
    assert good.is_better[np.isclose(THRESHOLDS, first) | np.isclose(THRESHOLDS, last)].all()
    assert sum(round(100 * (b - a)) + 1 for a, b in good.ranges()) == good.is_better.sum()
    useless = decision_curve(np.full(180, truth.mean()), truth, patients)
    assert useless.ranges() == []


def test_few_images_that_are_right_prove_no_benefit_at_a_small_threshold():
    """Net benefit itself has no spread here; 1 of 20 images with the label would undo it."""
    p, truth = np.repeat([0.0, 0.3], [20, 80]), np.arange(100) >= 76
    curve = decision_curve(p, truth, np.arange(100), thresholds=np.array([0.01, 0.25]))
    assert (curve.model > curve.treat_all).all()
    assert curve.is_better.tolist() == [False, False]
    many = decision_curve(np.tile(p, 30), np.tile(truth, 30), np.arange(3000), thresholds=np.array([0.01, 0.25]))
    assert many.is_better.tolist() == [True, True]


def test_one_patient_and_no_image_have_no_interval():
    one = decision_curve([0.2, 0.9], [False, True], np.zeros(2, int))
    assert one.model[49] == 0.5
    assert np.isnan(one.low).all()
    assert one.ranges() == []
    none = decision_curve([], [], np.zeros(0, int))
    assert np.isnan(none.model).all()


def test_one_class_alone_has_its_curves():
    absent = decision_curve([0.0, 0.6], [False, False], np.arange(2), thresholds=np.array([0.5]))
    assert (absent.model[0], absent.treat_all[0]) == (-0.5, -1)
    present = decision_curve([1.0, 0.6], [True, True], np.arange(2), thresholds=np.array([0.5]))
    assert (present.model[0], present.treat_all[0]) == (1, 1)
    assert present.ranges() == [], "acting on all is as good"


def test_odd_values_are_errors():
    for p, thresholds, match in (
        ([0.5, np.nan], THRESHOLDS, "between 0 and 1"),
        ([0.5, 1.5], THRESHOLDS, "between 0 and 1"),
        ([0.5, 0.5], np.array([0.0]), "threshold"),
        ([0.5], THRESHOLDS, "1, 2 and 2"),
    ):
        with pytest.raises(SettingError, match=match):
            decision_curve(p, [True, False], np.arange(2), thresholds=thresholds)
