"""Registry of the methods. A method is one function: Trace -> signed map on the layer's grid.

A method that must see the whole network is a function (net, inputs, targets) -> signed map.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

Method = Callable[..., Tensor]
"""(trace, **settings) -> (B, *grid), signed, not scaled, before the final ReLU."""

NetworkMethod = Callable[..., Tensor]
"""(net, inputs, targets, **settings) -> (B, *grid) or, at input size, (B, *space); signed, not scaled.

``inputs`` is (B, C, *space) or a tuple of inputs, ``targets`` one target function per image. These parameters
are filled automatically if a method has them: ``picture`` (which input holds the images), ``layer`` (the target
layer), ``layers`` (names of the network's stages, first to last), ``locate`` (function that returns the layout of an
output).
"""

Need = Literal["scores", "activations", "gradients"]
"""Part of a model that a method uses, the least first: its outputs, the output of a layer, or a backward pass."""


@dataclass(frozen=True)
class MethodFacts:
    """Requirements of a method, kind of its maps, and their cost.

    Attributes:
        needs: the part of a model that it uses; None if that is not known.
        whole_network: whether it is a function of (net, inputs, targets), and not of a `Trace`.
        at_input: whether it explains the pixels of the input, and no layer.
        class_agnostic: whether its map is the same for every class.
        passes: forward and backward passes per map, in words.
        reference: the publication, or the software where the method has none.
    """

    needs: Need | None
    whole_network: bool = False
    at_input: bool = False
    class_agnostic: bool = False
    passes: str = ""
    reference: str = ""


METHODS: dict[str, Method | NetworkMethod] = {}
"""All methods, of both kinds."""

_Function = TypeVar("_Function", bound=Method)


def method(facts: MethodFacts) -> Callable[[_Function], _Function]:
    """Register a method under its function's name; its docstring gets the cost and the reference from the facts."""

    def register(function: _Function) -> _Function:
        METHODS[function.__name__] = function
        text = f"Cost: {facts.passes}.\n\nReference:\n{textwrap.indent(textwrap.fill(facts.reference, 112), '    ')}"
        function.__doc__ = f"{inspect.getdoc(function)}\n\n{text}\n"
        return declare(function, facts)

    return register


def declare(function: _Function, facts: MethodFacts) -> _Function:
    """Attach the facts of a method to its function."""
    function.facts = facts  # type: ignore[attr-defined]
    return function


def facts_of(function: Callable[..., Tensor]) -> MethodFacts:
    """Return the facts of a method.

    A function that declares none is taken for a method of one layer, or, where it has three parameters without
    defaults, for one of the whole network, (net, inputs, targets).

    >>> facts_of(METHODS["gradcam"]).needs, facts_of(METHODS["occlusion"]).needs
    ('gradients', 'scores')
    >>> facts_of(lambda trace: trace.activations.sum(1)).needs
    'activations'
    >>> facts_of(lambda net, inputs, targets: inputs.sum(1)).whole_network
    True
    """
    declared = getattr(function, "facts", None)
    if isinstance(declared, MethodFacts):
        return declared
    parameters = inspect.signature(function).parameters.values()
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    whole = len(required) >= 3
    return MethodFacts(None if whole else "activations", whole_network=whole)
