"""Decision curves: the net benefit of acting on the predictions of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from camscope.array_types import Floats
from camscope.errors import SettingError
from camscope.statistics.calibration import checked
from camscope.statistics.clustered import share
from camscope.statistics.hypotheses import Indices

THRESHOLDS: Floats = np.arange(1, 100) / 100


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over the threshold probabilities, (t,) each; in true positives per image.

    Attributes:
        thresholds: probabilities from which on one would act.
        model: acting where the model's probability reaches the threshold.
        low: lower end of its pointwise 95 % interval over patients.
        high: upper end.
        treat_all: acting on every image; acting on none has 0.
        is_better: where the model beats acting on all and on none: the share of images with the label is below t, with
            its whole 95 % interval, among those not acted on, and above t among those acted on.
    """

    thresholds: Floats
    model: Floats
    low: Floats
    high: Floats
    treat_all: Floats
    is_better: npt.NDArray[np.bool_]

    def ranges(self) -> list[tuple[float, float]]:
        """Return the ranges of thresholds at which the model is better, as first and last threshold."""
        steps = np.flatnonzero(np.diff(self.is_better, prepend=False, append=False))
        return [(float(self.thresholds[a]), float(self.thresholds[b - 1])) for a, b in steps.reshape(-1, 2)]


def decision_curve(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    patients: Indices,
    *,
    thresholds: Floats = THRESHOLDS,
    level: float = 0.95,
) -> DecisionCurve:
    """Compute net benefit, TP / n - FP / n * t / (1 - t), at each threshold probability t.

    TP and FP are images with and without the label whose probability is at least t. The net benefit is a mean over
    images; its interval is +- t_(m - 1) times the standard error over m patients. It is above that of acting on all
    exactly where fewer than a share t of the images not acted on have the label, and above 0 exactly where more than t
    of the others have it. These shares, whose intervals hold with few images too, tell where the model is better.

    >>> curve = decision_curve([0.1, 0.9, 0.2, 0.8], [False, True, False, True], np.arange(4))
    >>> curve.model[49], curve.treat_all[49]
    (np.float64(0.5), np.float64(0.0))

    Args:
        probabilities: (n,) in [0, 1].
        truth: (n,) true where the label is present.
        patients: (n,) number of each image's patient, see ``patient_index``.
        thresholds: (t,) in (0, 1), ascending.
        level: of confidence.

    Returns:
        The curves; ends are NaN for fewer than two patients, all NaN without images.

    Raises:
        SettingError: for probabilities outside [0, 1] or NaN, thresholds outside (0, 1), or numbers that differ.

    Reference:
        Vickers and Elkin, Decision curve analysis: a novel method for evaluating prediction models, Medical Decision
        Making 2006.
    """
    p, y = checked(probabilities, truth, patients)
    at = np.asarray(thresholds, np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise SettingError("Expected threshold probabilities above 0 and below 1.")
    index = np.unique(patients, return_inverse=True)[1].reshape(-1)
    m = int(index.max(initial=-1)) + 1
    images, positives = (np.bincount(index, of, minlength=m).astype(np.float64) for of in (np.ones_like(p), y))
    odds = at / (1 - at)
    treated, is_better = np.empty((m, len(at))), np.zeros(len(at), bool)
    for n, (threshold, cost) in enumerate(zip(at, odds, strict=True)):
        acted = p >= threshold
        treated[:, n] = np.bincount(index, acted * np.where(y == 1, 1.0, -cost), minlength=m)
        missed, found = (share(y, of, index).interval(level) for of in (~acted, acted))
        is_better[n] = missed.high < threshold < found.low
    everyone = positives[:, None] - (images - positives)[:, None] * odds
    model, low, high = _mean_per_image(treated, images, level)
    treat_all, _, _ = _mean_per_image(everyone, images, level)
    return DecisionCurve(at, model, low, high, treat_all, is_better)


def _mean_per_image(sums: Floats, images: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """Return the mean over images from the sums of m patients, (m, t), and the ends of its interval."""
    m = len(sums)
    if m < 2:
        unknown = np.full(sums.shape[1], np.nan)
        return (sums[0] / images[0] if m else unknown), unknown, unknown
    means: Floats = sums.sum(0) / images.sum()
    residuals = (sums - means * images[:, None]) / images.sum()
    reach = stats.t.ppf((1 + level) / 2, m - 1) * np.sqrt(m / (m - 1) * (residuals**2).sum(0))
    return means, means - reach, means + reach
