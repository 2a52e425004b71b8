"""Hypothesis tests over patients, since images of one patient are not independent."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from camscope.array_types import Floats
from camscope.errors import SettingError

Indices = npt.NDArray[np.intp]

ELEMENTS = 2_000_000
_MORE = 20
_TIE = 1e-12


@dataclass(frozen=True)
class Equivalence:
    """Result of two one-sided tests: the p-value, and the smallest margin at which they would pass."""

    p: float
    smallest_delta: float


def patient_index(patients: Iterable[Hashable]) -> Indices:
    """Number the patients in the order in which they first appear.

    >>> patient_index(["b", "a", "b"]).tolist()
    [0, 1, 0]

    Args:
        patients: n ids, any hashable values.

    Returns:
        (n,) integers from 0 to m - 1.
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], np.intp)


def patient_means(values: npt.ArrayLike, patients: Iterable[Hashable]) -> Floats:
    """Compute the mean per patient.

    >>> patient_means([1, 3, 5], ["a", "a", "b"]).tolist()
    [2.0, 5.0]

    Args:
        values: (n, ...), numbers or maps; NaN values are left out.
        patients: n ids.

    Returns:
        (m, ...) in the order in which patients first appear; NaN where a patient has no value.

    Raises:
        SettingError: when there are not as many ids as values.
    """
    array, index = cases_of(values, patients)
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    valid = ~np.isnan(array)[order]
    if not len(order):
        return array
    with np.errstate(invalid="ignore"):
        sums = np.add.reduceat(np.where(valid, array[order], 0.0), starts)
        means: Floats = sums / np.add.reduceat(valid, starts, dtype=np.intp)
    return means


def sign_flip(means: npt.ArrayLike, *, seed: int, replicates: int = 10_000) -> float:
    """Run a two-sided sign-flip permutation test of effects that are symmetric around 0.

    p = (1 + #{|sum_i s_i d_i| >= |sum_i d_i|}) / (B + 1) over B random sign vectors s. Where no more than B other sign
    vectors exist, each of them is used once, and p is exact. Where none of the B reaches the sum, 20 B are drawn, so
    that p can be small enough for a correction for many tests.

    >>> sign_flip([1, 1, 1, 1, 1], seed=0)  # 2 of 32 sign vectors
    0.0625

    Args:
        means: (m,) mean effect of each patient; NaN is left out.
        seed: of the random signs.
        replicates: B.

    Returns:
        p in (0, 1]; NaN without patients.

    Raises:
        SettingError: for fewer than one replicate.

    Reference:
        Winkler et al., Permutation inference for the general linear model, NeuroImage 2014.
    """
    effects = _known(means)
    if not len(effects):
        return float("nan")
    bar = abs(effects.sum()) - _TIE * np.abs(effects).sum()
    for drawn in (replicates, _MORE * replicates):
        count, total = 0, 0
        for signs in _signs(len(effects), drawn, seed=seed, width=len(effects)):
            count += int((np.abs(signs @ effects) >= bar).sum())
            total += len(signs)
        if count or total < drawn:
            break
    return (1 + count) / (1 + total)


def max_statistic(maps: npt.ArrayLike, *, seed: int, replicates: int = 10_000) -> Floats:
    """Compute the family-wise p-value of each cell of a difference map, by sign flips and the largest |t|.

    p_c = (1 + #{max_k |t_k(s)| >= |t_c|}) / (B + 1), where s flips the whole map of a patient. All cells share m, so
    that the order of |t| is that of |sum_i d_ic| / sqrt(sum_i d_ic^2), which is what is counted.

    >>> maps = np.random.default_rng(0).normal(size=(20, 4, 4))
    >>> maps[:, 0, 0] += 3
    >>> np.argwhere(max_statistic(maps, seed=0, replicates=999) < 0.05).tolist()
    [[0, 0]]

    Args:
        maps: (m, h, w) mean difference map of each patient.
        seed: of the random signs.
        replicates: B; where no more than B other sign vectors exist, each of them is used once.

    Returns:
        (h, w) in (0, 1]: 1 where all patients have 0, NaN where one has NaN.

    Raises:
        SettingError: for fewer than one replicate.

    Reference:
        Nichols and Holmes, Nonparametric permutation tests for functional neuroimaging, Human Brain Mapping 2002;
        Winkler et al., NeuroImage 2014.
    """
    array = np.asarray(maps, np.float64)
    flat = array.reshape(len(array), int(np.prod(array.shape[1:])))
    unseen = np.isnan(flat).any(0)
    length = np.sqrt((flat**2).sum(0))
    unit = np.divide(flat, length, out=np.zeros_like(flat), where=~unseen & (length > 0))
    bars = np.abs(unit.sum(0)) - _TIE * len(flat)
    counts, total = np.zeros(flat.shape[1]), 0
    for signs in _signs(len(flat), replicates, seed=seed, width=flat.shape[1]):
        highest = np.sort(np.abs(signs @ unit).max(1))
        counts += len(highest) - np.searchsorted(highest, bars)
        total += len(signs)
    p = (1 + counts) / (1 + total)
    return np.where(unseen, np.nan, p).reshape(array.shape[1:])


def tost(means: npt.ArrayLike, *, delta: float, level: float = 0.05) -> Equivalence:
    """Run two one-sided t tests that the mean effect is inside (-delta, delta).

    p = max(P(T > (d + delta) / se), P(T < (d - delta) / se)), d = mean, se = SD / sqrt(m), T of m - 1 degrees of
    freedom. The smallest delta that passes is |d| + t_(1 - level, m - 1) se.

    >>> tost([0.1, -0.1, 0.05, -0.05], delta=0.2).p < 0.05
    True

    Args:
        means: (m,) mean effect of each patient; NaN is left out.
        delta: margin of equivalence, above 0, in the unit of the effects.
        level: of each one-sided test.

    Returns:
        p and the smallest delta; NaN for fewer than two patients.

    Raises:
        SettingError: for a margin that is not above 0.

    Reference:
        Schuirmann, A comparison of the two one-sided tests procedure and the power approach, J. Pharmacokinetics and
        Biopharmaceutics 1987.
    """
    if not delta > 0:
        raise SettingError(f"delta is {delta}: a margin of equivalence is above 0, such as 0.1")
    effects = _known(means)
    m = len(effects)
    if m < 2:
        return Equivalence(float("nan"), float("nan"))
    mean, error = effects.mean(), effects.std(ddof=1) / np.sqrt(m)
    room = delta - abs(mean)
    p = stats.t.sf(room / error, m - 1) if error > 0 else float(room <= 0)
    return Equivalence(float(p), float(abs(mean) + stats.t.isf(level, m - 1) * error))


def holm(p: npt.ArrayLike) -> Floats:
    """Adjust p values for a family of tests, so that the chance of any false rejection is bounded.

    With p_(1) <= ... <= p_(k): adjusted p_(i) = min(1, max_{j <= i} (k - j + 1) p_(j)).

    >>> holm([0.01, 0.04, float("nan"), 0.03]).tolist()
    [0.03, 0.06, nan, 0.06]

    Args:
        p: any shape; NaN is a test that was not run: it stays NaN and does not count in k.

    Returns:
        The shape of ``p``.

    Reference:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian J. Statistics 1979.
    """
    adjusted = np.array(p, np.float64)
    valid = ~np.isnan(adjusted)
    values = adjusted[valid]
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    values[order] = np.minimum(steps, 1)
    adjusted[valid] = values
    return adjusted


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """Adjust p values for a screen of tests, so that the expected share of false rejections is bounded.

    With p_(1) <= ... <= p_(k): adjusted p_(i) = min_{j >= i} k p_(j) / j. Valid for independent or positively dependent
    tests.

    >>> benjamini_hochberg([0.01, 0.04, float("nan"), 0.03]).tolist()
    [0.03, 0.04, nan, 0.04]

    Args:
        p: any shape; NaN is a test that was not run: it stays NaN and does not count in k.

    Returns:
        The shape of ``p``.

    Reference:
        Benjamini and Hochberg, Controlling the false discovery rate, J. Royal Statistical Society B 1995.
    """
    adjusted = np.array(p, np.float64)
    valid = ~np.isnan(adjusted)
    adjusted[valid] = stats.false_discovery_control(adjusted[valid])
    return adjusted


def _signs(m: int, replicates: int, *, seed: int, width: int) -> Iterator[Floats]:
    """Yield sign vectors other than (1, ..., 1), (b, m) at a time: all 2^m - 1 if at most ``replicates``."""
    at_least_one(replicates)
    exact = m < 63 and 2**m - 1 <= replicates
    total = 2**m - 1 if exact else replicates
    rows = max(1, ELEMENTS // max(1, m + width))
    generator = np.random.default_rng(seed)
    for start in range(0, total, rows):
        size = min(rows, total - start)
        if exact:
            flipped = (np.arange(start + 1, start + 1 + size)[:, None] >> np.arange(m)) & 1
        else:
            flipped = generator.integers(0, 2, (size, m), np.int8)
        yield 1.0 - 2.0 * flipped.astype(np.float64)


def cases_of(values: npt.ArrayLike, patients: Iterable[Hashable]) -> tuple[Floats, Indices]:
    """Return the values as an array, and the patient number of each value."""
    array, index = np.asarray(values, np.float64), patient_index(patients)
    if len(array) != len(index):
        raise SettingError(f"{len(array)} values and {len(index)} patient ids: give one id a value")
    return array, index


def _known(means: npt.ArrayLike) -> Floats:
    array = np.asarray(means, np.float64)
    return array[~np.isnan(array)]


def at_least_one(replicates: int) -> None:
    """Refuse a test without replicates."""
    if replicates < 1:
        raise SettingError(f"replicates is {replicates}: use at least 1, and 10000 for results to report")
