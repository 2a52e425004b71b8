"""Confidence intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import ndtr, ndtri

from camscope.array_types import Floats
from camscope.errors import SettingError
from camscope.statistics.hypotheses import ELEMENTS, at_least_one, cases_of, patient_index

Statistic = Callable[[Floats, Floats], Floats]

_GROUPS = 2000
"""Maximum number of jackknife groups of patients."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; NaN ends where the data cannot give one."""

    low: float
    high: float
    estimate: float


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))
"""Undefined interval; it passes no test, since comparisons with NaN are false."""


def exact_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Compute the exact interval of a share of independent trials.

    >>> exact_interval(0, 60).high.__round__(3)
    0.06

    Args:
        successes: from 0 to ``trials``.
        trials: at least 1.
        level: of confidence.

    Returns:
        The share and its interval in [0, 1].

    Raises:
        SettingError: for counts that are not possible.

    Reference:
        Clopper and Pearson, The use of confidence or fiducial limits, Biometrika 1934.
    """
    if not 0 <= successes <= trials or not trials:
        raise SettingError(f"{successes} of {trials}: successes are 0 to the number of trials, of which there is one")
    limits = stats.binomtest(successes, trials).proportion_ci(level, method="exact")
    return Interval(float(limits.low), float(limits.high), successes / trials)


def mean(values: Floats, weights: Floats) -> Floats:
    """Compute the weighted mean of (n,) values for each row of (B, n) weights: a statistic for ``bootstrap``."""
    result: Floats = weights @ values / weights.sum(1)
    return result


def ratio(values: Floats, weights: Floats) -> Floats:
    """Compute mean of the first / mean of the second column of (n, 2) values: enrichment from mass and area."""
    sums = weights @ values
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = sums[:, 0] / sums[:, 1]
    return result


def bootstrap(
    values: npt.ArrayLike,
    patients: Iterable[Hashable],
    *,
    seed: int,
    statistic: Statistic = mean,
    weigh: Literal["patients", "cases"] = "patients",
    replicates: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Compute the expanded BCa interval of a statistic by resampling whole patients.

    The ends are quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) of the replicates; z0 measures their median bias, a is
    the skewness from leaving out one patient at a time, or of more than 2000 patients one of 2000 groups. For small m,
    z is t_(m - 1) sqrt(m / (m - 1)) in place of the normal quantile. Measured coverage of 95 % intervals of enrichment:
    92 % at 20 patients (90 % without this), 94 to 95 % from 70 on; see benchmarks/calibration.md.

    >>> draw = np.random.default_rng(0)
    >>> values, patients = draw.normal(size=60), np.repeat(np.arange(20), 3)
    >>> found = bootstrap(values, patients, seed=0, replicates=999)
    >>> found.low < 0 < found.high
    True

    Args:
        values: (n,) or (n, k), a row per case; rows with NaN are left out.
        patients: n ids.
        seed: of the resampling.
        statistic: from values (n, ...) and weights (B, n) to (B,), such as ``mean`` and ``ratio``.
        weigh: "patients": all patients have equal weight; "cases": all cases have equal weight.
        replicates: B.
        level: of confidence.

    Returns:
        Estimate and interval. Replicates that are NaN or infinite (a class is missing, a ratio has the denominator 0)
        are left out; the ends are NaN where they are more than half, and for fewer than two patients.

    Raises:
        SettingError: when there are not as many ids as values, or fewer than one replicate.

    Reference:
        Efron, Better bootstrap confidence intervals, JASA 1987; Field and Welsh, Bootstrapping clustered data, J. Royal
        Statistical Society B 2007; Hesterberg, What teachers should know about the bootstrap, American Statistician
        2015 (the expansion); Kott, The delete-a-group jackknife, J. Official Statistics 2001.
    """
    at_least_one(replicates)
    array, index = cases_of(values, patients)
    valid = ~np.isnan(array).any(tuple(range(1, array.ndim)))
    array, index = array[valid], patient_index(index[valid].tolist())
    if not len(array):
        return UNKNOWN
    m = int(index.max()) + 1
    share = 1.0 / np.bincount(index)[index] if weigh == "patients" else np.ones(len(index))

    return resampled(
        lambda counts: statistic(array, counts[:, index] * share),
        m,
        width=len(array),
        seed=seed,
        replicates=replicates,
        level=level,
    )


def resampled(
    statistic: Callable[[Floats], Floats], patients: int, *, width: int, seed: int, replicates: int, level: float
) -> Interval:
    """Return what ``bootstrap`` does, for a statistic of how often each patient counts.

    Args:
        statistic: from counts (B, m) to (B,); of each patient once it is the estimate.
        patients: m.
        width: numbers that one replicate needs at a time; as many are evaluated together as memory has room for.
        seed: of the resampling.
        replicates: B.
        level: of confidence.

    Returns:
        As ``bootstrap``.
    """
    at_least_one(replicates)

    def evaluate(batches: Iterator[Floats]) -> Floats:
        values = np.concatenate([statistic(counts) for counts in batches])
        finite: Floats = values[np.isfinite(values)]
        return finite

    estimate = float(statistic(np.ones((1, patients)))[0])
    rows = max(1, ELEMENTS // max(width, patients))
    estimates = evaluate(draws(patients, replicates, rows=rows, seed=seed))
    if patients < 2 or not np.isfinite(estimate) or len(estimates) < replicates / 2:
        return Interval(float("nan"), float("nan"), estimate if np.isfinite(estimate) else float("nan"))
    left_out = evaluate(_without(patients, rows=rows))
    low, high = np.quantile(estimates, _bca_levels(estimates, left_out, estimate=estimate, m=patients, level=level))
    return Interval(float(low), float(high), estimate)


def _bca_levels(estimates: Floats, left_out: Floats, *, estimate: float, m: int, level: float) -> Floats:
    below = (estimates < estimate).mean() + 0.5 * (estimates == estimate).mean()
    bias = ndtri(np.clip(below, 1 / (len(estimates) + 1), 1 - 1 / (len(estimates) + 1)))
    pull = left_out.sum() / max(1, len(left_out)) - left_out
    spread = (pull**2).sum()
    skewness = (pull**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    z = stats.t.ppf((1 + level) / 2, m - 1) * np.sqrt(m / (m - 1))
    moved = bias + np.array([-z, z])
    scale = 1 - skewness * moved
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(scale > 0, bias + moved / scale, np.sign(moved) * np.inf)
    levels: Floats = ndtr(ends)
    return levels


def draws(m: int, replicates: int, *, rows: int, seed: int) -> Iterator[Floats]:
    """Yield how often each of m patients is drawn: (b, m) at a time."""
    generator = np.random.default_rng(seed)
    for start in range(0, replicates, rows):
        size = min(rows, replicates - start)
        patients = generator.integers(0, m, (size, m)) + m * np.arange(size)[:, None]
        yield np.bincount(patients.ravel(), minlength=size * m).reshape(size, m).astype(np.float64)


def _without(m: int, *, rows: int) -> Iterator[Floats]:
    """Yield the weights of m patients with one patient (or one group of many) left out, (b, m) at a time."""
    groups = min(m, _GROUPS)
    group_index = np.arange(m) % groups
    for start in range(0, groups, rows):
        yield 1.0 - (group_index == np.arange(start, min(start + rows, groups))[:, None])
