"""Find and replace tensors in tuples, dicts, dataclasses and Hugging Face outputs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from camscope.errors import SettingError

_BATCH_AND_CHANNELS = 2

Input = int | str | None
"""One of several inputs: its index among the tensors, its key in a dict, or None for the first batch of images."""


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Rebuild ``value`` with every tensor in it replaced; keep everything else.

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


def map_arrays(value: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Return inputs with the NumPy arrays in them as tensors.

    Args:
        value: an array, a tensor, or a tuple, list or dict of inputs.
        dtype: of arrays of floating-point numbers, which NumPy makes in double precision.

    >>> map_arrays((np.zeros(2), 3))
    (tensor([0., 0.]), 3)
    """
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        return tensor.to(dtype) if tensor.is_floating_point() else tensor
    if type(value) in (tuple, list):
        return type(value)(map_arrays(item, dtype) for item in value)
    if type(value) is dict:
        return {key: map_arrays(item, dtype) for key, item in value.items()}
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in ``value``, in order."""
    leaves: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        leaves.append(tensor)
        return tensor

    map_tensors(value, note)
    return iter(leaves)


class First(NamedTuple):
    """The first floating-point tensor of a module's output, and a function that replaces it."""

    tensor: Tensor
    put: Callable[[Tensor], Any]


def first_tensor(value: Any) -> First | None:
    """Find the tensor that a layer is recorded by: the first floating-point one of its output."""
    if isinstance(value, Tensor):
        return First(value, lambda new: new) if value.dtype.is_floating_point else None
    target = next((tensor for tensor in tensors(value) if tensor.dtype.is_floating_point), None)
    if target is None:
        return None
    return First(target, lambda new: map_tensors(value, lambda tensor: new if tensor is target else tensor))


def find_picture(inputs: Any, picture: Input = None) -> int:
    """Find the images among the inputs of a network.

    Args:
        inputs: (B, C, *space), or a tuple, list or dict of inputs.
        picture: the number of the images among all tensors of the inputs, or their key in a dict; None for the first
            tensor with axes of space, of real numbers where there is such a one (a mask of truth values is none).

    Returns:
        Their number among all tensors of the inputs.

    Raises:
        SettingError: that input has no axes of space.

    >>> import torch
    >>> find_picture({"ids": torch.zeros(1, 4), "pixels": torch.zeros(1, 3, 8, 8)})
    1
    """
    leaves = list(tensors(inputs))
    if isinstance(picture, str):
        entry = inputs.get(picture) if isinstance(inputs, Mapping) else None
        number = next((i for i, tensor in enumerate(leaves) if tensor is entry), None)
    elif picture is None:
        spatial = [i for i, tensor in enumerate(leaves) if tensor.ndim > _BATCH_AND_CHANNELS]
        number = next((i for i in spatial if leaves[i].dtype.is_floating_point), next(iter(spatial), None))
    else:
        number = picture
    if number is not None and 0 <= number < len(leaves) and leaves[number].ndim > _BATCH_AND_CHANNELS:
        return number
    shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves) or type(inputs).__name__
    which = f"none of {shapes} is" if picture is None else f"input {picture!r} of {shapes} is not"
    raise SettingError(
        f"Expected images (batch, channels, height, width), but {which}; say with picture= which of several inputs is"
    )


def picture_of(inputs: Any, picture: Input = None) -> Tensor:
    """Return the images (B, C, *space) among the inputs, see `find_picture`.

    >>> import torch
    >>> picture_of((torch.zeros(1, 4), torch.zeros(1, 3, 8, 8)), 1).shape
    torch.Size([1, 3, 8, 8])
    """
    number = find_picture(inputs, picture)
    return next(tensor for i, tensor in enumerate(tensors(inputs)) if i == number)


def with_picture(inputs: Any, pictures: Tensor, *, picture: int = 0) -> Any:
    """Return the inputs with other images in place of theirs.

    >>> import torch
    >>> with_picture([torch.zeros(1), torch.zeros(1, 1, 2)], torch.ones(1, 1, 2), picture=1)
    [tensor([0.]), tensor([[[1., 1.]]])]
    """
    number = iter(range(len(list(tensors(inputs)))))
    return map_tensors(inputs, lambda tensor: pictures if next(number) == picture else tensor)


def take_images(inputs: Any, rows: Tensor | Sequence[int] | slice, *, batch: int) -> Any:
    """Return the inputs of some images of a batch; tensors without one entry per image are kept whole.

    Args:
        inputs: as the network takes them.
        rows: the images.
        batch: number of images.

    >>> import torch
    >>> take_images((torch.arange(3), torch.zeros(7, 2)), [2, 2], batch=3)[0]
    tensor([2, 2])
    """

    def take(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != batch:
            return tensor
        return tensor[rows.to(tensor.device) if isinstance(rows, Tensor) else rows]

    return map_tensors(inputs, take)


def call(net: nn.Module, inputs: Any) -> Any:
    """Run a network on copies of its inputs, which it may write to.

    A tuple is spread over its parameters, and so is a dict whose keys are their names.

    >>> import torch
    >>> call(nn.Bilinear(2, 2, 1), (torch.zeros(1, 2), torch.zeros(1, 2))).shape
    torch.Size([1, 1])
    """
    inputs = map_tensors(inputs, torch.clone)
    if isinstance(inputs, tuple):
        return net(*inputs)
    if isinstance(inputs, Mapping) and all(isinstance(key, str) for key in inputs):
        try:
            inspect.signature(net.forward).bind(**inputs)
        except TypeError:
            return net(inputs)
        return net(**inputs)
    return net(inputs)
