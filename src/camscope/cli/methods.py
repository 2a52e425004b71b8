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
    from camscope.methods import METHODS

    if name:
        print(inspect.getdoc(find_method(name)))
        return
    width = max(map(len, METHODS))
    for method, function in METHODS.items():
        print(f"{method:{width}}  {(inspect.getdoc(function) or '').splitlines()[0]}")
