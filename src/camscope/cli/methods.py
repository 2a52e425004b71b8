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
        # "augmented(scorecam)" is described as augmented, and has the settings of both.
        modifiers = {one.partition("(")[0]: one for one in listed if "(" in one}
        parts = [modifiers.get(part, part) for part in method_spelling(name).rstrip(")").split("(")]
        if not set(parts) <= set(listed):
            raise MethodError(nearest("method", name, listed))
        print(listed[parts[0]]["text"])
        if (cost := listed[parts[0]]["cost"]) != "?":
            print(f"\nTime of a map, measured for one image: {cost} that of a forward pass.")
        taken = {key: value for part in reversed(parts) for key, value in listed[part]["settings"].items()}
        settings = "\n    ".join(f"--set {key}={value}" for key, value in taken.items())
        print(f"\nSettings, with their defaults:\n    {settings}" if settings else "\nSettings: none.")
        return
    width = max(map(len, listed))
    print(f"{'method':{width}}  {'time':>6}  what it does (time: of a map, in forward passes; see docs/methods.md)")
    for method, entry in listed.items():
        print(f"{method:{width}}  {entry['cost']:>6}  {entry['text'].splitlines()[0]}")
