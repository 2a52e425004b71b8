"""Differences of two estimates from the same patients, such as two models on one cohort."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from camscope.array_types import Floats
from camscope.statistics.auc import Truth, clustered_auc
from camscope.statistics.clustered import (
    ClusteredEstimate,
    Limits,
    difference,
    difference_p,
    no_limits,
    number_of_patients,
)
from camscope.statistics.hypotheses import Indices
from camscope.statistics.intervals import Interval
from camscope.statistics.ties import tied

_ZERO = 1e-9  # relative size below which a difference is a rounding error


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two estimates from the same patients.

    Attributes:
        first: the first estimate, with its own interval.
        second: the second estimate, with its own interval.
        difference: second minus first, with its interval.
        p: two-sided p-value; below .05 exactly if the 95 % interval of the difference excludes 0.
        patients: number of patients that the test rests on.
    """

    first: Interval
    second: Interval
    difference: Interval
    p: float
    patients: int

    @property
    def why_no_interval(self) -> str:
        """Return why a difference has no interval; "" if it has one, or is not defined itself."""
        if self.difference.low == self.difference.low or self.difference.estimate != self.difference.estimate:
            return ""
        return "too few patients" if self.patients < 2 else "all patients differ by the same amount"


def paired_difference(
    first: ClusteredEstimate, second: ClusteredEstimate, *, fewest: int, level: float = 0.95
) -> PairedDifference:
    """Test the difference of two estimates from the same patients.

    The influences of a patient on the two estimates are subtracted, so what both share cancels: with D_i the
    difference of the influences of patient i, V = k / (k - 1) sum_i D_i^2, and the interval is d +- t_(k - 1) sqrt(V).
    Two equal models have d = 0, the interval 0 to 0 and p = 1. For the AUC this is DeLong's test for clustered data.

    >>> values = np.array([1.0, 2.0, 0.0, 1.0])
    >>> paired_difference(mean_of(values), mean_of(values + [1.2, 1.0, 0.9, 1.1]), fewest=4).p < 0.001
    True

    Args:
        first: an estimate, with the influences of all patients.
        second: an estimate from the same patients, in the same order.
        fewest: k, number of patients in the smallest group that the estimates need, such as those with the label.
        level: of confidence.

    Returns:
        The difference; NaN where one of the estimates is undefined, and NaN ends and p for fewer than two patients, and
        where all patients differ by the same amount, which has no variance to judge it by.

    Reference:
        DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated ROC curves, Biometrics
        1988; Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 1997.
    """
    a, b = first.interval(level), second.interval(level)
    d = b.estimate - a.estimate
    if np.isnan(d) or fewest < 2:
        return PairedDifference(a, b, Interval(float("nan"), float("nan"), d), float("nan"), fewest)
    error = np.sqrt(fewest / (fewest - 1) * np.sum((second.influence - first.influence) ** 2))
    scale = max(abs(a.estimate), abs(b.estimate), float(np.abs(first.influence).max(initial=0)))
    if max(abs(d), error) <= _ZERO * scale:
        return PairedDifference(a, b, Interval(0.0, 0.0, 0.0), 1.0, fewest)
    if error <= _ZERO * scale:  # every patient differs by the same amount
        return PairedDifference(a, b, Interval(float("nan"), float("nan"), d), float("nan"), fewest)
    reach = float(stats.t.ppf((1 + level) / 2, fewest - 1) * error)
    p = float(2 * stats.t.sf(abs(d) / error, fewest - 1))
    return PairedDifference(a, b, Interval(d - reach, d + reach, d), p, fewest)


def paired_auc(
    first: Floats, second: Floats, truth: Truth, patients: Indices, *, level: float = 0.95
) -> PairedDifference:
    """Test the difference of the AUCs of two scores of the same cases.

    DeLong's test for clustered data. Where one of the AUCs is 0 or 1, its variance is 0 and says nothing; the interval
    is then put together from those of the two AUCs, see ``difference``.

    >>> truth = np.arange(40) % 2 == 0
    >>> scores = np.random.default_rng(0).normal(size=40) + truth
    >>> paired_auc(scores, 3 * scores + 1, truth, np.arange(40)).p
    1.0

    Args:
        first: (n,) scores without NaN.
        second: (n,) scores without NaN.
        truth: (n,) true for positive cases.
        patients: (n,) number of each case's patient, see ``patient_index``.
        level: of confidence.

    Returns:
        The difference; NaN where a class is missing.
    """
    one, other = clustered_auc(first, truth, patients), clustered_auc(second, truth, patients)
    fewest = min(number_of_patients(patients[truth]), number_of_patients(patients[~truth]))
    same = np.array_equal(stats.rankdata(tied(first)), stats.rankdata(tied(second)))
    if same or not {one.estimate, other.estimate} & {0.0, 1.0}:
        return paired_difference(one, other, fewest=fewest, level=level)
    interval = difference(other, one, level=level)
    return PairedDifference(one.interval(level), other.interval(level), interval, difference_p(other, one), fewest)


def mean_of(values: npt.ArrayLike, *, within: npt.ArrayLike | None = None) -> ClusteredEstimate:
    """Estimate the mean over patients.

    >>> mean_of([1.0, 2.0, float("nan")]).estimate
    1.5

    Args:
        values: (m,) one per patient; NaN where a patient has none.
        within: (m,) patient means of a score; the mean is then divided by their standard deviation, which is estimated
            from the same patients, so that its error counts too. NaN where a patient has no score.

    Returns:
        The estimate, in the unit of the values or in standard deviations of the scores.
    """
    array = np.asarray(values, np.float64)
    has = ~np.isnan(array)
    k = int(has.sum())
    if not k:
        return ClusteredEstimate(float("nan"), 0, np.zeros(len(array)), no_limits)
    mean, influence = float(array[has].mean()), np.where(has, array - array[has].mean(), 0.0) / k
    if within is not None:
        scores = np.asarray(within, np.float64)
        scored = ~np.isnan(scores)
        n, off = int(scored.sum()), np.where(scored, scores - scores[scored].mean(), 0.0)
        squares = float(off @ off)
        if n < 3 or k < 2 or not squares > 0:
            return ClusteredEstimate(float("nan"), k, np.zeros(len(array)), no_limits)
        # Leaving out one patient at a time: to first order alone, intervals of few patients would be too narrow.
        means = mean - np.where(has, array - mean, 0.0) / (k - 1)
        without = np.maximum(squares - off**2 * n / (n - 1), 0.0) / (n - 2)
        sds = np.sqrt(np.where(scored, without, squares / (n - 1)))
        if not sds.min() ** 2 > _ZERO * squares:
            return ClusteredEstimate(float("nan"), k, np.zeros(len(array)), no_limits)
        mean, left_out = mean / float(np.sqrt(squares / (n - 1))), means / sds
        influence = (left_out.mean() - left_out) * (n - 1) / n
    return ClusteredEstimate(mean, k, influence, _symmetric(mean, influence, k))


def ratio_of(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> ClusteredEstimate:
    """Estimate the ratio of two means over patients, such as the heat in a region by the region's area.

    >>> ratio_of([0.2, 0.4], [0.1, 0.1]).estimate.__round__(9)
    3.0

    Args:
        numerators: (m,) one per patient, without NaN.
        denominators: (m,) one per patient, without NaN.

    Returns:
        The estimate; NaN without patients, or where the mean of the denominators is 0.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not below.sum():
        return ClusteredEstimate(float("nan"), len(below), np.zeros(len(below)), no_limits)
    ratio = float(above.sum() / below.sum())
    influence = (above - ratio * below) / below.sum()
    return ClusteredEstimate(ratio, len(below), influence, _symmetric(ratio, influence, len(below)))


def _symmetric(estimate: float, influence: Floats, patients: int) -> Limits:
    def limits(level: float) -> tuple[float, float]:
        if patients < 2:
            return no_limits(level)
        error = np.sqrt(patients / (patients - 1) * float(influence @ influence))
        reach = float(stats.t.ppf((1 + level) / 2, patients - 1) * error)
        return estimate - reach, estimate + reach

    return limits
