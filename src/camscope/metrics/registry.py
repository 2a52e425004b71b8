"""The metrics by name. A metric is one function, and its kind is told by its parameters' names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

Metric = Callable[..., Tensor]
"""A function of one of the kinds in `KINDS`, with settings behind ``*``; it returns (B,)."""

Score = Callable[[Tensor, Tensor], Tensor]
"""(inputs (N, C, *space), rows (N,)) -> (N,): the explained score of edited inputs, row i an edit of image rows[i]."""

Explain = Callable[[Tensor], Tensor]
"""inputs (B, C, *space), each an edit of its own image of the batch -> maps (B, *grid), signed."""

KINDS: dict[tuple[str, ...], str] = {
    ("maps", "masks"): "localisation",
    ("maps",): "complexity",
    ("maps", "inputs", "score"): "faithfulness",
    ("explain", "inputs"): "robustness",
    ("explain", "inputs", "score"): "robustness",
    ("maps", "others"): "comparison",
    ("explain", "net"): "randomisation",
}
"""The parameters that a metric must be given -> its kind."""


@dataclass(frozen=True)
class Facts:
    """What one must know to read a metric.

    Attributes:
        best: "high" or "low": which values are better; "none" where neither is, as of how sparse a map is. Of rank
            correlations "low" means far from 1: below 0 is no better than 0.
        low: the smallest value that is possible.
        high: the largest.
        score: the scale that its score function must be on, "probability" or "logit"; "" where it needs none.
        tuned: whether it returns curves (B, ..., T) over `THRESHOLDS`, for `tuned` to make one number of a whole set.
    """

    best: Literal["high", "low", "none"]
    low: float = 0.0
    high: float = 1.0
    score: Literal["", "probability", "logit"] = ""
    tuned: bool = False


METRICS: dict[str, Metric] = {}
"""All metrics."""
FACTS: dict[str, Facts] = {}
"""What to know of each."""

_Function = TypeVar("_Function", bound=Metric)


def metric(facts: Facts) -> Callable[[_Function], _Function]:
    """Register a metric under its function's name."""

    def register(function: _Function) -> _Function:
        METRICS[function.__name__], FACTS[function.__name__] = function, facts
        return function

    return register


def kind(function: Metric) -> str:
    """The kind of a metric, told by what it must be given.

    >>> kind(lambda maps, masks, *, tolerance=0: maps.sum((1, 2)))
    'localisation'

    Raises:
        KeyError: a function that is no metric.
    """
    parameters = inspect.signature(function).parameters.values()
    asked = (p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
    return KINDS[tuple(asked)]
