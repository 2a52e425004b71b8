"""Measure the performance of a label's scores: at the threshold, calibration, net benefit, and subgroups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from camscope.array_types import Floats
from camscope.report.results import Results
from camscope.report.subgroups import Mask, Subgroups, groupings, subgroups
from camscope.statistics.auc import clustered_auc
from camscope.statistics.calibration import (
    CalibrationError,
    Recalibration,
    ReliabilityBin,
    brier,
    calibration_error,
    recalibration,
    reliability,
)
from camscope.statistics.decision import DecisionCurve, decision_curve
from camscope.statistics.hypotheses import Indices, patient_index
from camscope.statistics.intervals import Interval
from camscope.statistics.performance import Rates, rates
from camscope.statistics.ties import all_tied

REPLICATES, SEED = 2000, 0
_GROUPS = 2000
"""Largest number of units in a bootstrap; more patients are drawn in this number of groups."""


@dataclass(frozen=True)
class Calibrated:
    """Calibration and net benefit of the probabilities of a label.

    Attributes:
        brier: Brier score.
        prevalence_brier: Brier score of a constant probability, the prevalence.
        error: expected calibration error.
        fit: slope and intercept of a logistic recalibration.
        points: points of the reliability curve.
        decision: net benefit.
    """

    brier: Interval
    prevalence_brier: float
    error: CalibrationError
    fit: Recalibration
    points: Sequence[ReliabilityBin]
    decision: DecisionCurve


@dataclass(frozen=True)
class LabelPerformance:
    """The performance of the scores of one label.

    Attributes:
        label: the label.
        images: number of images with a score and a known truth.
        positive: number of these images with the label.
        patients: number of patients of these images.
        left_out: the images that are left out, in words; "" if none.
        constant: whether the outputs are the same for all images.
        threshold: threshold of the probability, or of the value of a model without probabilities.
        auc: area under the ROC curve.
        rates: sensitivity, specificity and predictive values at the threshold.
        calibrated: calibration; None for a model without probabilities, or without images.
        why_not: why there is no calibration.
        subgroups: the subgroups, such as views, sites, sexes and ages.
    """

    label: str
    images: int
    positive: int
    patients: int
    left_out: str
    constant: bool
    threshold: float
    auc: Interval
    rates: Rates
    calibrated: Calibrated | None
    why_not: str
    subgroups: Subgroups


def label_performance(results: Results, label: str, *, shown: Callable[[str | None], str] = str) -> LabelPerformance:
    """Measure the performance of a label's scores on the images with known truth.

    Args:
        results: results of a study.
        label: a label of the study.
        shown: returns the displayed name of a value of a subgroup.
    """
    table = results.scored(label)
    is_scored = pl.col("log_odds").is_not_null() & pl.col("log_odds").is_not_nan() & pl.col("outcome").is_not_null()
    rows = table.filter(is_scored & pl.col("truth").is_not_null())
    unknown = len(table.filter(pl.col("truth").is_null()))
    losses = [(unknown, "whose truth is not known"), (len(table) - unknown - len(rows), "without a score")]
    truth = rows["truth"].to_numpy().astype(bool)
    predicted = rows["outcome"].is_in(["TP", "FP"]).to_numpy().astype(bool)
    log_odds, patients = rows["log_odds"].to_numpy(), patient_index(rows["patient"].fill_null("").to_list())
    probabilities = rows["probability"]
    calibrated, why_not = None, ""
    if not len(rows):
        why_not = "no image has both a score and a known truth"
    elif probabilities.null_count():
        why_not = "the model returns a value, not a probability"
    else:
        calibrated = _calibrated(probabilities.to_numpy(), log_odds, truth, patients)
    columns = groupings(rows, results.file, grouped=results.grouped, shown=shown)
    return LabelPerformance(
        label=label,
        images=len(rows),
        positive=int(truth.sum()),
        patients=int(patients.max(initial=-1)) + 1,
        left_out=" and ".join(f"{count:,} image{'s' if count != 1 else ''} {why}" for count, why in losses if count),
        constant=all_tied(log_odds),
        threshold=results.file.labels[label].threshold,
        auc=clustered_auc(log_odds, truth, patients).interval(),
        rates=rates(predicted, truth, patients),
        calibrated=calibrated,
        why_not=why_not,
        subgroups=subgroups(columns, log_odds=log_odds, predicted=predicted, truth=truth, patients=patients),
    )


def _calibrated(probabilities: Floats, log_odds: Floats, truth: Mask, patients: Indices) -> Calibrated:
    drawn = patients if patients.max() < _GROUPS else patients % _GROUPS
    prevalence = float(truth.mean())
    return Calibrated(
        brier(probabilities, truth, drawn, seed=SEED, replicates=REPLICATES),
        prevalence * (1 - prevalence),
        calibration_error(probabilities, truth, drawn, seed=SEED, replicates=REPLICATES),
        recalibration(log_odds, truth, patients),
        reliability(probabilities, truth, patients),
        decision_curve(np.asarray(probabilities), truth, patients),
    )
