"""Bundles: a model as a folder with ``model.json`` and ``weights.safetensors``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from camscope.errors import ModelError, unwritable
from camscope.models.callable_form import INSTEAD
from camscope.models.transform import Transform
from camscope.models.weights import file_sha256

if TYPE_CHECKING:
    from camscope.models.model import Model

FORMAT = 1
CARD = "model.json"
WEIGHTS = "weights.safetensors"

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "spec": str,
    "options": dict,
    "classes": int,
    "labels": list,
    "outcome": str,
    "preprocess": dict,
    "layer": (str, type(None)),
    "weights_sha256": str,
    "versions": dict,
    "facts": dict,
}


def write(model: Model, folder: Path) -> Path:
    """Write a model as a bundle; each file appears whole or not at all.

    Args:
        model: a model from a source, whose architecture has a name.
        folder: created if missing; an older bundle in it is replaced.

    Returns:
        The folder.

    Raises:
        ModelError: for a network that the caller brought, or values that JSON cannot hold.
        StoreError: it cannot be written, as on a full disk.
    """
    recipe = model.recipe
    if isinstance(model.preprocess, Transform):
        raise ModelError(
            f"{model.name!r} cannot be written as a bundle: its preprocessing {model.preprocess.name} is a callable, "
            f"which a file cannot hold; use {INSTEAD}"
        )
    if recipe is None:
        raise ModelError(
            f"{model.name!r} was made around a network of yours, whose architecture a bundle cannot name: "
            f"keep its class in your code and save torch.save(net.state_dict(), FILE), "
            f"or make the network with load('timm:NAME', weights=FILE)"
        )
    card: dict[str, Any] = {
        "format": FORMAT,
        "name": model.name,
        "spec": recipe.spec,
        "options": dict(recipe.options),
        "classes": recipe.classes,
        "labels": list(model.labels),
        "outcome": model.outcome,
        "preprocess": model.preprocess.to_dict(),
        "layer": model.layer,
        "weights_sha256": "",
        "versions": {package: importlib.metadata.version(package) for package in ("camscope", "torch", "timm")},
        "facts": dict(model.facts),
    }
    try:
        json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{model.name!r} cannot be written as a bundle: {CARD} cannot hold it ({error})") from error
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file: a bundle is a folder, give another name")
    parts = {name: folder / f".{name}.part" for name in (WEIGHTS, CARD)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(_tensors(model), parts[WEIGHTS], metadata={"format": "pt"})
        card["weights_sha256"] = file_sha256(parts[WEIGHTS])
        parts[CARD].write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, part in parts.items():
            part.replace(folder / name)
    except (OSError, safetensors.SafetensorError) as fault:
        raise unwritable(folder, fault) from None
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return folder


def read(folder: Path) -> dict[str, Any]:
    """Read and check a bundle's ``model.json``; the weights must have the sha256 that it states.

    Raises:
        ModelError: for a folder that is no bundle, a damaged or unknown ``model.json``, or changed weights.
    """
    path = folder / CARD
    if not path.is_file():
        raise ModelError(f"{folder} is not a bundle: it has no {CARD}; bundles are made by load(...).save(DIR)")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}): make the bundle again") from error
    if not isinstance(card, dict) or "format" not in card:
        raise ModelError(f"{path} is damaged (it states no format): make the bundle again")
    if card["format"] != FORMAT:
        raise ModelError(f"{path} has format {card['format']!r} and this camscope reads {FORMAT}: update camscope")
    wrong = [key for key, kind in _FIELDS.items() if key not in card or not isinstance(card[key], kind)]
    if wrong:
        raise ModelError(f"{path} is damaged (missing or of the wrong kind: {', '.join(wrong)}): make the bundle again")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} lacks {WEIGHTS}: copy the whole bundle again")
    if file_sha256(folder / WEIGHTS) != card["weights_sha256"]:
        raise ModelError(f"{folder / WEIGHTS} is not the file that {CARD} names (its sha256 differs): copy both again")
    return card


def _tensors(model: Model) -> dict[str, torch.Tensor]:
    """Return the state_dict as safetensors wants it: no two tensors share memory."""
    state = model.net.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ModelError(
            f"{model.name!r} cannot be written as a bundle: {', '.join(odd)} holds no tensor; load it from its own file"
        )
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
