"""Recognise networks, and classifiers, that nobody has trained: what was random when it was made, and still is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from camscope.models.model import Model

NEW_HEAD = "new_head"
"""Fact with which a source says that published weights were loaded, but for a new classifier."""
FACT = "untrained"
"""Fact of a model that says what of it is random, and how to see whether it still is."""
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_LARGE = 512  # numbers of a weight whose distribution can be seen
_MOST = 2**20
_ERRORS = 6  # standard errors
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


def looks_new(net: nn.Module) -> bool:
    """Return whether a network is surely as it was made: of a trained one the answer is never True.

    Two signs are needed. Every norm is as it was made: weights all 1 (or all 0), biases all 0, and no batch seen; one
    training step changes that. And every large weight is a sample of independent normal or uniform numbers by its mean
    and kurtosis, which the weights of a trained network are not whose norms were merged into its convolutions.

    Args:
        net: any network; the answer is False for one without norms that have biases or statistics.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> looks_new(nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))), looks_new(nn.Conv2d(3, 64, 3))
    (True, False)
    """
    norms = [module for module in net.modules() if isinstance(module, _NORMS)]
    values = [norm.bias if norm.bias is not None else getattr(norm, "running_mean", None) for norm in norms]
    if all(value is None for value in values) or not all(map(_is_new_norm, norms)):
        return False
    large = [w for w in net.parameters() if w.ndim > 1 and w.numel() >= _LARGE and w.is_floating_point()]
    return bool(large) and all(map(_is_random, large))


def _is_new_norm(norm: nn.Module) -> bool:
    def all_are(name: str, *values: float) -> bool:
        tensor = getattr(norm, name, None)
        return tensor is None or any(bool((tensor == value).all()) for value in values)

    expected = {"weight": (0, 1), "bias": (0,), "running_mean": (0,), "running_var": (1,), "num_batches_tracked": (0,)}
    return all(all_are(name, *values) for name, values in expected.items())


def _is_random(weight: Tensor) -> bool:
    """Return whether mean and kurtosis of a weight are those of normal or uniform numbers, or all numbers are equal."""
    values = weight.detach().flatten()[:_MOST].double()
    deviations = values - values.mean()
    variance = float(deviations.square().mean())
    if variance == 0:
        return True
    kurtosis = float(deviations.pow(4).mean()) / variance**2
    limit = _ERRORS / math.sqrt(len(values))  # times the standard deviation of one value's part in each
    centred = abs(float(values.mean())) < limit * math.sqrt(variance)
    return centred and (abs(kurtosis - 3) < limit * math.sqrt(24) or abs(kurtosis - 1.8) < limit)


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
