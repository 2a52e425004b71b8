"""The settings of methods: which a method takes, and a check of those that a user gives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from camscope.errors import SettingError, nearest
from camscope.explanation.maps import find_method, method_name
from camscope.methods import Method, NetworkMethod, sees_network

_FOUND = ("picture", "layer", "layout")
"""Parameters that a method is given without the user naming them."""


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings that a method takes with their defaults, `inspect.Parameter.empty` where it has none.

    >>> from camscope.methods import METHODS
    >>> settings_of(METHODS["finercam"])
    {'alpha': 1.0, 'comparisons': 3}
    """
    own = 3 if sees_network(function) else 1  # the trace, or net, inputs and targets
    parameters = list(inspect.signature(function).parameters.values())[own:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p.default for p in parameters if p.kind not in variable and p.name not in _FOUND}


def check_settings(settings: Mapping[str, Any], methods: Iterable[str | Method | NetworkMethod]) -> None:
    """Raise unless each setting is one of at least one of the methods, and its numbers are finite.

    Args:
        settings: name -> value.
        methods: names or functions.

    Raises:
        SettingError: a setting that none of them takes, or a number that is infinite or NaN.
        MethodError: no such method.

    >>> check_settings({"sampels": 8}, ["sscam"])
    Traceback (most recent call last):
    camscope.errors.SettingError: no setting called 'sampels'; nearest: 'samples'...; `camscope methods sscam` lists ...
    """
    if not settings:
        return
    methods = [method.strip() if isinstance(method, str) else method for method in methods]
    known = {setting for method in methods for setting in settings_of(find_method(method))}
    for name, value in settings.items():
        if name not in known:
            taken = nearest("setting", str(name), known) if known else f"no setting called {name!r}"
            raise SettingError(f"{taken}; `camscope methods {method_name(methods[0])}` lists what it takes")
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise SettingError(f"the setting {name} must be finite, but got {value!r}")
