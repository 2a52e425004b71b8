"""The methods by name. A method is one function: Trace -> signed map on the layer's grid.

One that must see the whole network is a function (net, inputs, targets) -> signed map.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

from torch import Tensor

Method = Callable[..., Tensor]
"""(trace, **settings) -> (B, *grid), signed, not scaled, before the final ReLU."""

NetworkMethod = Callable[..., Tensor]
"""(net, inputs, targets, **settings) -> (B, *grid) or, at input size, (B, *space); signed, not scaled.

``inputs`` is (B, C, *space) or a tuple of inputs, ``targets`` one function of an image's output for each image. What
it names among its parameters is found for it: ``picture`` (which input is the picture), ``layer`` (the layer to look
at), ``layers`` (names of the network's stages, first to last), ``locate`` (tells the layout of an output).
"""

Need = Literal["scores", "activations", "gradients"]
"""Part of a model that a method uses, the least first: its outputs, the output of a layer, or a backward pass."""

METHODS: dict[str, Method | NetworkMethod] = {}
"""All methods, of both kinds."""
NETWORK_METHODS: dict[str, NetworkMethod] = {}
"""Those of `METHODS` that see the whole network."""
ATTRIBUTIONS: set[str] = set()
"""Network methods that explain the input's own pixels, and no layer."""
CLASS_AGNOSTIC: set[str] = set()
"""Methods whose map is the same whatever class is asked for."""
MANY_PASSES: set[str] = set()
"""Methods that run the whole network again for about every channel."""

_Function = TypeVar("_Function", bound=Method)


def method(*, needs: Need) -> Callable[[_Function], _Function]:
    """Register a method under its function's name, with what it needs of a model."""

    def register(function: _Function) -> _Function:
        METHODS[function.__name__] = function
        return declare(function, needs)

    return register


def network_method(*, needs: Need) -> Callable[[_Function], _Function]:
    """Register a method that sees the whole network under its function's name, with what it needs of a model."""

    def register(function: _Function) -> _Function:
        NETWORK_METHODS[function.__name__] = function
        return method(needs=needs)(function)

    return register


def declare(function: _Function, needs: Need | None) -> _Function:
    """Declare what a method needs of a model."""
    function.needs = needs  # type: ignore[attr-defined]
    return function


def needs_of(function: Callable[..., Tensor]) -> Need | None:
    """Return what a method needs of a model; None for a function that declares nothing.

    A method of one layer needs its activations at least.

    >>> needs_of(METHODS["gradcam"]), needs_of(METHODS["scorecam"]), needs_of(METHODS["occlusion"])
    ('gradients', 'activations', 'scores')
    """
    declared = getattr(function, "needs", None)
    if declared in get_args(Need):
        return declared
    return None if sees_network(function) else "activations"


def sees_network(function: Callable[..., Tensor]) -> bool:
    """Whether a method is a function of (net, inputs, targets) rather than of a `Trace`.

    >>> sees_network(lambda trace: trace.activations.sum(1)), sees_network(lambda net, inputs, targets: inputs.sum(1))
    (False, True)
    """
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) >= 3


def attribution(function: _Function) -> _Function:
    """Mark a method that explains the input's own pixels."""
    ATTRIBUTIONS.add(function.__name__)
    return function


def many_passes(function: _Function) -> _Function:
    """Mark a method that runs the whole network again for about every channel."""
    MANY_PASSES.add(function.__name__)
    return function


def class_agnostic(function: _Function) -> _Function:
    """Mark a method whose map does not depend on the target."""
    CLASS_AGNOSTIC.add(function.__name__)
    return function
