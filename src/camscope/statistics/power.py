"""Power: the smallest effect that a test could have shown."""

from __future__ import annotations

import bisect
import math

import numpy as np
from scipy import optimize, stats

from camscope.errors import SettingError


def detectable(sd: float, patients: int, *, level: float = 0.05, power: float = 0.8, replicates: int = 10_000) -> float:
    """Return the smallest mean effect that a two-sided test would show with some power.

    That of the t test of m means with standard deviation s, which a sign-flip test approaches: d = c s / sqrt(m), with
    the noncentrality c at which P(|T| > t_(1 - level / 2, m - 1)) is the power. A sign-flip test has no p below
    2 / 2^m, nor below 1 / (B + 1); where this is above the level, no effect of any size is shown.

    >>> detectable(1.0, 34).__round__(2), detectable(1.0, 8, level=0.05 / 20)
    (0.5, inf)

    Args:
        sd: standard deviation of the patients' mean effects.
        patients: m.
        level: of significance; for the smallest of k p-values in Holm's method it is 0.05 / k.
        power: the chance that p is below the level.
        replicates: B of the sign flips.

    Returns:
        In the unit of ``sd``; NaN for fewer than two patients or an unknown deviation.

    Raises:
        SettingError: for a level or power that is not above 0 and below 1, or a power that is not above the level.

    Reference:
        Cohen, Statistical power analysis for the behavioral sciences, 1988.
    """
    if not 0 < level < power < 1:
        raise SettingError(f"Expected 0 < level < power < 1, but got a level of {level:g} and a power of {power:g}.")
    if patients < 2 or not sd >= 0:
        return float("nan")
    if max(2.0 ** (1 - patients), 1 / (replicates + 1)) > level:
        return float("inf")
    df = patients - 1
    bar = stats.t.isf(level / 2, df)

    def lack(c: float) -> float:
        # SciPy has no value for a lower tail that is next to 0.
        return float(stats.nct.sf(bar, df, c) + np.nan_to_num(stats.nct.cdf(-bar, df, c))) - power

    centre = optimize.brentq(lack, 0.0, 2 * bar + 10)
    return float(centre * sd / np.sqrt(patients))


def patients_to_show(effect: float, sd: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """Return how many patients a two-sided test needs to show a mean effect with some power, see `detectable`.

    Args:
        effect: mean effect, not 0.
        sd: standard deviation of the patients' mean effects, in the same unit.
        level: of significance.
        power: the chance that p is below the level.

    Returns:
        Whole number of patients; inf for more than a million.

    >>> patients_to_show(0.5, 1.0), patients_to_show(1e-6, 1.0)
    (34, inf)
    """
    enough = next((2**k for k in range(1, 21) if _shows(2**k, effect, sd, level, power)), None)
    if enough is None:
        return math.inf
    sizes = range(enough // 2 + 1, enough + 1)
    return sizes[bisect.bisect_left(sizes, True, key=lambda m: _shows(m, effect, sd, level, power))]


def _shows(patients: int, effect: float, sd: float, level: float, power: float) -> bool:
    return detectable(sd, patients, level=level, power=power, replicates=10**9) <= abs(effect)


def patients_to_exclude(delta: float, effect: float, sd: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """Return how many patients two one-sided tests need to exclude a mean effect of delta with some power.

    m = ((z_(1 - level) + z_power) s / (delta - |d|))^2, by the normal approximation, for a true effect d.

    Args:
        delta: the smallest effect that matters.
        effect: d, the true mean effect.
        sd: s, standard deviation of the patients' mean effects.
        level: of significance.
        power: the chance that both tests are significant.

    Returns:
        Whole number of patients, at least 2; inf for more than a million, or an effect not below delta.

    >>> patients_to_exclude(0.5, 0.0, 1.0), patients_to_exclude(0.1, 0.2, 1.0)
    (25, inf)

    Reference:
        Julious, Sample sizes for clinical trials with normal data, Statistics in Medicine 2004.
    """
    if not abs(effect) < delta:
        return math.inf
    z = stats.norm.isf(level) + stats.norm.ppf(power)
    number = (z * sd / (delta - abs(effect))) ** 2
    return math.inf if number > 10**6 else max(math.ceil(number), 2)
