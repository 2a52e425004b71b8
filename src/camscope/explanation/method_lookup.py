"""Find a method by its name, and check whether a network and settings suit it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from camscope.errors import MethodError, SettingError, nearest
from camscope.methods import META, METHODS, Method, NetworkMethod, facts_of
from camscope.models.black_box import BlackBox
from camscope.naming import method_spelling

_MADE = re.compile(r"(\w+)\((.+)\)")
_FOUND = ("picture", "layer", "locate")
"""Parameters that are filled automatically."""

_LEAST = {"chunk": 1, "noise": 0, "gamma": 0, "sigmas": 0}
"""Minimum of settings that several methods do not check."""


def find_method(method: str | Method | NetworkMethod) -> Method | NetworkMethod:
    """Return the method with a name, such as "gradcam" or "augmented(gradcam)"; return functions unchanged.

    Case, spaces, hyphens and underscores make no difference, and "++" may be written "pp" or "plusplus".

    Raises:
        MethodError: an unknown name; the message has the nearest names.

    >>> find_method("fused(layercam)").__name__, find_method("Grad-CAM++").__name__
    ('fused(layercam)', 'gradcampp')
    """
    if callable(method):
        if isinstance(method, type):
            raise MethodError(f"a method is a name or a function, but got the class {method.__name__}")
        return method
    name = method_spelling(method)
    match = _MADE.fullmatch(name)
    if match and match[1] in META:
        return META[match[1]](find_method(match[2]))
    if name not in METHODS:
        raise MethodError(nearest("method", method, [*METHODS, *(f"{name}(gradcam)" for name in META)]))
    return METHODS[name]


def default_method(net: Any) -> str:
    """Return the default method: Grad-CAM, or occlusion for a black box, which has no layers.

    >>> default_method(nn.Identity())
    'gradcam'
    """
    return "occlusion" if isinstance(net, BlackBox) else "gradcam"


def check_needs(net: nn.Module, functions: Iterable[Method | NetworkMethod]) -> None:
    """Check that a network provides what some methods need; a black box provides only scores.

    Raises:
        MethodError: it does not; the message names the methods that work.
    """
    if not isinstance(net, BlackBox):
        return
    for function in functions:
        needs = facts_of(function).needs
        if needs in ("activations", "gradients"):
            raise MethodError(
                f"{method_name(function)} needs the {needs} of a network, and this model is a black box, of which only "
                f"the scores are known; use a method that needs only scores: {', '.join(methods_of_scores())}"
            )


def methods_of_scores() -> list[str]:
    """Return the names of the methods that need only scores.

    >>> "occlusion" in methods_of_scores(), "gradcam" in methods_of_scores()
    (True, False)
    """
    return [name for name, function in METHODS.items() if facts_of(function).needs == "scores"]


def method_name(method: str | Method | NetworkMethod) -> str:
    """Return the name of a method, as in results.

    >>> method_name("Grad-CAM"), method_name(METHODS["gradcam"])
    ('gradcam', 'gradcam')
    """
    return method_spelling(method) if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings of a method with their defaults, `inspect.Parameter.empty` if there is none.

    >>> from camscope.methods import METHODS
    >>> settings_of(METHODS["finercam"])
    {'alpha': 1.0, 'comparisons': 3}
    """
    input_count = 3 if facts_of(function).whole_network else 1  # the trace, or net, inputs and targets
    parameters = list(inspect.signature(function).parameters.values())[input_count:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p.default for p in parameters if p.kind not in variable and p.name not in _FOUND}


_ELSEWHERE = {
    "target": "use targets= for several images or targets",
    "targets": "use target= for one image, or explain_all() for several",
    "method": "use methods= for several images",
    "methods": "use method= for one method, or explain_all() for several",
    "input_size": "it belongs to the model: load the model with input_size=",
    "mean": "it belongs to the model: load the model with mean=",
    "std": "it belongs to the model: load the model with std=",
    "weights": "it belongs to the model: load the model with weights=",
    "device": "move the network, net.to(device)",
    "outcome": "it belongs to the model: load the model with outcome=",
}


def refuse_misplaced(names: Iterable[str]) -> None:
    """Raise an error for keyword arguments of other functions, which names the function.

    Raises:
        SettingError: there is one.
    """
    for name in names:
        if name in _ELSEWHERE:
            raise SettingError(f"{name!r} is not a setting of a method: {_ELSEWHERE[name]}")


def check_settings(settings: Mapping[str, Any], methods: Iterable[str | Method | NetworkMethod]) -> None:
    """Raise unless each setting is one of at least one of the methods, and its numbers are finite.

    Args:
        settings: name -> value.
        methods: names or functions.

    Raises:
        SettingError: a setting that none of them takes, or a number that is infinite, NaN or too small.
        MethodError: no such method.

    >>> check_settings({"sampels": 8}, ["sscam"])
    Traceback (most recent call last):
    camscope.errors.SettingError: no setting called 'sampels'; nearest: 'samples'...; `camscope methods sscam` lists ...
    """
    if not settings:
        return
    methods = list(methods)
    defaults = {setting: default for method in methods for setting, default in settings_of(find_method(method)).items()}
    for name, value in settings.items():
        if name not in defaults:
            refuse_misplaced([name])
            method_names = ", ".join(map(method_name, methods))
            if not defaults:
                raise SettingError(f"no setting called {name!r}: {method_names} has no settings")
            hint = nearest("setting", str(name), defaults)
            raise SettingError(f"{hint}; `camscope methods {method_name(methods[0])}` lists the settings")
        if type(defaults[name]) in (int, float) and isinstance(value, str):
            raise SettingError(f"the setting {name} must be a number, such as {defaults[name]!r}, but got {value!r}")
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise SettingError(f"the setting {name} must be finite, but got {value!r}")
        if name in _LEAST and isinstance(value, int | float) and value < _LEAST[name]:
            raise SettingError(f"the setting {name} must be {_LEAST[name]} or more, but got {value!r}")


def known(function: Callable[..., Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a method takes."""
    takes = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    return {name: value for name, value in settings.items() if any_name or name in takes}
