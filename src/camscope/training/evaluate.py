"""Evaluation of a model on labelled images, with confidence intervals over patients."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from camscope.array_types import Floats
from camscope.cohort.case import Case
from camscope.errors import CamscopeError, SettingError, check_count
from camscope.explanation.batch import BatchExplainer, Sample
from camscope.files import write_atomically
from camscope.images import decode, fetch, read
from camscope.models.model import Model
from camscope.prefetch import batched
from camscope.progress import Progress
from camscope.statistics.auc import auc_interval
from camscope.statistics.intervals import Interval, bootstrap, exact_interval, mean
from camscope.statistics.ties import all_tied, tied
from camscope.training.dataset import UNKNOWN, Dataset, truth_of

THRESHOLD = 0.5
REPLICATES = 2000
PREDICTIONS = "predictions.csv"
_BINS = 10
_NO_PRESENT, _NO_ABSENT = "no image with the label", "no image without the label"

Figure = dict[str, float | str | None]


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model on labelled images.

    Attributes:
        model: the model.
        cases: the images that could be read, with the sha256 of their files.
        probabilities: (n, labels) in [0, 1]; those of a label that differ by the rounding of a pass alone are equal.
        truth: (n, labels) 1, 0, or NaN if unknown.
        failed: name of each image without a prediction -> reason.
    """

    model: Model
    cases: tuple[Case, ...]
    probabilities: Floats
    truth: Floats
    failed: dict[str, str]

    @property
    def said(self) -> npt.NDArray[np.bool_]:
        """Return (n, labels), true for predicted labels: the most probable class, or all labels from 0.5 on."""
        return answers_of(self.probabilities, one=self.model.outcome == "one")

    @property
    def faults(self) -> dict[str, str]:
        """Return the images that failed because of a fault, and not because their label is unknown."""
        return {name: problem for name, problem in self.failed.items() if problem != UNKNOWN}

    @property
    def patients(self) -> list[str]:
        """Return the patient of each image; unknown patients have the names of their images."""
        return [case.patient for case in self.cases]


def answers_of(probabilities: Floats, *, one: bool) -> npt.NDArray[np.bool_]:
    """Return (n, labels), true for predicted labels: the most probable class, or all labels from 0.5 on.

    >>> answers_of(np.array([[0.6, 0.4]]), one=True).tolist()
    [[True, False]]
    """
    if one:
        highest: npt.NDArray[np.bool_] = np.arange(probabilities.shape[1]) == probabilities.argmax(1)[:, None]
        return highest
    above: npt.NDArray[np.bool_] = probabilities >= THRESHOLD
    return above


def predict(
    model: Model,
    cases: Sequence[Case],
    *,
    batch_size: int = 16,
    progress: Progress = lambda *_: None,
) -> Predictions:
    """Run a model on labelled images.

    Args:
        model: the model, on its device.
        cases: images with truth in the order of the model's labels.
        batch_size: images per forward pass.
        progress: called with "judging", the number of images done, and the total.

    Raises:
        SettingError: a model that returns values and not classes, or no image that can be read.
        OutputError: a model that returns maps of scores or boxes.
    """
    check_count("batch_size", batch_size)
    if model.outcome == "value":
        raise SettingError(f"{model.name} gives values and not classes: it cannot be right or wrong about labels")
    usable_cases: list[Case] = []
    failed = {case.image: case.problem for case in cases if case.problem}
    probabilities: list[Floats] = []

    def samples() -> Iterator[tuple[Case, Sample]]:
        for case in cases:
            if case.problem:
                continue
            try:
                content = fetch(case.source)
                sha256 = hashlib.sha256(content).hexdigest()
                picture = decode(content, case.source)
                yield dataclasses.replace(case, sha256=sha256), Sample.of(model, picture, source=case.source)
            except CamscopeError as error:
                failed[case.image] = " ".join(str(error).split())

    for batch in batched(samples(), batch_size, weigh=lambda pair: pair[1].picture.pixels.nbytes):
        run = BatchExplainer.over(model, [sample for _, sample in batch])
        batch_probabilities = run.model.probability(run.scores.double())
        assert batch_probabilities is not None  # of a value, which was refused
        probabilities.append(batch_probabilities.cpu().numpy())
        usable_cases += [case for case, _ in batch]
        progress("judging", len(usable_cases) + len(failed), len(cases))
    if not usable_cases:
        raise SettingError("none of the images can be read, so that there is nothing to judge")
    truth = truth_of(usable_cases, model.labels)
    columns = [expit(tied(logit(column))) for column in np.concatenate(probabilities).T]
    return Predictions(model, tuple(usable_cases), np.stack(columns, 1), truth, failed)


def sample_of(model: Model, case: Case) -> Sample:
    """Read a case and prepare it for a model.

    Raises:
        CamscopeError: the image cannot be read.
    """
    picture = read(case.source)
    return Sample.of(model, picture, source=case.source)


def count_patients(cases: Sequence[Case]) -> int | None:
    """Return the number of patients; None if they are unknown."""
    known = any(case.patient != case.image for case in cases)
    return len({case.patient for case in cases}) if known else None


def judge(predictions: Predictions, *, seed: int = 0) -> dict[str, Any]:
    """Compute metrics with 95 % confidence intervals over patients.

    Args:
        predictions: predictions of a model.
        seed: random seed of the bootstrap.

    Returns:
        Plain JSON values: "pictures" and "patients" (numbers, None for unknown patients), "accuracy", "f1" (macro),
        "ece" (expected calibration error) and, for each label under "labels": "present", "absent", "auc", "f1",
        "sensitivity", "specificity". An interval is {"estimate", "low", "high"}, with None for undefined values and
        the "reason". "notes" are sentences: labels without an image, which are left out of the macro F1, and labels
        with the same output for all images.
    """
    truth, answers, patients = predictions.truth, predictions.said, predictions.patients
    mask, single = ~np.isnan(truth), predictions.model.outcome == "one"
    right = np.where(mask, answers == (truth == 1), np.nan)
    correct = right.min(1) if single else np.nanmean(right, 1)
    counts = f1_counts(answers, truth)
    labels = {}
    for n, label in enumerate(predictions.model.labels):
        present, absent = truth[:, n] == 1, truth[:, n] == 0
        known = [patients[i] for i in np.flatnonzero(mask[:, n])]
        no_present, no_absent = "" if present.any() else _NO_PRESENT, "" if absent.any() else _NO_ABSENT

        def shared(values: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_], why: str) -> Figure:
            return _share(values[among], [patients[i] for i in np.flatnonzero(among)], seed, why=why)

        area = auc_interval(logit(predictions.probabilities[:, n]), truth[:, n], patients=patients)
        labels[label] = {
            "present": int(present.sum()),
            "absent": int(absent.sum()),
            "auc": _plain(area, why=no_present or no_absent),
            "f1": _f1_interval(counts[mask[:, n], n : n + 1], known, seed, why=no_present),
            "sensitivity": shared(answers[:, n], present, no_present),
            "specificity": shared(~answers[:, n], absent, no_absent),
        }
    return {
        "pictures": len(truth),
        "patients": count_patients(predictions.cases),
        "accuracy": _share(correct, patients, seed),
        "f1": _f1_interval(counts, patients, seed, why="no image with a label"),
        "ece": calibration_error(calibration(predictions)),
        "labels": labels,
        "notes": list(_notes(predictions)),
    }


def _notes(predictions: Predictions) -> Iterator[str]:
    """Yield sentences on what the metrics cannot say."""
    labels = predictions.model.labels
    if missing := [label for label, truth in zip(labels, predictions.truth.T, strict=True) if not (truth == 1).any()]:
        counted = f"macro F1 is the mean of {len(labels) - len(missing)} of {len(labels)} labels"
        yield f"No image has {', '.join(missing)}: F1 and AUC are not defined, and {counted}."
    columns = zip(labels, predictions.probabilities.T, strict=True)
    constant = [label for label, p in columns if all_tied(logit(p))]
    if constant:
        whose = "" if len(constant) == len(labels) else f" of {', '.join(constant)}"
        yield f"The outputs{whose} are the same for all images."


@dataclass(frozen=True)
class Bin:
    """Images of similar certainty: the mean certainty of the model, and how often it is right."""

    pictures: int
    said: float
    found: float


def calibration(predictions: Predictions) -> list[Bin]:
    """Compute certainty against truth in ten bins of equal width; empty bins are left out.

    For one of several classes: the probability of the predicted class, and how often it is right. For any number of
    labels: the probability of each label, and how often it is present.
    """
    if predictions.model.outcome == "one":
        p, hit = predictions.probabilities.max(1), (predictions.said & (predictions.truth == 1)).any(1)
    else:
        mask = ~np.isnan(predictions.truth)
        p, hit = predictions.probabilities[mask], predictions.truth[mask] == 1
    place = np.minimum((p * _BINS).astype(int), _BINS - 1)
    bins = ((place == b) for b in range(_BINS))
    return [Bin(int(m.sum()), float(p[m].mean()), float(hit[m].mean())) for m in bins if m.any()]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Compute the expected calibration error, sum_b n_b / n |said_b - found_b|.

    >>> calibration_error([Bin(3, 0.9, 0.9), Bin(1, 0.5, 0.1)])
    0.1

    Reference:
        Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017. arXiv:1706.04599
    """
    total = sum(b.pictures for b in bins)
    return sum(b.pictures * abs(b.said - b.found) for b in bins) / total


def confusion(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Count (truth, prediction) for one of several classes; for any number of labels (labels, 2, 2), absent first."""
    truth, answers = predictions.truth, predictions.said
    if predictions.model.outcome == "one":
        counts: npt.NDArray[np.int64] = (truth == 1).T.astype(np.int64) @ answers.astype(np.int64)
        return counts
    return np.stack(
        [
            [[int(((t == a) & (s == b)).sum()) for b in (0, 1)] for a in (0, 1)]
            for t, s in zip(truth.T, answers.T, strict=True)
        ]
    ).astype(np.int64)


def write_predictions(predictions: Predictions, folder: Path) -> Path:
    """Write ``predictions.csv``: one row per image with its truth and its probabilities, or the reason for none."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    labels = predictions.model.labels
    writer.writerow(["path", "patient", "split", *labels, *(f"p:{label}" for label in labels), "predicted", "problem"])
    for e, truth, p, answers in zip(
        predictions.cases, predictions.truth, predictions.probabilities, predictions.said, strict=True
    ):
        names = "|".join(label for label, answer in zip(labels, answers, strict=True) if answer)
        cells = ["" if value != value else f"{value:.0f}" for value in truth]
        writer.writerow([e.source, e.patient, e.split, *cells, *map(str, p.tolist()), names, ""])
    for name, problem in predictions.failed.items():
        writer.writerow([name, "", "", *[""] * (2 * len(labels)), "", problem])
    path = folder / PREDICTIONS
    write_atomically(path, lambda file: file.write(text.getvalue().encode("utf-8", "replace")))
    return path


def of_split(dataset: Dataset, split: str) -> tuple[Case, ...]:
    """Return the cases of a split, or all if the data have no splits; those with a problem are included.

    Raises:
        SettingError: a split without images.
    """
    if not any(case.split for case in dataset.cases):
        return dataset.cases
    cases = tuple(e for e in dataset.cases if e.split == split)
    if not cases:
        raise SettingError(f"{dataset.path} has no image in the split {split!r}")
    return cases


def f1_counts(answers: npt.NDArray[np.bool_], truth: Floats) -> Floats:
    """Return (n, labels, 3): true positive, false positive and false negative, 1 or 0; 0 for unknown truth."""
    return np.stack([(truth == 1) & answers, (truth == 0) & answers, (truth == 1) & ~answers], 2).astype(np.float64)


def macro_f1(counts: Floats, weights: Floats) -> Floats:
    """Compute the mean of the labels' F1, 2 TP / (2 TP + FP + FN).

    The F1 of a label that no image has is not defined, since its sensitivity is not, and it is left out of the mean.

    >>> macro_f1(np.array([[[1, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 1, 0]]]), np.ones((1, 2))).round(2).tolist()
    [0.67]

    Args:
        counts: (n, labels, 3), from `f1_counts`.
        weights: (B, n) weights of the images.

    Returns:
        (B,) in [0, 1]; NaN where no label is defined.
    """
    tp, fp, fn = (weights @ counts.reshape(len(counts), -1)).reshape(len(weights), -1, 3).transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        scores = 2 * tp / np.where(tp + fn > 0, 2 * tp + fp + fn, 0.0)
        defined = ~np.isnan(scores)
        result: Floats = np.where(defined, scores, 0.0).sum(1) / defined.sum(1)
    return result


def _f1_interval(counts: Floats, patients: Sequence[str], seed: int, *, why: str) -> Figure:
    """Return the macro F1 of (n, labels, 3) counts; without limits if it is 0 or 1, which resampling cannot change."""
    result = bootstrap(counts, patients, statistic=macro_f1, weigh="cases", seed=seed, replicates=REPLICATES)
    if result.estimate in (0, 1):
        return _plain(
            Interval(float("nan"), float("nan"), result.estimate), why=f"resampling cannot change {result.estimate:.0f}"
        )
    return _plain(result, why=why)


def _share(values: npt.ArrayLike, patients: Sequence[str], seed: int, *, why: str = "") -> Figure:
    """Return the mean over images, with its interval by resampling patients.

    If all images agree, resampling shows no variation: the interval is then the exact one of as many patients.
    """
    array = np.asarray(values, np.float64)
    if len(array) and array.min() == array.max() in (0, 1):
        count = len(set(patients))
        return _plain(exact_interval(count * int(array[0]), count))
    return _plain(bootstrap(array, patients, statistic=mean, weigh="cases", seed=seed, replicates=REPLICATES), why=why)


def _plain(interval: Interval, *, why: str = "") -> Figure:
    """Return an interval as JSON, with the reason if it is not defined."""
    values: Figure = {name: None if np.isnan(value) else float(value) for name, value in asdict(interval).items()}
    return values | ({"reason": why} if why and None in values.values() else {})
