import numpy as np
import pytest

from camscope.statistics.auc import Scored, auc, auc_difference, auc_interval, clustered_auc
from camscope.statistics.calibration import bin_index, recalibration
from camscope.statistics.paired import paired_auc
from camscope.statistics.ties import ROUNDING, all_tied, tied

TRUTH = np.arange(60) % 3 == 0


def rounding(scale):
    """Outputs that are the same but for rounding, which is associated with the truth."""
    return scale + 1e-7 * max(1, scale) * (np.random.default_rng(0).normal(size=60) + 3 * TRUTH)


@pytest.mark.parametrize("scale", [0.0, 0.3, 12.0])
def test_rounding_is_no_order(scale):
    scores = rounding(scale)
    assert all_tied(scores)
    assert auc(scores, TRUTH) == 0.5
    assert auc_interval(scores, TRUTH, patients=range(60)).estimate == 0.5
    assert clustered_auc(scores, TRUTH, np.arange(60)).estimate == 0.5
    one = Scored(scores, TRUTH, range(60))
    assert auc_difference(one, Scored(-scores, TRUTH, range(60)), seed=0, replicates=99).estimate == 0
    assert paired_auc(scores, scores[::-1].copy(), TRUTH, np.arange(60)).p == 1
    assert set(bin_index(1 / (1 + np.exp(-scores)))) == {0}
    assert np.isnan(recalibration(scores, TRUTH, np.arange(60)).slope.estimate)


def test_a_chain_of_near_scores_is_no_tie():
    chain = 1e-3 + np.arange(1000) * ROUNDING / 4
    found = tied(chain)
    assert len(np.unique(found)) == 200
    assert np.abs(found - chain).max() <= ROUNDING * 1.01
    assert (tied(found) == found).all()
    assert auc(chain, chain > np.median(chain)) == pytest.approx(1, abs=1e-3)


def test_order_infinity_and_unknown_scores_are_kept():
    scores = np.array([np.inf, 2.0, np.nan, -np.inf, 1.0, np.inf, -np.inf, 1e-9, -1e-9])
    assert tied(scores).tolist()[:2] == [np.inf, 2.0]
    np.testing.assert_array_equal(tied(scores)[2:], [np.nan, -np.inf, 1.0, np.inf, -np.inf, -1e-9, -1e-9])
    assert not all_tied([])
    assert not all_tied([0.0, 1e-5])
