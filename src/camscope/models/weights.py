"""Weights from files into networks: read without running anything from the file, filled in without a gap."""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from camscope.errors import ModelError

State = dict[str, torch.Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# What trainers call the part of a checkpoint that holds the weights, the likeliest first.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights"),
    *("model_ema", "ema", "ema_state_dict", "state_dict_ema"),
)
# What DataParallel, torch.compile and trainers put before the names.
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "backbone.")

_LISTED = 20


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
        # A Namespace holds attributes and runs nothing; training scripts keep their arguments in one.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive")  # an error says it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, SafetensorError, EOFError, LookupError, ValueError, OSError) as error:
        raise _unreadable(path, error) from error
    return _unwrapped(content, path)


def fill(net: nn.Module, state: Mapping[str, torch.Tensor], *, origin: str = "the weights") -> None:
    """Copy weights into a network; every name and every shape must fit.

    Prefixes of wrappers (``module.``, ``model.`` ...) are taken off where that makes the names fit. Batch counters
    (``num_batches_tracked``), which files from before 2018 lack, may be missing.

    Args:
        net: the network, changed in place.
        state: name -> tensor.
        origin: where the weights came from, for the error.

    Raises:
        ModelError: listing what is missing, unexpected or of another shape; the network is then unchanged.
    """
    own = net.state_dict()
    state = without_prefixes(state, own)
    problems = mismatches(state, own)
    if problems:
        listed = "; ".join(problems[:_LISTED])
        rest = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ModelError(f"{origin} does not fit the network: {listed}{rest}{_hint(state, own)}")
    net.load_state_dict(_versioned(state, own), strict=False)


def mismatches(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps the weights from filling a network with the state_dict ``own``, one phrase a key."""
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    shapes = {k: (tuple(v.shape), tuple(own[k].shape)) for k, v in state.items() if _is_tensor(own.get(k))}
    return [
        *(f"{k} is {have}, the network's is {want}" for k, (have, want) in shapes.items() if have != want),
        *(f"{k} is missing" for k in missing),
        *(f"{k} is unexpected" for k in state if k not in own),
    ]


def without_prefixes(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The weights under the names of ``own``, as far as taking prefixes off brings them nearer."""

    def known(names: Mapping[str, Any]) -> int:
        return sum(name in own for name in names)

    for prefix in PREFIXES:
        bare = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        # Below a prefix of all names another one may lie, so it goes even though it alone makes no name fit.
        outer = not known(state) and all(name.startswith(prefix) for name in state)
        if len(bare) == len(state) and (known(bare) > known(state) or (state and outer)):
            return without_prefixes(bare, own)
    return state


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _unreadable(path: Path, error: Exception) -> ModelError:
    text = str(error)
    if zipfile.is_zipfile(path) and any("archive_format" in name for name in zipfile.ZipFile(path).namelist()):
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
    """The state_dict inside a checkpoint."""
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds {type(content).__name__}, not a state_dict: torch.save(net.state_dict(), FILE)")
    if any(_is_tensor(value) for value in content.values()):
        if all(_is_tensor(value) for value in content.values()):
            return content  # type: ignore[return-value]  # keeps the _metadata that torch.save stores on it
        return {str(name): value for name, value in content.items() if _is_tensor(value)}
    parts = [name for name, value in content.items() if isinstance(value, Mapping)]
    for name in WRAPPERS:
        if name in parts:
            return _unwrapped(content[name], path)
    inside = ", ".join(repr(name) for name in list(content)[:10]) or "nothing"
    raise ModelError(f"{path} holds no weights under a name that is known ({', '.join(WRAPPERS)}), but {inside}")


def _hint(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """What to pass where nothing but the number of classes differs."""
    if set(state) - set(own) or any(k not in state for k in own if not k.endswith("num_batches_tracked")):
        return ""
    wrong = [(state[k].shape, own[k].shape) for k in state if state[k].shape != own[k].shape]
    counts = {(have[:1], want[:1]) for have, want in wrong if have[1:] == want[1:]}
    if len(counts) != 1 or any(have[1:] != want[1:] for have, want in wrong):
        return ""
    classes = next(iter(counts))[0][0]
    return f" (the file has {classes} classes: pass classes={classes})"


def _versioned(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The weights with the version numbers of the modules, which safetensors does not store."""
    if hasattr(state, "_metadata"):
        return state
    versioned = type(own)(state)  # type: ignore[call-arg]
    versioned._metadata = own._metadata  # type: ignore[attr-defined]
    return versioned


def digest(net: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of a network's state_dict.

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
