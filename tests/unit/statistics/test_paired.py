import numpy as np
import pytest
from scipy import stats

from camscope.statistics.paired import mean_of, paired_auc, paired_difference, ratio_of


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def two_models(draw, m, *, shift=(1.5, 1.5), shared=0.8, images=2, positive=0.5):
    """Scores of two models of m patients with equal AUCs if the shifts are equal; their errors are correlated."""
    patients = np.repeat(np.arange(m), images)
    truth = (np.arange(m) < positive * m)[patients]
    person, image = draw.normal(size=(3, m)), draw.normal(size=(3, m * images))
    noise = [
        np.sqrt(shared) * (person[0][patients] + image[0]) + np.sqrt(1 - shared) * (person[k][patients] + image[k])
        for k in (1, 2)
    ]
    first, second = (n / np.sqrt(2) + s * truth for n, s in zip(noise, shift, strict=True))
    return first, second, truth, patients


def two_effects(draw, m, *, means=(1.8, 1.8), edited=None, unit=2.0):
    """Effects and scores of m patients; the second model has other units, and the scores of both are correlated."""
    scores, effects = draw.normal(size=(3, m)), draw.normal(size=(3, m))
    a, b = (0.8 * scores[0] + 0.6 * scores[k] for k in (1, 2))
    d = [0.4 * (0.8 * effects[0] + 0.6 * effects[k]) + mean for k, mean in zip((1, 2), means, strict=True)]
    for values in d:
        values[edited or m :] = np.nan
    return (d[0], a), (unit * d[1], unit * b)


def test_with_one_image_per_patient_the_test_is_delongs(draw):
    first, second, truth, patients = two_models(draw, 60, images=1, shift=(2.0, 1.0))
    areas, x, y = [], [], []
    for scores in (first, second):
        wins = (scores[truth][:, None] > scores[~truth]).astype(float)
        areas.append(wins.mean())
        x.append(wins.mean(1))
        y.append(wins.mean(0))
    variance = np.var(x[1] - x[0]) / len(x[0]) + np.var(y[1] - y[0]) / len(y[0])
    found = paired_auc(first, second, truth, patients)
    k = 30
    error = np.sqrt(variance * k / (k - 1))
    assert found.difference.estimate == pytest.approx(areas[1] - areas[0])
    assert found.difference.high - found.difference.estimate == pytest.approx(stats.t.ppf(0.975, k - 1) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(areas[1] - areas[0]) / error, k - 1))


@pytest.mark.parametrize(
    ("patients", "positive"),
    [(20, 0.5), pytest.param(60, 0.2, marks=pytest.mark.slow), pytest.param(70, 0.5, marks=pytest.mark.slow)],
)
def test_equal_aucs_are_called_different_in_5_percent(draw, patients, positive):
    p = [paired_auc(*two_models(draw, patients, positive=positive)).p for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.075


def test_the_interval_of_an_auc_difference_covers(draw):
    truth = np.diff([stats.norm.cdf(s / np.sqrt(2)) for s in (2.0, 1.0)])[0]
    found = [paired_auc(*two_models(draw, 60, shift=(2.0, 1.0))).difference for _ in range(400)]
    assert 0.92 < np.mean([d.low <= truth <= d.high for d in found]) < 0.985


@pytest.mark.parametrize(("patients", "edited"), [(12, None), (40, 10), (70, None)])
@pytest.mark.parametrize("means", [(1.8, 1.8), (1.8, 0.2)])
def test_the_interval_of_an_effect_in_sd_covers_because_the_sd_is_estimated_too(draw, patients, edited, means):
    inside, of_known_sd = [], []
    for _ in range(300):
        pair = two_effects(draw, patients, means=means, edited=edited)
        one, other = (mean_of(d, within=x) for d, x in pair)
        found = paired_difference(one, other, fewest=one.patients).difference
        inside.append(found.low <= means[1] - means[0] <= found.high)
        one, other = (mean_of(d / x.std(ddof=1)) for d, x in pair)
        found = paired_difference(one, other, fewest=one.patients).difference
        of_known_sd.append(found.low <= means[1] - means[0] <= found.high)
    assert np.mean(inside) > 0.92
    assert np.mean(of_known_sd) < 0.88


def test_other_units_of_the_log_odds_are_no_difference_in_sd(draw):
    (d, x), _ = two_effects(draw, 30)
    one, other = mean_of(d, within=x), mean_of(3 * d, within=3 * x + 1)
    found = paired_difference(one, other, fewest=30)
    assert (found.difference.low, found.difference.estimate, found.difference.high, found.p) == (0, 0, 0, 1)
    raw = paired_difference(mean_of(d), mean_of(3 * d), fewest=30)
    assert raw.p < 1e-6
    assert raw.difference.estimate == pytest.approx(2 * d.mean())


def test_a_model_compared_with_itself_has_no_difference(draw):
    first, _, truth, patients = two_models(draw, 40)
    perfect = 1.0 * truth
    for scores in (first, perfect):
        found = paired_auc(scores, scores, truth, patients)
        assert (found.difference.low, found.difference.high, found.p) == (0, 0, 1)
    heat = draw.random((2, 20))
    assert paired_difference(ratio_of(*heat), ratio_of(*heat), fewest=20).p == 1


def test_two_perfect_models_have_an_interval(draw):
    truth, noise = np.arange(40) % 2 == 0, 0.1 * draw.random((2, 40))
    found = paired_auc(truth + noise[0], truth + noise[1], truth, np.arange(40))
    assert found.difference.estimate == 0
    assert found.difference.low < -0.05
    assert found.p == 1


def test_what_cannot_be_tested_is_undefined():
    one, other = mean_of([1.0, 1.0, 1.0]), mean_of([2.0, 2.0, 2.0])
    found = paired_difference(one, other, fewest=3)
    assert np.isnan([found.p, found.difference.low]).all()
    assert found.difference.estimate == 1
    assert np.isnan(mean_of([1.0, 2.0], within=[3.0, 3.0]).estimate)
    assert np.isnan(mean_of([1.0, 2.0, 1.0], within=[3.0, 3.0, 4.0]).estimate)  # without the third, no spread
    assert np.isnan(mean_of([np.nan, np.nan]).estimate)
    assert np.isnan(paired_auc(np.arange(4.0), np.arange(4.0)[::-1], np.ones(4, bool), np.arange(4)).p)
