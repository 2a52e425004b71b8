"""Area under the ROC curve with intervals over patients; intervals over images would be too narrow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit, logit

from camscope.array_types import Floats
from camscope.errors import SettingError
from camscope.statistics.clustered import ClusteredEstimate, no_limits, number_of_patients
from camscope.statistics.hypotheses import Indices, patient_index
from camscope.statistics.intervals import Interval, exact_interval, resampled
from camscope.statistics.ties import tied

Truth = npt.NDArray[np.bool_]


class Scored(NamedTuple):
    """Cases with a score: (n,) scores, (n,) truth, n patient ids."""

    scores: npt.ArrayLike
    truth: npt.ArrayLike
    patients: Iterable[Hashable]


def auc(scores: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Compute P(score of a positive case > score of a negative case); ties count half.

    Scores that differ by the rounding of a network alone are ties, here and in the intervals below: see ``tied``.

    >>> auc([0.1, 0.4, 0.4, 0.8], [False, False, True, True])
    0.875

    Args:
        scores: (n,); cases with NaN, here or in the truth, are left out.
        truth: (n,) true for positive cases.

    Returns:
        In [0, 1]; NaN where a class is missing.

    Raises:
        SettingError: when there are not as many truths as scores.

    Reference:
        Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982.
    """
    values, positive, _ = _known(scores, truth, range(len(np.asarray(scores))))
    return float(_areas(values, positive, np.arange(len(values)))(np.ones((1, len(values))))[0])


def auc_interval(
    scores: npt.ArrayLike, truth: npt.ArrayLike, *, patients: Iterable[Hashable], level: float = 0.95
) -> Interval:
    """Compute the AUC of clustered cases with Obuchowski's interval on the logit scale.

    logit(A) +- t_(I - 1) sqrt(V) / (A (1 - A)), I patients. With the placement values X of the positive cases (share of
    negative cases below) and Y of the negative ones (share of positive cases above), and for patient i the sums
    e_i = sum X - n1_i A and f_i = sum Y - n0_i A:
    V = I1 / (I1 - 1) sum e_i^2 / n1^2 + I0 / (I0 - 1) sum f_i^2 / n0^2 + 2 I / (I - 1) sum e_i f_i / (n1 n0),
    I1 and I0 the patients with positive and with negative cases.

    Where A is 0 or 1, V is 0 and says nothing: the interval is then the exact binomial one of min(I1, I0, I // 2)
    independent pairs, a positive case of one patient with a negative case of another, no patient in two pairs.

    >>> draw = np.random.default_rng(0)
    >>> truth = np.arange(60) % 2 == 0
    >>> auc_interval(draw.normal(size=60) + truth, truth, patients=np.arange(60) // 2).low > 0.5
    True

    Args:
        scores: (n,); cases with NaN, here or in the truth, are left out.
        truth: (n,) true for positive cases.
        patients: n ids.
        level: of confidence.

    Returns:
        Estimate and interval; NaN ends where one class has cases of one patient only, all NaN where it has none.

    Raises:
        SettingError: when scores, truth and patients differ in number.

    Reference:
        Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 1997; Pepe, The statistical
        evaluation of medical tests, 2003 (the logit scale); Clopper and Pearson, Biometrika 1934.
    """
    return clustered_auc(*_known(scores, truth, patients)).interval(level)


def clustered_auc(
    scores: Floats, truth: Truth, patients: Indices, *, cases: npt.ArrayLike | None = None
) -> ClusteredEstimate:
    """Return what ``auc_interval`` does, with the influence of each patient.

    >>> truth = np.arange(6) % 2 == 0
    >>> clustered_auc(1.0 * truth, truth, np.arange(6)).estimate
    1.0

    Args:
        scores: (n,) without NaN.
        truth: (n,) true for positive cases.
        patients: (n,) number of each case's patient, see ``patient_index``.
        cases: (n,) true for the cases that count; None: all of them.

    Returns:
        The estimate is NaN where a class is missing.
    """
    total = int(patients.max(initial=-1)) + 1
    mask = np.ones(len(scores), bool) if cases is None else np.asarray(cases, bool)
    values, positive, index = tied(scores)[mask], truth[mask], patients[mask]
    area = float(_areas(values, positive, np.arange(len(values)))(np.ones((1, len(values))))[0])
    i1, i0, i = (number_of_patients(index[of]) for of in (positive, ~positive, slice(None)))
    if np.isnan(area):
        return ClusteredEstimate(area, i, np.zeros(total), no_limits)
    e, f = _placements(values, positive, index, total)

    def limits(level: float) -> tuple[float, float]:
        pairs = min(i1, i0, i // 2)
        if area in (0, 1) and pairs:
            ends = exact_interval(int(area) * pairs, pairs, level=level)
            return ends.low, ends.high
        if min(i1, i0) < 2:
            return no_limits(level)
        variance = i1 / (i1 - 1) * (e @ e) + i0 / (i0 - 1) * (f @ f) + 2 * i / (i - 1) * (e @ f)
        reach = stats.t.ppf((1 + level) / 2, i - 1) * np.sqrt(variance) / (area * (1 - area))
        return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))

    return ClusteredEstimate(area, i, e + f, limits)


def auc_difference(one: Scored, other: Scored, *, seed: int, replicates: int = 10_000, level: float = 0.95) -> Interval:
    """Compute the difference of two AUCs, such as aligned minus anti-aligned; the sets may share patients.

    The interval resamples the patients of both sets together, so that a patient with cases in both is drawn for both.
    Replicates in which a set lacks a class are left out. Where an AUC is 0 or 1, resampling cannot move it; the
    interval is then put together from those of the two (Newcombe's hybrid):
    d - sqrt((A - low_A)^2 + (high_B - B)^2) to d + sqrt((high_A - A)^2 + (B - low_B)^2).

    >>> truth = np.arange(40) % 2 == 0
    >>> aligned, anti = Scored(1.0 * truth, truth, range(40)), Scored(-1.0 * truth, truth, range(40, 80))
    >>> auc_difference(aligned, anti, seed=0).estimate
    1.0

    Args:
        one: cases; those with a NaN score or truth are left out.
        other: cases; a patient has the same id in both.
        seed: of the resampling.
        replicates: B.
        level: of confidence.

    Returns:
        The difference in [-1, 1] and its interval; NaN ends where one of the two has none.

    Raises:
        SettingError: when scores, truth and patients differ in number, or for fewer than one replicate.

    Reference:
        Field and Welsh, J. Royal Statistical Society B 2007 (resampling of clusters); Newcombe, Interval estimation for
        the difference between independent proportions, Statistics in Medicine 1998.
    """
    first, second = Scored(*one[:2], list(one.patients)), Scored(*other[:2], list(other.patients))
    a, b = (auc_interval(s.scores, s.truth, patients=s.patients, level=level) for s in (first, second))
    difference = a.estimate - b.estimate
    if np.isnan([a.low, b.low]).any():
        return Interval(float("nan"), float("nan"), difference)
    if a.estimate in (0, 1) or b.estimate in (0, 1):
        low = difference - np.hypot(a.estimate - a.low, b.high - b.estimate)
        high = difference + np.hypot(a.high - a.estimate, b.estimate - b.low)
        return Interval(float(max(low, -1)), float(min(high, 1)), difference)
    patients = [*first.patients, *second.patients]
    scores, truth = (np.concatenate([np.asarray(s[n], np.float64) for s in (first, second)]) for n in (0, 1))
    values, positive, index = _known(scores, truth, patients)
    split = len(_known(*first)[0])
    first_areas, second_areas = (
        _areas(values[of], positive[of], index[of]) for of in (slice(split), slice(split, None))
    )
    return resampled(
        lambda counts: first_areas(counts) - second_areas(counts),
        int(index.max()) + 1,
        width=len(values),
        seed=seed,
        replicates=replicates,
        level=level,
    )


def _areas(scores: Floats, positive: Truth, index: Indices) -> Callable[[Floats], Floats]:
    """Return the AUC as a function of the patients' weights: (B, m) -> (B,); NaN if a class is missing."""
    lower, upper = (np.argsort(scores[of], kind="stable") for of in (~positive, positive))
    negatives, positives = scores[~positive][lower], scores[positive][upper]
    starts, ends = (np.searchsorted(negatives, positives, side=side) for side in ("left", "right"))
    of_negatives, of_positives = index[~positive][lower], index[positive][upper]

    def areas(counts: Floats) -> Floats:
        below = np.zeros((len(counts), len(negatives) + 1))
        np.cumsum(counts[:, of_negatives], axis=1, out=below[:, 1:])
        weights = counts[:, of_positives]
        won = (weights * (below[:, starts] + below[:, ends]) / 2).sum(1)
        with np.errstate(invalid="ignore"):
            aucs: Floats = won / (weights.sum(1) * below[:, -1])
        return aucs

    return areas


def _placements(scores: Floats, positive: Truth, index: Indices, patients: int) -> tuple[Floats, Floats]:
    """Return e / n1 and f / n0 of each patient."""
    n1, n0 = int(positive.sum()), int((~positive).sum())
    ranks = stats.rankdata(scores)
    above = np.empty_like(scores)
    above[positive] = (ranks[positive] - stats.rankdata(scores[positive])) / n0
    above[~positive] = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / n1
    off = above - above[positive].mean()
    e, f = (np.bincount(index, off * of, minlength=patients) for of in (positive, ~positive))
    return e / n1, f / n0


def _known(scores: npt.ArrayLike, truth: npt.ArrayLike, patients: Iterable[Hashable]) -> tuple[Floats, Truth, Indices]:
    values, labels, index = np.asarray(scores, np.float64), np.asarray(truth, np.float64), patient_index(patients)
    if not len(values) == len(labels) == len(index):
        counts = f"{len(values)} scores, {len(labels)} truths and {len(index)} patient ids"
        raise SettingError(f"{counts}: give one of each per case")
    valid = ~np.isnan(values) & ~np.isnan(labels)
    return tied(values[valid]), labels[valid] > 0, patient_index(index[valid].tolist())
