"""The unit of effects, and what a few unusual patients do to it."""

import numpy as np
import polars as pl
import pytest

from camscope.audit.measures import spread, typical_spread


def rows(values):
    patients = [f"P{n}" for n in range(len(values))]
    return pl.DataFrame({"log_odds": np.asarray(values, float), "patient": patients})


def test_patients_far_from_the_others_do_not_make_every_effect_small():
    values = np.random.default_rng(0).normal(0, 1, 60)
    odd = np.concatenate([values, [240.0] * 6])
    assert spread(rows(odd)) > 50
    assert typical_spread(rows(odd)) == pytest.approx(values.std(ddof=1), rel=0.05)
    assert typical_spread(rows(values)) == pytest.approx(spread(rows(values)))


def test_of_few_or_equal_values():
    assert np.isnan(typical_spread(rows([1.0])))
    assert typical_spread(rows([2.0, 2.0, 2.0, 2.0, 2.0, 9.0])) == spread(rows([2.0, 2.0, 2.0, 2.0, 2.0, 9.0]))
