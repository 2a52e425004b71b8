"""camscope methods: what the methods are, and what each takes."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer


def methods(
    name: Annotated[str, typer.Argument(help="One method, to read all about it.")] = "",
) -> None:
    """List the methods, or describe one: formula, settings, cost, reference.

    Example: camscope methods scorecam
    """
    from camscope.explanation.maps import find_method
    from camscope.methods import META, METHODS

    if name:
        print(inspect.getdoc(META[name] if name in META else find_method(name)))
        return
    listed = METHODS | {f"{name}(METHOD)": made for name, made in META.items()}
    width = max(map(len, listed))
    for method, function in listed.items():
        print(f"{method:{width}}  {(inspect.getdoc(function) or '').splitlines()[0]}")
