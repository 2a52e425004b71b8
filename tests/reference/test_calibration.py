"""Do the tests reject, and the intervals cover, as often as they say? Simulated cohorts of correlated images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from camscope.statistics.auc import Scored, auc_difference, auc_interval
from camscope.statistics.hypotheses import patient_means, sign_flip, tost
from camscope.statistics.intervals import bootstrap, ratio
from camscope.study.clusters import associations

COHORTS, PATIENTS, REPLICATES = 2000, 70, 499
CORRELATION = 0.5


def cohort(draw, *, patients=PATIENTS, correlation=CORRELATION):
    """Values of mean 0 and SD 1 for 2 to 4 images of each patient, and the patients."""
    index = np.repeat(np.arange(patients), draw.integers(2, 5, patients))
    own, rest = draw.normal(size=patients)[index], draw.normal(size=len(index))
    return np.sqrt(correlation) * own + np.sqrt(1 - correlation) * rest, index


def test_type_one_error_of_sign_flips_is_nominal_and_that_of_a_test_over_images_is_not():
    draw = np.random.default_rng(20)
    ours, naive = 0, 0
    for seed in range(COHORTS):
        values, patients = cohort(draw)
        ours += sign_flip(patient_means(values, patients), seed=seed, replicates=REPLICATES) <= 0.05
        naive += stats.ttest_1samp(values, 0).pvalue <= 0.05
    assert 0.035 <= ours / COHORTS <= 0.065
    assert 0.10 <= naive / COHORTS <= 0.26


def test_type_one_error_of_the_equivalence_test_at_its_margin():
    draw = np.random.default_rng(21)
    passed = sum(tost(patient_means(*cohort(draw)) + 0.4, delta=0.4).p <= 0.05 for _ in range(COHORTS))
    assert 0.035 <= passed / COHORTS <= 0.065


def test_the_bootstrap_covers_means_and_enrichment():
    draw = np.random.default_rng(22)
    cohorts, mean, enrichment = 500, 0, 0
    for seed in range(cohorts):
        values, patients = cohort(draw)
        found = bootstrap(values, patients, seed=seed, replicates=REPLICATES)
        mean += found.low <= 0 <= found.high
        area = 0.1 + 0.2 * draw.random(PATIENTS)[patients]
        mass = 1.5 * area * np.exp(0.5 * values - 0.125)
        found = bootstrap(np.column_stack([mass, area]), patients, statistic=ratio, seed=seed, replicates=REPLICATES)
        enrichment += found.low <= 1.5 <= found.high
    assert 0.90 <= mean / cohorts <= 0.98
    assert 0.90 <= enrichment / cohorts <= 0.98


def test_intervals_of_auc_cover():
    draw = np.random.default_rng(23)
    cohorts, single, difference = 300, 0, 0
    for seed in range(cohorts):
        aligned, anti = (scored(draw, effect) for effect in (1.5, 0.5))
        true = [stats.norm.cdf(effect / np.sqrt(2)) for effect in (1.5, 0.5)]
        found = auc_interval(aligned.scores, aligned.truth, patients=aligned.patients)
        single += found.low <= true[0] <= found.high
        found = auc_difference(aligned, anti, seed=seed, replicates=REPLICATES)
        difference += found.low <= true[0] - true[1] <= found.high
    assert 0.90 <= single / cohorts <= 0.98
    assert 0.90 <= difference / cohorts <= 0.98


def scored(draw, effect):
    values, patients = cohort(draw)
    truth = (draw.random(PATIENTS) < 0.4)[patients]
    return Scored(values + effect * truth, truth, patients)


@pytest.mark.parametrize("varies", [False, True])
def test_type_one_error_of_associations(varies):
    draw = np.random.default_rng(24)
    cohorts, rejected = 1000, 0
    for seed in range(cohorts):
        labels, patients = cohort(draw)
        own = draw.normal(size=PATIENTS)[patients]
        value = own + draw.normal(size=len(own)) * varies
        found = associations(labels > 0.5, {"value": value}, patients=patients, seed=seed, replicates=199)
        rejected += found[0].p <= 0.05
    assert 0.03 <= rejected / cohorts <= 0.07
