"""camscope models: the names that can be loaded."""

from __future__ import annotations

import fnmatch
from typing import Annotated

import typer


def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern such as 'timm:convnext*'.")] = "",
) -> None:
    """List the models that --model takes.

    Example: camscope models 'timm:convnext*'
    """
    from camscope.errors import ModelError
    from camscope.models.sources import NAMES

    names = [f"{source}:{name}" for source, listed in NAMES.items() for name in listed()]
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    found = fnmatch.filter(names, wanted)
    if not found:
        raise ModelError(f"none of the {len(names)} models matches {pattern!r}; `camscope models` lists them all")
    print("\n".join(found))
