"""camscope methods: list and describe the methods."""

from __future__ import annotations

import importlib.resources
import json
from typing import Annotated, Any

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
        print(_description([listed[part] for part in parts]))
        return
    width = max(map(len, listed))
    print(f"{'method':{width}}  {'time':>6}  what it does (time: of a map, in forward passes; see docs/methods.md)")
    for method, entry in listed.items():
        print(f"{method:{width}}  {entry['cost']:>6}  {entry['text'].splitlines()[0]}")


def _description(entries: list[dict[str, Any]]) -> str:
    """Return the text of a method, or of a modifier and its method, with the settings of all."""
    taken = {f"--set {key}={value}": text for entry in entries for key, (value, text) in entry["settings"].items()}
    width = max(map(len, taken), default=0)
    settings = [f"    {key:{width}}  {text}".rstrip() for key, text in taken.items()]
    entry = entries[0]
    time = "" if entry["cost"] == "?" else f"\nTime of a map, measured for one image: {entry['cost']} a forward pass."
    listed = "\n".join(["Settings, with their defaults:", *settings]) if taken else "Settings: none."
    return f"{entry['text']}\n\n{listed}\n\n{entry['facts']}\n{time}".rstrip()
