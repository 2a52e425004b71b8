"""The most certain mistakes of a model, each explained for the prediction and for the truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from camscope.explanation import Explanation
from camscope.explanation.batch import BatchExplainer, ResolvedTarget
from camscope.explanation.method_lookup import find_method, method_name
from camscope.files import write_atomically
from camscope.models.model import Model
from camscope.progress import Progress
from camscope.targets import Target, category
from camscope.training.evaluate import Predictions, sample_of

FAILURES = "failures.csv"
MOST = 4
"""Maximum number of failures that are explained per class and kind."""

Kind = Literal["false positive", "false negative"]


@dataclass(frozen=True)
class Failure:
    """An image on which a model is wrong.

    Attributes:
        number: index of the image in the predictions.
        kind: "false positive": the model predicts a label that is absent; "false negative": it misses a present one.
        label: the label that the model is wrong about.
        said: prediction of the model: a class, or "no LABEL".
        true: the truth: a class, or "no LABEL".
        certainty: probability in [0, 1] that the model gives to its prediction.
    """

    number: int
    kind: Kind
    label: str
    said: str
    true: str
    certainty: float


@dataclass(frozen=True)
class ExplainedFailure:
    """A failure with the map for the prediction and the map for the truth, from the same forward pass."""

    failure: Failure
    said: Explanation
    true: Explanation


def find_failures(predictions: Predictions) -> list[Failure]:
    """Return all mistakes of a model, the most certain first."""
    model, answers = predictions.model, predictions.said
    single = model.outcome == "one"
    failures = []
    for i, n in np.argwhere(~np.isnan(predictions.truth) & (answers != (predictions.truth == 1))):
        label, p = model.labels[n], float(predictions.probabilities[i, n])
        positive = bool(answers[i, n])
        if single:
            predicted, right = int(answers[i].argmax()), int(predictions.truth[i].argmax())
            words = model.labels[predicted], model.labels[right]
            certainty = float(predictions.probabilities[i, predicted])
        else:
            words = (label, f"no {label}") if positive else (f"no {label}", label)
            certainty = p if positive else 1 - p
        kind: Kind = "false positive" if positive else "false negative"
        failures.append(Failure(int(i), kind, label, *words, certainty))
    return sorted(failures, key=lambda failure: (-failure.certainty, failure.number, failure.label))


def worst(failures: Sequence[Failure], model: Model, *, most: int = MOST) -> list[Failure]:
    """Return the most certain false positives and false negatives of each class, up to ``most`` of each."""
    selection = []
    for label in model.labels:
        for kind in ("false positive", "false negative"):
            selection += [failure for failure in failures if (failure.label, failure.kind) == (label, kind)][:most]
    return selection


def explain_failures(
    predictions: Predictions,
    failures: Sequence[Failure],
    *,
    method: str = "gradcam",
    layer: str | None = None,
    batch_size: int = 16,
    progress: Progress = lambda *_: None,
) -> Iterator[ExplainedFailure]:
    """Explain failures, each for the prediction and for the truth.

    Where labels are present or absent, the map for "no LABEL" is that of the label's negated score: the evidence
    against the label.

    Args:
        predictions: predictions that the failures are from.
        failures: the failures to explain.
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)".
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        batch_size: images per forward pass.
        progress: called with "explaining failures", the number of failures done, and the total.

    Yields:
        Each failure with its two explanations.
    """
    functions = [(method_name(method), find_method(method))]
    for start in range(0, len(failures), batch_size):
        batch = failures[start : start + batch_size]
        samples = [sample_of(predictions.model, predictions.cases[failure.number]) for failure in batch]
        run = BatchExplainer.over(predictions.model, samples, functions=[functions[0][1]], layer=layer)
        goals = [[_goal(predictions.model, failure.said), _goal(predictions.model, failure.true)] for failure in batch]
        pairs: list[list[Explanation]] = [[] for _ in batch]
        for i, e in run.explain(functions, goals, settings={}):
            pairs[i].append(e)
        for failure, (answer, truth) in zip(batch, pairs, strict=True):
            yield ExplainedFailure(failure, answer, truth)
        progress("explaining failures", start + len(batch), len(failures))


def _goal(model: Model, words: str) -> ResolvedTarget:
    """Return the target of a class, or of "no LABEL"."""
    if words in model.labels:
        index = model.labels.index(words)
        return ResolvedTarget(words, index, category(index))
    return ResolvedTarget(words, None, against(model.labels.index(words.removeprefix("no "))))


def against(index: int) -> Target:
    """Return the target function for the evidence against a label: -output[index].

    >>> import torch
    >>> against(0)(torch.tensor([2.0]))
    tensor(-2.)
    """
    score = category(index)

    def negative(output: Tensor) -> Tensor:
        return -score(output)

    return negative


def write_failures(predictions: Predictions, failures: Sequence[Failure], folder: Path) -> Path:
    """Write ``failures.csv``: one row per mistake, the most certain first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "patient", "kind", "label", "said", "true", "certainty"])
    for f in failures:
        case = predictions.cases[f.number]
        writer.writerow([case.source, case.patient, f.kind, f.label, f.said, f.true, f"{f.certainty:.6f}"])
    path = folder / FAILURES
    write_atomically(path, lambda file: file.write(text.getvalue().encode("utf-8", "replace")))
    return path
