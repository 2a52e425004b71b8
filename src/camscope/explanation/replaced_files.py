"""Warn where `Explanation.save` replaces the files of another explanation."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_IDENTITY = ("source", "label", "index", "model", "method", "layer", "settings", "weights_sha256")


def warn_if_replaced(paths: Mapping[str, Path], content: Callable[[], Mapping[str, Any]]) -> None:
    """Warn if the record of another explanation lies where that of this one will be written.

    Args:
        paths: kind -> path of the files of an explanation, to be written now.
        content: returns the explanation as `Explanation.to_dict` does; called only if there is a record, since it
            hashes the weights.
    """
    if "json" not in paths or not (other := _read(paths["json"])):
        return
    own = content()
    if _identity(other) != _identity(own):
        names = [f"{Path(str(c['source'])).name} ({c['label']}, {c['method']})" for c in (other, own)]
        warnings.warn(
            f"{paths['json']} of {names[0]} is replaced by that of {names[1]}: give each a folder, or names such as "
            "files='{image}_{label}_{method}_{kind}.png'; camscope.gallery.MapFolder never replaces another map",
            stacklevel=4,
        )


def _identity(content: Mapping[str, Any]) -> str:
    return json.dumps([content.get(key) for key in _IDENTITY], sort_keys=True, default=str)


def _read(path: Path) -> dict[str, Any]:
    """Return the record of an explanation; {} if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) and {"source", "label", "method"} <= content.keys() else {}
    except (OSError, ValueError, RecursionError):
        return {}
