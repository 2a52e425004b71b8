"""camscope methods: list and describe the methods."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer


def methods(
    name: Annotated[str, typer.Argument(help="Name of a method to describe.")] = "",
) -> None:
    """List the methods, or describe one: formula, settings, requirements, cost, reference.

    Example: camscope methods scorecam
    """
    from camscope.explanation.method_lookup import find_method
    from camscope.methods import META, METHODS

    if name:
        function = META[name] if name in META else find_method(name)
        print(inspect.getdoc(function))
        print(_listed(f"{name}(gradcam)" if name in META else name))
        return
    functions = METHODS | {f"{name}(METHOD)": modifier for name, modifier in META.items()}
    width = max(map(len, functions))
    for method, function in functions.items():
        print(f"{method:{width}}  {(inspect.getdoc(function) or '').splitlines()[0]}")


def _listed(name: str) -> str:
    from camscope.explanation.method_lookup import find_method, settings_of

    settings = [f"{s}={_shown(default)}" for s, default in settings_of(find_method(name)).items()]
    text = "\n    ".join(f"--set {setting}" for setting in settings)
    return f"\nSettings, with their defaults:\n    {text}" if settings else "\nSettings: none."


def _shown(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "(the stages of the network)"
    return "(automatic)" if default is None else str(list(default) if isinstance(default, tuple) else default)
