"""Read weights files without running code from them, and fill networks completely."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib
import pathlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from camscope.errors import ModelError
from camscope.models.classifier import match_network
from camscope.models.untrained import NEW_HEAD
from camscope.models.weight_names import ALL, KeyFilter, Match, State, layers_with_bias, shortened, summary

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Types that training scripts store next to the weights; they hold values, and loading them runs no code.
_PLAIN: list[Any] = [
    argparse.Namespace,
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    pathlib.PosixPath,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    *(
        (getattr(importlib.import_module("numpy._core.multiarray"), name), f"numpy.{package}.multiarray.{name}")
        for package in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
]
_FEW = 3
_DEEPEST = 4
"""Levels of dictionaries in a checkpoint that are searched for weights."""


def read_weights(path: str | Path) -> State:
    """Read a state_dict: name -> tensor, on the CPU.

    Only tensors and plain containers are read (``weights_only=True``); a checkpoint is searched for its weights.

    Args:
        path: a ``.safetensors`` file, or what ``torch.save`` wrote (``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.tar``).

    Raises:
        ModelError: for a file that is missing, damaged, of another kind, or that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no weights file {str(path)!r}")
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{path} is not a weights file that can be read; possible: {', '.join(SUFFIXES)}")
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive")  # the error names it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # parsers of ZIP and pickle raise errors of many kinds
        raise _unreadable(path, error) from error
    return _unwrapped(content, path)


def fill(
    net: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    origin: str = "the weights",
    keys: KeyFilter | None = None,
    said: Sequence[str] = (),
) -> dict[str, Any]:
    """Copy weights into a network; every weight of the network must be in the file, with its shape.

    The names are matched by `match_network`. With ``keys``, weights that the network has no part for, such as those of
    a loss or a moving average, may be left over, and the facts that are returned name them. Further weights inside the
    parts of the network are always an error: the file is of another, larger network. Batch counters
    (``num_batches_tracked``), which files from before 2018 lack, may be missing.

    Args:
        net: the network, changed in place.
        state: name -> tensor.
        origin: name of the file, for the error.
        keys: the caller's choice of names; None: every name in the file must be one of the network's.
        said: what else there is to note.

    Returns:
        Facts for `Model.facts`: ``{"weights_note": ...}`` on what was left over or chosen, or nothing; and `NEW_HEAD`
        where the classifier was left as it was.

    Raises:
        ModelError: the weights do not fit; the network is then unchanged.

    Examples:
        >>> net, weights = nn.Linear(2, 1), {"net.weight": torch.ones(1, 2), "net.bias": torch.zeros(1)}
        >>> fill(net, weights)
        {}
        >>> net.weight.tolist()
        [[1.0, 1.0]]
    """
    own_state = net.state_dict()
    matching = match_network(net, state, keys=keys or ALL, origin=origin)
    if matching.problems(own_state) or (keys is None and matching.unused):
        raise ModelError(f"{origin} does not fit the network: {describe(matching, state, own_state)}")
    net.load_state_dict(_versioned(matching.state, state, own_state), strict=False)
    return note(matching, *said)


def note(found: Match, *more: str) -> dict[str, Any]:
    """Return what a match left over or chose as facts of the model; nothing where there is nothing to say."""
    left_over = [f"left over in the weights file: {summary(found.unused)}"] if found.unused else []
    notes = [*more, *found.notes, *left_over]
    facts: dict[str, Any] = {"weights_note": "; ".join(notes)} if notes else {}
    return facts | ({NEW_HEAD: True} if found.has_new_classifier else {})


def describe(found: Match, state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """Return why weights do not fit: the pattern first, then a few examples per kind, then what to do."""
    problems = found.problems(own)
    count = len(found.state) - len(problems.get("of another shape", ()))
    parts = [f"the file has {len(state)} weights, the network {len(own)}; {count} fit"]
    if found.prefix:
        is_shared = all(name.startswith(found.prefix) for name in state)
        parts.append(f"{'every name' if is_shared else 'its name'} in the file begins with {found.prefix!r}")
    parts += [f"{len(phrases)} {kind}: {shortened(phrases, separator=', ')}" for kind, phrases in problems.items()]
    own_layers, file_layers = layers_with_bias(found.missing), layers_with_bias(found.rest)
    if own_layers and file_layers and len(own_layers) <= _FEW:
        parts.append(
            f"the layers without weights are {shortened([*map(repr, own_layers)], separator=', ')}, and those of the "
            f"file that are left over {shortened([*map(repr, file_layers)], separator=', ')}"
        )
    elif found.unused and not found.foreign:
        parts.append(f"left over in the file: {summary(found.unused)}")
    if "unknown to the network" in problems and len(problems) == 1:
        parts.append("the file is of a larger network: name that one, or leave these out with ignore=")
    classes = _classes(found, own, own_layers, file_layers)
    return "; ".join(parts) + (f" (the file has {classes} classes: pass classes={classes})" if classes else "")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: Path, error: Exception) -> ModelError:
    text, names = str(error), []
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:  # damaged archives raise many kinds
        names = archive.namelist()
    if any("archive_format" in name for name in names):
        return ModelError(
            f"{path} is an exported program, not weights: save torch.export.load(FILE).state_dict and give that file"
        )
    if "TorchScript" in text:
        return ModelError(
            f"{path} is a TorchScript program, not weights: save torch.jit.load(FILE).state_dict() and give that file"
        )
    code = re.search(r"GLOBAL ([\w.]+)", text)
    if code:
        return ModelError(
            f"{path} holds {code[1]}, which only code run from the file could restore, and camscope never runs it: "
            f"where you trust the file, load it yourself and save its tensors alone, "
            f"torch.save(net.state_dict(), 'weights.pth')"
        )
    return ModelError(f"{path} is damaged or not a weights file: get it again, and compare its size and sha256")


def _unwrapped(content: object, path: Path) -> State:
    """Return the weights inside a checkpoint; of several parts the names begin with the name of the part."""
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds {type(content).__name__}, not a state_dict: torch.save(net.state_dict(), FILE)")
    parts = list(_parts(content, ""))
    if len(parts) == 1:
        return parts[0][1]  # with the _metadata that torch.save stores on it
    if parts:
        return {f"{prefix}{name}": tensor for prefix, part in parts for name, tensor in part.items()}
    inside = ", ".join(repr(name) for name in list(content)[:10]) or "nothing"
    raise ModelError(f"{path} holds no weights, but {inside}: save them with torch.save(net.state_dict(), FILE)")


def _parts(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, State]]:
    """Yield the dictionaries of named tensors in a checkpoint; an optimizer's are numbered."""
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        yield prefix, content if len(tensors) == len(content) else tensors  # type: ignore[misc]
    if prefix.count(".") < _DEEPEST:
        for name, value in content.items():
            if isinstance(name, str) and isinstance(value, Mapping):
                yield from _parts(value, f"{prefix}{name}.")


def _classes(
    matching: Match, own_state: Mapping[str, torch.Tensor], own_layers: Sequence[str], file_layers: Sequence[str]
) -> int | None:
    """Return the number of classes in the file, where nothing else keeps it from fitting."""
    pairs = [(matching.state[k], own_state[k]) for k in matching.state if matching.state[k].shape != own_state[k].shape]
    if not pairs and len(own_layers) == len(file_layers) == 1 and len(matching.missing) == 2:
        pairs = [
            (matching.rest[f"{file_layers[0]}.{part}"], own_state[f"{own_layers[0]}.{part}"])
            for part in ("weight", "bias")
        ]
    elif matching.missing or matching.foreign:
        return None
    counts = {(len(have), len(want)) for have, want in pairs if have.ndim and have.shape[1:] == want.shape[1:]}
    if len(counts) != 1 or any(have.shape[1:] != want.shape[1:] for have, want in pairs):
        return None
    return next(iter(counts))[0]


def _versioned(
    filled: State, state: Mapping[str, torch.Tensor], own_state: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """Return the weights with version numbers of the modules: the file's, or else the network's."""
    versioned = type(own_state)(filled)  # type: ignore[call-arg]
    stated = getattr(state, "_metadata", None) if filled.keys() <= state.keys() else None
    versioned._metadata = own_state._metadata if stated is None else stated  # type: ignore[attr-defined]
    return versioned


def digest(net: nn.Module) -> str:
    """Return the sha256 over names, dtypes, shapes and bytes of a network's state_dict.

    >>> digest(nn.Identity())[:8]
    'e3b0c442'
    """
    content = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            content.update(f"{name} {value!r}".encode())
            continue
        content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
