"""Recognise networks, and classifiers, that nobody has trained: what was random when it was made, and still is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from camscope.models.model import Model

NEW_HEAD = "new_head"
"""Fact with which a source says that published weights were loaded, but for a new classifier."""
FACT = "untrained"
"""Fact of a model that says what of it is random, and how to see whether it still is."""
_NETWORK, _HEAD = "random weights", "random classifier"
_NOTES = {
    _NETWORK: "random weights: the map shows the architecture, and nothing that was learned",
    _HEAD: "random classifier: the published weights are for other classes; train it before you read its maps",
}


def marked(model: Model, *, weights: object) -> Model:
    """Return a model just made by a source, whose facts say what of it is random.

    Args:
        model: its facts may hold `NEW_HEAD`.
        weights: "none" if all weights are random.
    """
    facts = dict(model.facts)
    has_new_head = facts.pop(NEW_HEAD, False)
    if weights == "none" or has_new_head:
        name = _watched(model)
        facts[FACT] = {
            "what": _NETWORK if weights == "none" else _HEAD,
            "parameter": name,
            "norm": _norm(model.net, name),
        }
    return replace(model, facts=facts)


def untrained(net: nn.Module, facts: Mapping[str, Any]) -> str:
    """Return "random weights", "random classifier", or "" if the network was trained, also since it was made.

    >>> net = nn.Linear(3, 2)
    >>> fact = {"what": "random weights", "parameter": "weight", "norm": net.weight.detach().double().norm().item()}
    >>> untrained(net, {"untrained": fact}), untrained(nn.Linear(3, 2), {"untrained": fact}), untrained(net, {})
    ('random weights', '', '')
    """
    fact = facts.get(FACT)
    if not isinstance(fact, Mapping) or fact.get("what") not in _NOTES:
        return ""
    norm = _norm(net, fact.get("parameter"))
    return fact["what"] if math.isclose(norm, fact.get("norm", math.nan), rel_tol=1e-6) else ""


def note(what: str) -> str:
    """Return the note on explanations of a network of which something is random."""
    return _NOTES[what]


def _watched(model: Model) -> str:
    """Return the name of a parameter that any training changes: the classifier's weights, or the last ones."""
    count = 0 if model.recipe is None else model.recipe.classes
    matrices = {name: weight for name, weight in model.net.named_parameters() if weight.ndim > 1}
    of_classes = [name for name, weight in matrices.items() if weight.shape[0] == count]
    return (of_classes or list(matrices) or [""])[-1]


def _norm(net: nn.Module, parameter: object) -> float:
    weight = dict(net.named_parameters()).get(str(parameter))
    return math.nan if weight is None else float(weight.detach().double().norm())
