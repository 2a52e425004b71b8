"""Performance of predictions at a threshold: sensitivity, specificity and predictive values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camscope.errors import SettingError
from camscope.statistics.clustered import ClusteredEstimate, share
from camscope.statistics.hypotheses import Indices


@dataclass(frozen=True)
class Rates:
    """Shares of the images of a label, each with its interval over patients.

    Attributes:
        prevalence: images with the label, of all.
        sensitivity: predicted images, of those with the label.
        specificity: images that are not predicted, of those without the label.
        positive_value: images with the label, of those predicted (positive predictive value).
        negative_value: images without the label, of those not predicted (negative predictive value).
    """

    prevalence: ClusteredEstimate
    sensitivity: ClusteredEstimate
    specificity: ClusteredEstimate
    positive_value: ClusteredEstimate
    negative_value: ClusteredEstimate


def rates(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, patients: Indices, *, cases: npt.ArrayLike | None = None
) -> Rates:
    """Estimate how often predictions are right.

    Predictive values hold at the prevalence of these images; where it differs, so do they.

    >>> found = rates([1, 1, 0, 0], [1, 0, 1, 1], np.arange(4))
    >>> found.specificity.estimate, found.positive_value.estimate
    (0.0, 0.5)

    Args:
        predicted: (n,) true where the label is predicted.
        truth: (n,) true where the label is present.
        patients: (n,) number of each image's patient, see ``patient_index``.
        cases: (n,) true for the images that count, such as those of a subgroup; None: all of them.

    Returns:
        Shares in [0, 1] with intervals, see ``share``.

    Raises:
        SettingError: when predictions, truth and patients differ in number.

    Reference:
        Genders et al., Methods for calculating sensitivity and specificity of clustered data: a tutorial, Radiology
        2012.
    """
    said, present = np.asarray(predicted, bool), np.asarray(truth, bool)
    if not len(said) == len(present) == len(patients):
        counts = f"{len(said)} predictions, {len(present)} truths and {len(patients)} patients"
        raise SettingError(f"Expected one prediction, truth and patient per image, but got {counts}.")
    among = np.ones(len(said), bool) if cases is None else np.asarray(cases, bool)
    return Rates(
        prevalence=share(present, among, patients),
        sensitivity=share(said, among & present, patients),
        specificity=share(~said, among & ~present, patients),
        positive_value=share(present, among & said, patients),
        negative_value=share(~present, among & ~said, patients),
    )
