"""The classifier of a network: its modules, and weights of other networks that leave it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from camscope.errors import ModelError
from camscope.models.weight_names import ALL, KeyFilter, Match, match

_OUTPUTS = ("out_features", "out_channels", "units", "filters")
"""Attributes with the number of outputs of a layer, of PyTorch and of Keras."""


def classifier_of(net: nn.Module, classes: int) -> list[str]:
    """Return the names of the modules that turn features into class scores.

    timm names them. In other networks it is the last layer with as many outputs as there are classes.

    Raises:
        ModelError: there is no such layer.

    >>> classifier_of(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8, 2)), 2)
    ['2']
    """
    if hasattr(net, "get_classifier"):
        head: Any = net.get_classifier()  # type: ignore[operator]
        parts = head if isinstance(head, tuple) else (head,)
        names = [name for name, module in net.named_modules() if name and any(module is part for part in parts)]
        if names:
            return names
    outputs = {
        name: next((getattr(module, key) for key in _OUTPUTS if hasattr(module, key)), None)
        for name, module in net.named_modules()
        if name
    }
    last = [name for name, count in outputs.items() if count == classes]
    if not last:
        raise ModelError(
            f"no layer of {type(net).__name__} gives {classes} scores, so that its classifier is unknown: name a "
            "network with a layer of one score per label at its end, such as timm:densenet121"
        )
    return last[-1:]


def match_network(
    net: nn.Module, state: Mapping[str, Tensor], *, keys: KeyFilter = ALL, origin: str = "the file"
) -> Match:
    """Match a file's weights to those of a network; `match` says how.

    With ``keys.new_classes``, weights of the classifier whose shape or name differs are left out, with a note.

    Raises:
        SettingError: no name in the file begins with the prefix or matches a pattern of ``keys``.
        ModelError: several different networks in the file fit equally well, or it holds an adapter beside the weights.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> old = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 9)).state_dict()
    >>> found = match_network(net, old, keys=KeyFilter(new_classes=2))
    >>> sorted(found.state), found.notes
    (['0.bias', '0.weight'], ["the classifier of the file with 9 outputs is left out; new in the network: '1'"])
    """
    own = net.state_dict()
    found = match(state, own, keys=keys, origin=origin)
    if not keys.new_classes:
        return found
    names = classifier_of(net, keys.new_classes)
    parts = tuple(f"{name}." for name in names)
    fits = {k for k, v in found.state.items() if v.shape == own[k].shape}
    if all(k in fits for k in own if k.startswith(parts)):
        return found
    sizes = {len(v) for k, v in found.state.items() if k.startswith(parts) and k not in fits and v.ndim}
    # Auxiliary classifiers have as many outputs as the last one.
    pairs = {k: (tuple(v.shape), tuple(own[k].shape)) for k, v in found.state.items() if v.ndim and k not in fits}
    auxiliary = {k for k, (a, b) in pairs.items() if a[1:] == b[1:] and a[0] in sizes and b[0] == keys.new_classes}
    size = f" with {min(sizes)} outputs" if len(sizes) == 1 else ""
    new = f"new in the network: {', '.join(map(repr, names))}"
    return dataclasses.replace(
        found,
        # Either all of a classifier is from the file, or nothing.
        state={k: v for k, v in found.state.items() if k not in auxiliary and not k.startswith(parts)},
        missing=[k for k in found.missing if not k.startswith(parts)],
        foreign=[name for name in found.foreign if not name.removeprefix(found.prefix).startswith(parts)],
        notes=[*found.notes, f"the classifier of the file{size} is left out; {new}" if sizes else new],
        has_new_classifier=True,
    )
