"""Calibration of probabilities: Brier score, reliability curve, expected calibration error, slope and intercept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats
from scipy.special import expit, logit

from camscope.array_types import Floats
from camscope.errors import SettingError
from camscope.statistics.clustered import share
from camscope.statistics.hypotheses import ELEMENTS, Indices, at_least_one
from camscope.statistics.intervals import UNKNOWN, Interval, draws, resampled
from camscope.statistics.ties import all_tied, tied

BINS, PER_BIN = 10, 10
"""Bins of the reliability curve, and the images per bin below which there are fewer bins."""

_TIE, _LARGEST = 1e-12, 100.0
_STEPS, _SMALL = 50, 1e-10
_STEEPEST = 30.0


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability curve.

    Attributes:
        cases: images in the bin.
        patients: number of patients of these images.
        probability: mean probability of these images.
        observed: share of them with the label, with its interval over patients.
    """

    cases: int
    patients: int
    probability: float
    observed: Interval


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error, and what chance alone makes of it.

    Attributes:
        error: with its interval over patients.
        chance: what a perfectly calibrated model would have shown on these images, on average.
        p: of the test that the model is perfectly calibrated in every bin.
    """

    error: Interval
    chance: float
    p: float


@dataclass(frozen=True)
class Recalibration:
    """The logistic recalibration of a model, each number with its interval over patients.

    Attributes:
        slope: of the log-odds; 1 is right, below 1 the probabilities are too extreme.
        intercept: with the slope held at 1: calibration in the large; 0 is right, below 0 the probabilities are too
            high.
    """

    slope: Interval
    intercept: Interval


def brier(
    probabilities: npt.ArrayLike, truth: npt.ArrayLike, patients: Indices, *, seed: int, replicates: int = 10_000
) -> Interval:
    """Return the mean of (p - y)^2 over images.

    >>> brier([0.0, 0.5, 1.0], [False, True, True], np.arange(3), seed=0, replicates=99).estimate.__round__(3)
    0.083

    Args:
        probabilities: (n,) in [0, 1].
        truth: (n,) true where the label is present.
        patients: (n,) number of each image's patient.
        seed: of the bootstrap over patients.
        replicates: B.

    Returns:
        In [0, 1], 0 is perfect; a constant probability equal to the prevalence q has q (1 - q).

    Raises:
        SettingError: for probabilities outside [0, 1] or NaN, or when the numbers of images differ.

    Reference:
        Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 1950.
    """
    p, y = checked(probabilities, truth, patients)
    if not len(p):
        return UNKNOWN
    members, index = np.unique(patients, return_inverse=True)
    m, losses, images = len(members), np.bincount(index, (p - y) ** 2), np.bincount(index).astype(np.float64)
    sampling: dict[str, Any] = {"width": m, "seed": seed, "replicates": replicates, "level": 0.95}
    return resampled(lambda counts: counts @ losses / (counts @ images), m, **sampling)


def bin_index(probabilities: Floats) -> Indices:
    """Return the bin of each image: bins of equal mass, at most 10, with about 10 images each or more.

    Images of one probability share a bin, also if it differs by rounding alone (see ``tied``).

    >>> bin_index(np.repeat([0.1, 0.9], 10)).tolist() == [0] * 10 + [1] * 10
    True
    """
    count = int(np.clip(len(probabilities) // PER_BIN, 1, BINS))
    places = (stats.rankdata(tied(logit(probabilities))) - 0.5) / max(1, len(probabilities))
    # Ties leave bins empty; these are numbered away.
    return np.unique((places * count).astype(np.intp), return_inverse=True)[1].reshape(-1).astype(np.intp)


def reliability(probabilities: npt.ArrayLike, truth: npt.ArrayLike, patients: Indices) -> list[ReliabilityBin]:
    """Return the reliability curve over bins of equal mass, see ``bin_index``.

    >>> points = reliability(np.repeat([0.1, 0.9], 10), np.arange(20) > 9, np.arange(20))
    >>> [(point.probability.__round__(1), point.observed.estimate) for point in points]
    [(0.1, 0.0), (0.9, 1.0)]

    Args:
        probabilities: (n,) in [0, 1].
        truth: (n,) true where the label is present.
        patients: (n,) number of each image's patient.

    Returns:
        One point per bin, probabilities ascending; none without images.

    Raises:
        SettingError: for probabilities outside [0, 1] or NaN, or when the numbers of images differ.

    Reference:
        Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural language processing models,
        EMNLP 2015 (bins of equal mass).
    """
    p, y = checked(probabilities, truth, patients)
    bins = bin_index(p)
    points = []
    for number in range(int(bins.max(initial=-1)) + 1):
        members = bins == number
        observed = share(y, members, patients)
        points.append(
            ReliabilityBin(int(members.sum()), observed.patients, float(p[members].mean()), observed.interval())
        )
    return points


def calibration_error(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    patients: Indices,
    *,
    seed: int,
    replicates: int = 10_000,
    level: float = 0.95,
) -> CalibrationError:
    """Return the expected calibration error over bins of equal mass.

    ECE = sum_b |G_b|, G_b = sum_(i in b) (p_i - y_i) / n.

    Noise makes every |G_b| larger, so that a perfectly calibrated model has an ECE above 0. What chance alone gives is
    the mean of sum_b |N_b|, with the noise N = G* - G from a bootstrap over patients that leaves the bins as they are;
    p is how often it reaches the ECE. The interval is from ECE * s_low to ECE * s_high, at which sum_b |s G_b + N_b|
    is above, or below, the ECE in (1 - level) / 2 of the replicates; it starts at 0 where chance gives as much, and
    holds the ECE. Measured coverage is 88 to 99 % at 20 to 200 patients (``benchmarks/calibration.md``).

    >>> draw = np.random.default_rng(0)
    >>> p = draw.random(500)
    >>> found = calibration_error(p, draw.random(500) < p, np.arange(500), seed=0, replicates=999)
    >>> found.error.low, found.p > 0.05
    (0.0, True)

    Args:
        probabilities: (n,) in [0, 1].
        truth: (n,) true where the label is present.
        patients: (n,) number of each image's patient.
        seed: of the bootstrap over patients.
        replicates: B.
        level: of confidence.

    Returns:
        The error in [0, 1]; ends, chance and p are NaN for fewer than two patients, all NaN without images.

    Raises:
        SettingError: for probabilities outside [0, 1] or NaN, when the numbers of images differ, or for fewer than one
            replicate.

    Reference:
        Guo et al., On calibration of modern neural networks, ICML 2017; Broecker and Smith, Increasing the reliability
        of reliability diagrams, Weather and Forecasting 2007 (chance); Davison and Hinkley, Bootstrap methods and their
        application, 1997 (intervals from tests).
    """
    at_least_one(replicates)
    p, y = checked(probabilities, truth, patients)
    if not len(p):
        return CalibrationError(UNKNOWN, float("nan"), float("nan"))
    members, index = np.unique(patients, return_inverse=True)
    m, bins = len(members), bin_index(p)
    width = int(bins.max()) + 1
    gaps = np.bincount(index * width + bins, p - y, minlength=m * width).reshape(m, width)
    images = np.bincount(index).astype(np.float64)
    gap = gaps.sum(0) / images.sum()
    error = float(np.abs(gap).sum())
    if m < 2:
        return CalibrationError(Interval(float("nan"), float("nan"), error), float("nan"), float("nan"))
    batches = draws(m, replicates, rows=max(1, ELEMENTS // max(m, width)), seed=seed)
    noise = np.concatenate([counts @ gaps / (counts @ images)[:, None] - gap for counts in batches])
    chance = np.abs(noise).sum(1)
    low, high = (_scale_at(gap, noise, error, tail=(1 - level) / 2, above=above) * error for above in (True, False))
    p_value = (1 + int((chance >= error - _TIE).sum())) / (1 + replicates)
    return CalibrationError(Interval(low, min(max(high, error), 1.0), error), float(chance.mean()), p_value)


def _scale_at(gap: Floats, noise: Floats, error: float, *, tail: float, above: bool) -> float:
    """Return the s from 0 on at which a share ``tail`` of sum_b |s G_b + noise_b| lies above, or below, the error."""

    def excess(scale: float) -> float:
        drawn = np.abs(scale * gap + noise).sum(1)
        return tail - float((drawn >= error - _TIE).mean()) if above else float((drawn <= error + _TIE).mean()) - tail

    # Above: more is beyond the error as s grows; below: less is.
    return float(optimize.bisect(excess, 0.0, _LARGEST, xtol=1e-4)) if excess(0.0) > 0 > excess(_LARGEST) else 0.0


def recalibration(
    log_odds: npt.ArrayLike, truth: npt.ArrayLike, patients: Indices, *, level: float = 0.95
) -> Recalibration:
    """Fit logit P(y) = a + b x to the log-odds x, and logit P(y) = a + x, with intervals over patients.

    Maximum likelihood; intervals are estimate +- t_(m - 1) times the cluster sandwich standard error.

    >>> draw = np.random.default_rng(0)
    >>> x = draw.normal(size=2000)
    >>> found = recalibration(2 * x, draw.random(2000) < 1 / (1 + np.exp(-x)), np.arange(2000))
    >>> found.slope.estimate.__round__(1)
    0.5

    Args:
        log_odds: (n,) of the probabilities.
        truth: (n,) true where the label is present.
        patients: (n,) number of each image's patient.
        level: of confidence.

    Returns:
        NaN where there is no finite fit: one class only, classes that the log-odds separate, or infinite log-odds; the
        slope also where all log-odds are the same.

    Raises:
        SettingError: when the numbers of images differ.

    Reference:
        Cox, Two further applications of a model for binary regression, Biometrika 1958; Van Calster et al.,
        Calibration: the Achilles heel of predictive analytics, BMC Medicine 2019; Liang and Zeger, Longitudinal data
        analysis using generalized linear models, Biometrika 1986 (the sandwich).
    """
    x, y = np.asarray(log_odds, np.float64), np.asarray(truth, np.float64)
    _same_number(x, y, patients)
    if not np.isfinite(x).all() or not 0 < y.sum() < len(y):
        return Recalibration(UNKNOWN, UNKNOWN)
    index = np.unique(patients, return_inverse=True)[1]
    ones = np.ones_like(x)
    slope = UNKNOWN
    lows, highs = (np.array([x[y == a].max(), x[y == b].min()]) for a, b in ((0, 1), (1, 0)))
    # Separated classes, either way round, have no finite slope.
    if lows[0] > lows[1] and highs[0] > highs[1] and not all_tied(x):
        slope = _fitted(np.column_stack([ones, x]), y, np.zeros_like(x), index, level)
    return Recalibration(slope, _fitted(ones[:, None], y, x, index, level))


def _fitted(design: Floats, y: Floats, offset: Floats, index: Indices, level: float) -> Interval:
    """Return the last coefficient of a logistic regression."""
    # Newton's steps on columns of one scale; large log-odds would otherwise swamp the first of them.
    scale = np.maximum(np.abs(design).max(0), 1e-300)
    X, beta = design / scale, np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = expit(X @ beta + offset)
        information = (X * (p * (1 - p))[:, None]).T @ X
        if np.linalg.cond(information) > 1 / np.finfo(float).eps:
            return UNKNOWN
        step = np.linalg.solve(information, X.T @ (y - p))
        beta = beta + step * min(1.0, _STEEPEST / max(_SMALL, float(np.abs(step).max())))
        if np.abs(step).max() < _SMALL * max(1.0, float(np.abs(beta).max())):
            break
    else:
        return UNKNOWN
    m = int(index.max()) + 1
    estimate = float(beta[-1] / scale[-1])
    if m < 2:
        return Interval(float("nan"), float("nan"), estimate)
    residuals = X * (y - expit(X @ beta + offset))[:, None]
    sums = np.column_stack([np.bincount(index, column, minlength=m) for column in residuals.T])
    bread = np.linalg.inv(information)
    error = np.sqrt(m / (m - 1) * (bread @ sums.T @ sums @ bread)[-1, -1]) / scale[-1]
    reach = float(stats.t.ppf((1 + level) / 2, m - 1) * error)
    return Interval(estimate - reach, estimate + reach, estimate)


def checked(probabilities: npt.ArrayLike, truth: npt.ArrayLike, patients: Indices) -> tuple[Floats, Floats]:
    """Return probabilities and truth as numbers.

    Raises:
        SettingError: for probabilities outside [0, 1] or NaN, or when the numbers of images differ.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(truth, np.float64)
    _same_number(p, y, patients)
    if not ((p >= 0) & (p <= 1)).all():
        raise SettingError("Expected probabilities between 0 and 1, but got other values; leave NaN out first.")
    return p, y


def _same_number(values: Floats, truth: Floats, patients: Indices) -> None:
    if not len(values) == len(truth) == len(patients):
        counts = f"{len(values)}, {len(truth)} and {len(patients)}"
        raise SettingError(f"Expected one value, truth and patient per image, but got {counts}.")
