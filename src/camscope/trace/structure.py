"""Tensors inside whatever a module returns: tensors, tuples, dicts, dataclasses, Hugging Face outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from camscope.errors import SettingError, TargetError

_BATCH_AND_CHANNELS = 2


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Rebuild ``value`` with every tensor in it replaced; everything else is kept as it is.

    >>> import torch
    >>> map_tensors({"logits": torch.zeros(2), "steps": 3}, lambda t: t + 1)
    {'logits': tensor([1., 1.]), 'steps': 3}
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        pairs = {key: map_tensors(item, change) for key, item in value.items()}
        return type(value)(**pairs) if dataclasses.is_dataclass(value) else type(value)(pairs)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: map_tensors(getattr(value, f.name), change) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in ``value``, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return iter(found)


class First(NamedTuple):
    """The first floating-point tensor of a module's output, and how to put another in its place."""

    tensor: Tensor
    put: Callable[[Tensor], Any]


def first_tensor(value: Any) -> First | None:
    """Find the tensor that a layer is recorded by: the first floating-point one of its output."""
    if isinstance(value, Tensor):
        return First(value, lambda new: new) if value.dtype.is_floating_point else None
    target = next((t for t in tensors(value) if t.dtype.is_floating_point), None)
    if target is None:
        return None
    return First(target, lambda new: map_tensors(value, lambda t: new if t is target else t))


def unwrap(outputs: Any) -> Tensor:
    """The scores in what a model returned: a tensor, ``logits`` or ``out``, or else the first tensor.

    Args:
        outputs: a tensor, tuple, dict, dataclass or Hugging Face output.

    Returns:
        The scores, (B, ...).

    Raises:
        TargetError: there is no floating-point tensor in it.

    >>> import torch
    >>> unwrap({"aux": torch.zeros(1), "logits": torch.ones(1)})
    tensor([1.])
    """
    for name in ("logits", "out"):
        if isinstance(outputs, Mapping) and isinstance(outputs.get(name), Tensor):
            return outputs[name]  # type: ignore[no-any-return]
        if isinstance(getattr(outputs, name, None), Tensor):
            return getattr(outputs, name)  # type: ignore[no-any-return]
    first = first_tensor(outputs)
    if first is None:
        raise TargetError(
            f"the model returned {type(outputs).__name__} without a floating-point tensor; wrap the model so that it "
            "returns its scores"
        )
    return first.tensor


def picture_of(inputs: Any, picture: int = 0) -> Tensor:
    """(B, C, *space) the pictures, among the inputs.

    Args:
        inputs: a tensor, or a tuple of inputs.
        picture: which of several inputs is the picture.

    Raises:
        SettingError: that input has no axes of space.

    >>> import torch
    >>> picture_of((torch.zeros(1, 4), torch.zeros(1, 3, 8, 8)), 1).shape
    torch.Size([1, 3, 8, 8])
    """
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    chosen = next(iter(several[picture:]), None) if isinstance(inputs, tuple) else inputs
    if not isinstance(chosen, Tensor) or chosen.ndim <= _BATCH_AND_CHANNELS:
        shapes = ", ".join(str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in several)
        raise SettingError(
            f"pictures are (batch, channels, height, width), and input {picture} of {shapes} is not; say with picture= "
            "which of several inputs is"
        )
    return chosen
