"""camscope methods: list and describe the methods."""

from __future__ import annotations

import importlib.resources
import json
from typing import Annotated

import typer

from camscope.errors import MethodError, nearest
from camscope.naming import method_spelling

_LISTED = importlib.resources.files("camscope.cli").joinpath("methods.json")


def methods(
    name: Annotated[str, typer.Argument(help="Name of a method to describe.")] = "",
) -> None:
    """List the methods, or describe one: formula, settings, requirements, cost, reference.

    Example: camscope methods scorecam
    """
    listed = json.loads(_LISTED.read_text("utf-8"))  # written by docs/generate.py: importing the methods takes seconds
    if name:
        spelling = method_spelling(name)
        if spelling.partition("(")[0] in (modifiers := {one.partition("(")[0]: one for one in listed if "(" in one}):
            spelling = modifiers[spelling.partition("(")[0]]
        if spelling not in listed:
            raise MethodError(nearest("method", name, listed))
        print(listed[spelling]["text"])
        settings = "\n    ".join(f"--set {key}={value}" for key, value in listed[spelling]["settings"].items())
        print(f"\nSettings, with their defaults:\n    {settings}" if settings else "\nSettings: none.")
        return
    width = max(map(len, listed))
    for method, entry in listed.items():
        print(f"{method:{width}}  {entry['text'].splitlines()[0]}")
