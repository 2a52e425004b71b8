"""Fill networks of timm from files: original layouts, and position tables for another input size."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from camscope.errors import ModelError
from camscope.models.classifier import match_network
from camscope.models.weight_names import KeyFilter, Match, State, match
from camscope.models.weights import describe, note

Size = tuple[int, int]

# Weights whose shape follows from the input size, which timm's filters interpolate without a message.
_TABLES = ("pos", "bias_table")
_PATCH_SIDES = (32, 16, 14, 8)


def fill_from(
    net: Any,
    state: State,
    *,
    size: Size | None,
    fixed: bool,
    sized: Callable[[Size], Any],
    keys: KeyFilter,
    origin: str,
) -> tuple[Any, dict[str, Any], Size | None]:
    """Fill a network, or the same network for the input size of the file.

    Args:
        net: the network; the one that is returned is filled.
        state: the weights of the file.
        size: (height, width) of the network's input; None where its weights do not depend on it.
        fixed: whether the caller chose that size.
        sized: builds the network for another size.
        keys: the caller's choice of names.
        origin: name of the file, for errors.

    Returns:
        The network, the facts on its weights, and the input size of the file if it is used.

    Raises:
        ModelError: the weights do not fit.
    """
    matching, tables = _match_weights(net, state, keys, origin)
    problems = matching.problems(net.state_dict())
    if not problems and not tables:
        net.load_state_dict(matching.state, strict=False)
        return net, note(matching), None
    replacement = None if size is None else _of_file_size(net, state, size=size, sized=sized, keys=keys, origin=origin)
    if replacement is None:
        own_state = net.state_dict()
        original = match(state, own_state, keys=keys, origin=origin) if tables else matching
        hint = "; its tables of positions are for windows or an input size that this network does not have"
        raise ModelError(
            f"{origin} does not fit the network: {describe(original, state, own_state)}{hint if tables else ''}"
        )
    of_file, fitting, sides = replacement
    if not fixed:
        of_file.load_state_dict(fitting.state, strict=False)
        text = f"the weights are for {sides[0]} x {sides[1]} pixels, which is used as the input size"
        return of_file, note(fitting, text), sides
    if problems:
        raise ModelError(
            f"{origin} is for {sides[0]} x {sides[1]} pixels, and its tables of positions cannot be interpolated: "
            "leave input_size out"
        )
    net.load_state_dict(matching.state, strict=False)
    text = f"the weights are for {sides[0]} x {sides[1]} pixels; {len(tables)} tables of positions were interpolated"
    return net, note(matching, text), None


def _match_weights(net: Any, state: State, keys: KeyFilter, origin: str) -> tuple[Match, list[str]]:
    """Return the weights under the network's names, by timm's filter if needed, and the tables that it resized."""
    own_state = net.state_dict()
    matching = match_network(net, state, keys=keys, origin=origin)
    translate = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if translate is None or not matching.problems(own_state):
        return matching, []
    view = {**matching.state, **matching.rest}
    try:
        translated: Mapping[str, torch.Tensor] = translate(dict(view), net)
        again = match_network(net, translated, keys=KeyFilter(new_classes=keys.new_classes))
    except Exception:  # a file that the filter cannot translate: errors on the original names are more helpful
        return matching, []
    if again.problems(own_state):
        return matching, []
    sizes = {tensor.numel() for tensor in view.values()}
    resized = [k for k, v in again.state.items() if v.numel() not in ({view[k].numel()} if k in view else sizes)]
    if any("patch_embed" in name for name in resized):
        return matching, []
    outside = [name for name in matching.unused if not name.startswith(matching.prefix)]
    union = dataclasses.replace(again, unused=[*outside, *again.unused], notes=[*matching.notes, *again.notes])
    return union, [name for name in resized if any(word in name for word in _TABLES)]


def _of_file_size(
    net: Any,
    state: State,
    *,
    size: Size,
    sized: Callable[[Size], Any],
    keys: KeyFilter,
    origin: str,
) -> tuple[Any, Match, Size] | None:
    """Return the network for a square input size at which all tables of the file fit unchanged, or None."""
    own_state = net.state_dict()
    plain = match(state, own_state, keys=keys, origin=origin)
    shapes = [(v.shape, own_state[k].shape) for k, v in {**plain.state, **plain.rest}.items() if k in own_state]
    pairs = [(a, b) for have, want in shapes if len(have) == len(want) for a, b in zip(have, want, strict=True)]
    ratios = {a / b for a, b in pairs if a != b and b}
    side = math.sqrt(size[0] * size[1])
    near = {side * math.sqrt(ratio) for ratio in ratios} | {side * ratio for ratio in ratios}
    for approximate in sorted(near):
        for patch in _PATCH_SIDES:
            whole = round(approximate / patch) * patch
            if whole < patch or (whole, whole) == size or abs(whole - approximate) > approximate / 20:
                continue
            try:
                candidate = sized((whole, whole))
            except ModelError:  # timm does not build this network for that size
                continue
            fitting, tables = _match_weights(candidate, state, keys, origin)
            if not tables and not fitting.problems(candidate.state_dict()):
                return candidate, fitting, (whole, whole)
    return None
