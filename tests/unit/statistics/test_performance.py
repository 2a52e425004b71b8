import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from camscope.errors import SettingError
from camscope.statistics.performance import rates


def test_rates_equal_scikit_learn():
    draw = np.random.default_rng(0)
    truth, patients = draw.random(120) < 0.4, np.repeat(np.arange(40), 3)
    predicted, of = draw.random(120) < 0.3 + 0.4 * truth, np.arange(120) % 4 > 0
    for cases in (None, of):
        kept = np.ones(120, bool) if cases is None else cases
        found, y, said = rates(predicted, truth, patients, cases=cases), truth[kept], predicted[kept]
        assert found.prevalence.estimate == y.mean()
        assert found.sensitivity.estimate == pytest.approx(recall_score(y, said))
        assert found.specificity.estimate == pytest.approx(recall_score(y, said, pos_label=0))
        assert found.positive_value.estimate == pytest.approx(precision_score(y, said))
        assert found.negative_value.estimate == pytest.approx(precision_score(y, said, pos_label=0))
        assert found.sensitivity.patients == len(set(patients[kept & truth]))


def test_a_class_that_is_missing_leaves_its_rates_unknown():
    found = rates([True, False], [True, True], np.arange(2))
    assert np.isnan([found.specificity.estimate, found.specificity.interval().low]).all()
    assert found.negative_value.estimate == 0
    nothing = rates([], [], np.zeros(0, int))
    assert np.isnan(nothing.prevalence.estimate)


def test_numbers_that_differ_are_an_error():
    with pytest.raises(SettingError, match="1 predictions, 2 truths and 2 patients"):
        rates([True], [True, False], np.arange(2))
