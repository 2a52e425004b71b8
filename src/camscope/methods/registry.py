"""The methods by name. A method is one function: Trace -> signed map on the layer's grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Method = Callable[..., Tensor]
"""(trace, **settings) -> (B, *grid), signed, not scaled, before the final ReLU."""

METHODS: dict[str, Method] = {}
CLASS_AGNOSTIC: set[str] = set()
"""Methods whose map is the same whatever class is asked for."""

_Function = TypeVar("_Function", bound=Method)


def method(function: _Function) -> _Function:
    """Register a method under its function's name."""
    METHODS[function.__name__] = function
    return function


def class_agnostic(function: _Function) -> _Function:
    """Mark a method whose map does not depend on the target."""
    CLASS_AGNOSTIC.add(function.__name__)
    return function
