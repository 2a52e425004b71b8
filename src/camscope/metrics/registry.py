"""Registry of the metrics by name. The names of a metric's required parameters tell its kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

Metric = Callable[..., Tensor]
"""A function of one of the kinds in `KINDS`, with keyword-only settings; it returns (B,)."""

Score = Callable[[Tensor, Tensor], Tensor]
"""(inputs (N, C, *space), rows (N,)) -> (N,) explained scores of edited inputs; row i is an edit of image rows[i]."""

Explain = Callable[[Tensor], Tensor]
"""inputs (B, C, *space), input i an edit of image i of the batch -> signed maps (B, *grid)."""

KINDS: dict[tuple[str, ...], str] = {
    ("maps", "masks"): "localisation",
    ("maps",): "complexity",
    ("maps", "inputs", "score"): "faithfulness",
    ("explain", "inputs"): "robustness",
    ("explain", "inputs", "score"): "robustness",
    ("maps", "others"): "comparison",
    ("explain", "net"): "randomisation",
}
"""Names of the required parameters of a metric -> its kind."""


@dataclass(frozen=True)
class Facts:
    """Direction and range of a metric, and the score that it needs.

    Attributes:
        best: "high" or "low": which values are better; "none" if neither is, such as for the sparseness of a map. For
            rank correlations "low" means far from 1: a value below 0 is no better than 0.
        low: smallest possible value.
        high: largest possible value.
        score: scale that the score function must be on, "probability" or "logit"; "" for a metric without a score.
        tuned: whether the metric returns curves (B, ..., T) over `THRESHOLDS`; `tuned` makes one number of a set.
    """

    best: Literal["high", "low", "none"]
    low: float = 0.0
    high: float = 1.0
    score: Literal["", "probability", "logit"] = ""
    tuned: bool = False


METRICS: dict[str, Metric] = {}
"""Metrics by name."""
FACTS: dict[str, Facts] = {}
"""Facts of each metric, by its name."""

_Function = TypeVar("_Function", bound=Metric)


def metric(facts: Facts) -> Callable[[_Function], _Function]:
    """Register a metric under its function's name."""

    def register(function: _Function) -> _Function:
        METRICS[function.__name__], FACTS[function.__name__] = function, facts
        return function

    return register


def kind(function: Metric) -> str:
    """Return the kind of a metric, from the names of its required parameters.

    >>> kind(lambda maps, masks, *, tolerance=0: maps.sum((1, 2)))
    'localisation'

    Raises:
        KeyError: the function is not a metric.
    """
    parameters = inspect.signature(function).parameters.values()
    names = (p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
    return KINDS[tuple(names)]
