"""Kappas equal those of statsmodels, and are not defined where nothing varies."""

import math

import numpy as np
import pytest

from camscope.statistics.agreement import cohen_kappa, fleiss_kappa


@pytest.mark.parametrize("seed", range(5))
def test_kappas_are_those_of_statsmodels(seed):
    from statsmodels.stats import inter_rater

    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 3, 40)
    ratings = np.stack([np.where(draw.random(40) < 0.7, truth, draw.integers(0, 3, 40)) for _ in range(4)], axis=1)
    texts = [[f"kind {value}" for value in row] for row in ratings]
    counts, _ = inter_rater.aggregate_raters(ratings)
    assert fleiss_kappa(texts) == pytest.approx(inter_rater.fleiss_kappa(counts))
    table = np.zeros((3, 3))
    np.add.at(table, (ratings[:, 0], ratings[:, 1]), 1)
    first, second = ([row[n] for row in texts] for n in (0, 1))
    assert cohen_kappa(first, second) == pytest.approx(inter_rater.cohens_kappa(table).kappa)


def test_kappas_without_variation_are_not_defined():
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))
    assert math.isnan(fleiss_kappa([]))
    assert math.isnan(fleiss_kappa([["a", "a", "a"]]))
    assert math.isnan(fleiss_kappa([["a"], ["b"]]))
