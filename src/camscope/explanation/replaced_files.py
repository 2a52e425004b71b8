"""Warn where `Explanation.save` replaces the files of another explanation."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from camscope.images.picture import Pixels

_IDENTITY = ("source", "label", "index", "model", "method", "layer", "settings", "weights_sha256")
_WRITTEN: dict[str, tuple[str, str]] = {}
"""Path -> identity and name of the explanation that this process wrote there; another process leaves a record."""


def warn_if_replaced(paths: Mapping[str, Path], content: Mapping[str, Any], pixels: Pixels) -> None:
    """Warn if one of some paths has a file of another explanation, and note them as those of this one.

    Args:
        paths: kind -> path of the files of an explanation, to be written now.
        content: the explanation as `Explanation.to_dict` returns it.
        pixels: (H, W, C) of the image, to tell images without a file apart.
    """
    known, name = _identity(content), f"{Path(content['source']).name} ({content['label']}, {content['method']})"
    identity = f"{known}{zlib.crc32(np.ascontiguousarray(pixels[::8, ::8]).tobytes())}"
    replaced = [
        (path, _WRITTEN[place][1])
        for path in paths.values()
        if path.exists() and _WRITTEN.get(place := os.path.abspath(path), (identity,))[0] != identity  # noqa: PTH100
    ]
    if not replaced and "json" in paths and (other := _read(paths["json"])) and _identity(other) != known:
        replaced = [(paths["json"], f"{Path(str(other['source'])).name} ({other['label']}, {other['method']})")]
    _WRITTEN.update(dict.fromkeys(map(os.path.abspath, paths.values()), (identity, name)))
    if replaced:
        path, other_name = replaced[0]
        warnings.warn(
            f"{path} of {other_name} is replaced by that of {name}: give each a folder, or names such as "
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
