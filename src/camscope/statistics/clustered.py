"""Estimates from images of patients: their intervals at any level, and how two of them differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from camscope.array_types import Floats
from camscope.statistics.hypotheses import Indices
from camscope.statistics.intervals import Interval

Limits = Callable[[float], tuple[float, float]]

_NARROWEST, _WIDEST = 1e-6, 1 - 1e-12


@dataclass(frozen=True)
class ClusteredEstimate:
    """An estimate from the images of patients.

    Attributes:
        estimate: NaN where it is not defined.
        patients: who contribute to it.
        influence: (m,) how far each of all m patients moves the estimate, to first order; they sum to 0.
        limits: from a level of confidence to the ends of the interval; NaN ends where the data cannot give one.
    """

    estimate: float
    patients: int
    influence: Floats = field(repr=False)
    limits: Limits = field(repr=False)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the estimate with its interval."""
        return Interval(*self.limits(level), self.estimate)


def no_limits(_: float) -> tuple[float, float]:
    """Return the ends of an interval that the data cannot give."""
    return float("nan"), float("nan")


def number_of_patients(patients: Indices) -> int:
    """Return how many different patients there are.

    >>> number_of_patients(np.array([0, 2, 2]))
    2

    Args:
        patients: (n,) number of each image's patient, see ``patient_index``.
    """
    return int(np.count_nonzero(np.bincount(patients)))


def share(success: npt.ArrayLike, cases: npt.ArrayLike, patients: Indices) -> ClusteredEstimate:
    """Estimate the share of some images that are a success, such as the sensitivity.

    The interval is Wilson's, t_(k - 1) in place of the normal quantile, with the number of images that independent
    images would need for the same standard error: n = p (1 - p) / V, at most the number of images;
    V = k / (k - 1) sum_i (y_i - p n_i)^2 / N^2 over the k patients who have such images, y_i successes of n_i.
    Where p is 0 or 1, V says nothing and n is the number of patients. Measured coverage at 10 patients and a share of
    0.95: 98 %, where that of a bootstrap over patients is 65 % (``benchmarks/calibration.md``).

    >>> found = share([1, 1, 0, 1], [True] * 4, np.array([0, 0, 1, 2]))
    >>> found.estimate, found.interval().low.__round__(2)
    (0.75, 0.06)

    Args:
        success: (n,) true for a success.
        cases: (n,) true for the images that count.
        patients: (n,) number of each image's patient, see ``patient_index``.

    Returns:
        The estimate is NaN without images; the ends of its interval are NaN for fewer than two patients.

    Reference:
        Rao and Scott, A simple method for the analysis of clustered binary data, Biometrics 1992; Wilson, Probable
        inference, JASA 1927; Genders et al., Methods for calculating sensitivity and specificity of clustered data: a
        tutorial, Radiology 2012.
    """
    m, counted = int(patients.max(initial=-1)) + 1, np.asarray(cases, bool)
    images = np.bincount(patients[counted], minlength=m).astype(np.float64)
    successes = np.bincount(patients[counted & np.asarray(success, bool)], minlength=m)
    total, k = images.sum(), int((images > 0).sum())
    if not total:
        return ClusteredEstimate(float("nan"), 0, np.zeros(m), no_limits)
    p = float(successes.sum() / total)
    influence = (successes - p * images) / total
    if k < 2:
        return ClusteredEstimate(p, k, influence, no_limits)
    variance = k / (k - 1) * float(influence @ influence)
    independent = float(k) if p in (0, 1) else float(total)
    if variance > 0:
        independent = min(independent, p * (1 - p) / variance)
    return ClusteredEstimate(p, k, influence, lambda level: _wilson(p, independent, k, level))


def _wilson(p: float, n: float, patients: int, level: float) -> tuple[float, float]:
    t = stats.t.ppf((1 + level) / 2, patients - 1)
    centre, reach = p + t**2 / (2 * n), t * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    low, high = (centre - reach) / (1 + t**2 / n), (centre + reach) / (1 + t**2 / n)
    # Rounding must not move an end past an estimate of 0 or 1.
    return float(low) if p > 0 else 0.0, float(high) if p < 1 else 1.0


def difference(one: ClusteredEstimate, other: ClusteredEstimate, *, level: float = 0.95) -> Interval:
    """Return how far one estimate is above another, of other images that may be of the same patients.

    The interval is put together from those of the two, a in (l_a, u_a) and b in (l_b, u_b), with the correlation r of
    their influences: d - sqrt((a - l_a)^2 + (u_b - b)^2 - 2 r (a - l_a) (u_b - b)) to
    d + sqrt((u_a - a)^2 + (b - l_b)^2 - 2 r (u_a - a) (b - l_b)). It so keeps their sense where one of them is 0 or 1,
    where a bootstrap cannot move it.

    >>> patients, success = np.arange(40), np.arange(40) % 4 > 0
    >>> first = np.arange(40) < 20
    >>> difference(share(success, first, patients), share(success, ~first, patients)).estimate
    0.0

    Args:
        one: an estimate, with the influences of all patients.
        other: an estimate from the same patients, in the same order.
        level: of confidence.

    Returns:
        The difference and its interval; NaN ends where one of the two has none.

    Reference:
        Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 1998;
        Zou and Donner, Construction of confidence limits about effect measures, Statistics in Medicine 2008.
    """
    (low_a, high_a), (low_b, high_b) = one.limits(level), other.limits(level)
    a, b, r = one.estimate, other.estimate, _correlation(one.influence, other.influence)

    def reach(up: float, down: float) -> float:
        return float(np.sqrt(max(up**2 + down**2 - 2 * r * up * down, 0.0)))

    if np.isnan([low_a, low_b, high_a, high_b]).any():
        return Interval(float("nan"), float("nan"), a - b)
    return Interval(a - b - reach(a - low_a, high_b - b), a - b + reach(high_a - a, b - low_b), a - b)


def difference_p(one: ClusteredEstimate, other: ClusteredEstimate) -> float:
    """Return the p-value of a difference: 1 - level of the widest interval that leaves 0 out.

    >>> patients, first = np.arange(40), np.arange(40) < 20
    >>> difference_p(share(first, first, patients), share(first, ~first, patients)) < 0.001
    True

    Args:
        one: an estimate, with the influences of all patients.
        other: an estimate from the same patients, in the same order.

    Returns:
        p in [1e-12, 1]; NaN where the difference has no interval.
    """

    def inside(level: float) -> float:
        ends = difference(one, other, level=level)
        return ends.low if ends.estimate > 0 else -ends.high

    narrow, wide = inside(_NARROWEST), inside(_WIDEST)
    if np.isnan(narrow):
        return float("nan")
    if narrow <= 0:
        return 1.0
    if wide > 0:
        return 1 - _WIDEST
    return 1 - float(optimize.brentq(inside, _NARROWEST, _WIDEST, xtol=1e-13))


def _correlation(one: Floats, other: Floats) -> float:
    lengths = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / lengths) if lengths > 0 else 0.0
