import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from camscope.errors import SettingError
from camscope.statistics.auc import Scored, auc, auc_difference, auc_interval


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def cohort(draw, m, *, effect=1.0, images=3):
    patients = np.repeat(np.arange(m), images)
    truth = (np.arange(m) % 2 == 0)[patients]
    scores = draw.normal(size=m)[patients] + draw.normal(size=len(patients)) + effect * truth
    return Scored(scores, truth, patients)


def test_auc_equals_scikit_learn_with_ties(draw):
    for _ in range(5):
        truth = draw.random(60) < 0.4
        scores = (draw.normal(size=60) + truth).round(1)
        assert auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))


def test_auc_without_a_class_or_a_score():
    assert np.isnan(auc([1, 2], [True, True]))
    assert np.isnan(auc([], []))
    assert auc([1, np.nan, 2, 3], [False, False, True, np.nan]) == 1
    with pytest.raises(SettingError, match="2 scores, 1 truths"):
        auc([1, 2], [True])


def test_with_one_case_a_patient_the_variance_is_that_of_delong(draw):
    scores, truth, _ = cohort(draw, 50, images=1)
    wins = (scores[truth][:, None] > scores[~truth]).astype(float)
    area, x, y = wins.mean(), wins.mean(1), wins.mean(0)
    error = np.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))
    reach = stats.t.ppf(0.975, 49) * error / (area * (1 - area))
    found = auc_interval(scores, truth, patients=range(50))
    odds = np.log(area / (1 - area)) + reach * np.array([-1, 1])
    assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-odds))))


def test_copies_of_images_do_not_narrow_the_interval(draw):
    scores, truth, patients = cohort(draw, 40, images=1)
    one = auc_interval(scores, truth, patients=patients)
    many = auc_interval(np.repeat(scores, 10), np.repeat(truth, 10), patients=np.repeat(patients, 10))
    assert (many.low, many.high) == pytest.approx((one.low, one.high))
    naive = auc_interval(np.repeat(scores, 10), np.repeat(truth, 10), patients=range(400))
    assert naive.high - naive.low < 0.5 * (many.high - many.low)


def test_the_interval_covers_in_mixed_patients(draw):
    inside = 0
    for _ in range(300):
        patients = np.repeat(np.arange(30), 3)
        truth = draw.random(90) < 0.3
        scores = draw.normal(size=30)[patients] + draw.normal(size=90) + np.sqrt(2) * truth
        found = auc_interval(scores, truth, patients=patients)
        inside += found.low <= stats.norm.cdf(np.sqrt(0.5)) <= found.high
    assert 0.91 <= inside / 300 <= 0.98


def test_a_perfect_auc_is_not_certain():
    truth = np.repeat([True, False], 10)
    found = auc_interval(1.0 * truth, truth, patients=np.arange(20))
    assert found.estimate == found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 10))
    swapped = auc_interval(-1.0 * truth, truth, patients=np.arange(20))
    assert (swapped.low, swapped.high) == pytest.approx((0, 1 - found.low))
    paired = auc_interval(1.0 * truth, truth, patients=np.tile(np.arange(10), 2))
    assert paired.low == pytest.approx(0.025 ** (1 / 5))


def test_one_patient_of_a_class_has_no_interval():
    found = auc_interval([1, 3, 0, 2, 4], [True, True, False, False, False], patients=["a", "a", "b", "c", "d"])
    assert found.estimate == pytest.approx(0.5)
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(auc_interval([1, 2], [True, True], patients=["a", "b"]).estimate)
    assert np.isnan(auc_interval([1, 2], [True, False], patients=["a", "a"]).low)


def test_a_difference_between_patients_of_their_own_and_shared_ones(draw):
    strong, weak = cohort(draw, 60, effect=3), cohort(draw, 60, effect=0)
    apart = auc_difference(strong, weak._replace(patients=weak.patients + 60), seed=0, replicates=999)
    assert apart.estimate == pytest.approx(auc(*strong[:2]) - auc(*weak[:2]))
    assert 0.2 < apart.low < apart.high < 0.8
    nearly = Scored(strong.scores + 0.1 * draw.normal(size=180), strong.truth, strong.patients)
    shared = auc_difference(strong, nearly, seed=0, replicates=999)
    unrelated = auc_difference(strong, nearly._replace(patients=nearly.patients + 60), seed=0, replicates=999)
    assert shared.high - shared.low < 0.5 * (unrelated.high - unrelated.low)
    assert shared == auc_difference(strong, nearly._replace(patients=iter(nearly.patients)), seed=0, replicates=999)


def test_a_full_difference_is_not_certain():
    truth = np.repeat([True, False], 8)
    aligned, anti = Scored(1.0 * truth, truth, range(16)), Scored(-1.0 * truth, truth, range(16, 32))
    found = auc_difference(aligned, anti, seed=0)
    assert found.estimate == found.high == 1
    assert 0.3 < found.low < 0.7


def test_a_difference_without_a_class():
    truth = np.repeat([True, False], 8)
    missing = Scored(np.ones(4), np.ones(4, bool), range(4))
    found = auc_difference(Scored(1.0 * truth, truth, range(16)), missing, seed=0)
    assert np.isnan([found.low, found.high, found.estimate]).all()


def test_missing_scores_and_classes_in_replicates_are_left_out(draw):
    truth = np.array([True, True] + [False] * 10)
    scores = np.array([0.5, 2.5, *np.linspace(0, 3, 9), np.nan])
    one, other = (Scored(scores * sign, truth, range(12)) for sign in (1, -1))
    found = auc_difference(one, other, seed=0, replicates=499)
    assert np.isfinite([found.low, found.high]).all()
    assert -1 <= found.low <= found.estimate <= found.high <= 1


def test_the_difference_is_resampled_patient_by_patient(draw):
    one, other = cohort(draw, 20, effect=1.5), cohort(draw, 30, effect=0.5)
    one, other = (s._replace(scores=s.scores.round(1)) for s in (one, other))
    picks = np.random.default_rng(3).integers(0, 30, (400, 30))

    def resampled(s, pick):
        rows = np.concatenate([np.flatnonzero(s.patients == patient) for patient in pick])
        return auc(s.scores[rows], s.truth[rows])

    drawn = [resampled(one, pick) - resampled(other, pick) for pick in picks]
    found = auc_difference(one, other, seed=0, replicates=2000)
    assert np.nanquantile(drawn, 0.025) == pytest.approx(found.low, abs=0.06)
    assert np.nanquantile(drawn, 0.975) == pytest.approx(found.high, abs=0.06)
