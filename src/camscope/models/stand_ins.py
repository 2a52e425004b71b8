"""Test weights and images for a probing pass, so that its result depends only on the network's structure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from camscope.trace.pytree import map_tensors, tensors, with_picture

_GAIN = 0.5
"""Gain of layers with weights; below 1, so that skip connections outweigh their branches, as in trained networks."""
_VECTOR = 0.25
"""Value of scales outside of norms: layer scale, gates, slopes."""
_TABLE = 0.1
"""Standard deviation of added tables: positions, class tokens."""
_NARROW = 4
"""Channels up to which the weights of a convolution have one sign per channel, alternating; otherwise a ReLU could
set all channels to 0."""
_SHIFTS = ("bias", "beta")
_MATRICES = ("weight", "kernel")
_SPARE = 65_537
_STEP = 7_919
_NOISE = 0.6
"""Of an image's own deviation: more upsets attention everywhere, and less drowns in what gates do everywhere."""
_LEVEL = 2.0
_COARSE = 8
_STATISTICS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    **dict.fromkeys(("running_mean", "moving_mean"), Tensor.mean),
    **dict.fromkeys(("running_var", "moving_variance"), partial(Tensor.var, unbiased=False)),
}
"""Buffers of batch norms of PyTorch and Keras -> statistic of the input."""

Corner = tuple[bool, ...]
"""A corner of an image: for each axis, whether it is at the beginning."""


class StandIns:
    """Fixed random weights that replace those of a network, for `replicate`.

    The copy behaves the same for any trained or untrained weights: norms scale by 1, biases are 0, other weights are
    drawn from a seeded generator. Weights of one scale are views of one tensor, so the copy takes little memory.

    Args:
        net: the network, whose largest weight sets the size of that tensor.
        dtype: of the weights.

    >>> net = nn.Linear(8, 4)
    >>> weight = StandIns(net)(net, "weight", net.weight)
    >>> weight.shape, bool(weight.std() < 0.5)
    (torch.Size([4, 8]), True)
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        largest = max((parameter.numel() for parameter in net.parameters()), default=1)
        generator = torch.Generator().manual_seed(0)
        self._values = torch.randn(largest + _SPARE, generator=generator).to(dtype)
        self._scaled: dict[tuple[float, torch.device], Tensor] = {}
        self._made = 0

    def __call__(self, module: nn.Module, name: str, parameter: Tensor) -> Tensor:
        """Make the tensor in place of a parameter, on its device; other dtypes than floats stay."""
        if not parameter.is_floating_point() or parameter.is_quantized:
            return parameter.detach()
        shape, device = parameter.shape, parameter.device
        is_matrix = parameter.ndim > 1 and name in _MATRICES and not _is_norm(module)  # also for one class
        if sum(side > 1 for side in shape) <= 1 and not is_matrix:
            value = 0.0 if name.endswith(_SHIFTS) else 1.0 if _is_norm(module) else _VECTOR
            constant = torch.full(shape, value, dtype=self._values.dtype, device=device)
            is_token = value == _VECTOR and parameter.ndim > 2  # a norm of equal values would be 0
            return constant + 0.5 * _VECTOR * self._view(shape, 1.0, device).tanh() if is_token else constant
        if shape[0] == 1 and not is_matrix:
            scale = _TABLE
        else:
            axis = -1 if hasattr(module, "get_config") else 0  # in Keras the outputs are the last axis
            outputs = shape[axis]
            scale = _GAIN / math.sqrt(parameter.numel() / outputs)
            if outputs <= _NARROW and parameter.ndim > 2:
                signs = 1 - 2 * (torch.arange(outputs, device=device) % 2).to(self._values.dtype)
                return (self._view(shape, scale, device).abs().movedim(axis, -1) * signs).movedim(-1, axis)
        return self._view(shape, scale, device)

    def _view(self, shape: torch.Size, scale: float, device: torch.device) -> Tensor:
        """Return random values of a deviation near ``scale``; powers of two, so that few tensors are needed."""
        power = 2.0 ** round(math.log2(scale))
        if (power, device) not in self._scaled:
            self._scaled[power, device] = (self._values * power).to(device)
        self._made += 1
        start = self._made * _STEP % _SPARE
        start -= start % 2 if shape[-1] == 2 else 0  # pairs may be used as complex numbers
        return self._scaled[power, device][start : start + shape.numel()].view(shape)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() or hasattr(module, "eps") or hasattr(module, "epsilon")


def settle(module: nn.Module, inputs: Any) -> None:
    """Give a norm of any library that keeps statistics those of its input, as training on it would."""
    values = next(tensors(inputs), None)
    if values is None or not values.is_floating_point() or values.ndim < 2:
        return
    axis = getattr(module, "axis", 1)
    axis = (axis if isinstance(axis, int) else 1) % values.ndim
    axes = [a for a in range(values.ndim) if a != axis]
    for name, statistic in _STATISTICS.items():
        buffer = module._buffers.get(name)
        if buffer is None or buffer.numel() != values.shape[axis]:
            continue
        new = statistic(values.detach(), axes).view_as(buffer).to(buffer)
        if hasattr(module, "get_config"):  # Keras stores the tensor itself
            buffer.copy_(new)
        else:  # the old one may be needed by the backward pass of an earlier call
            module._buffers[name] = new


def probe_inputs(
    x: Any,
    picture: int,
    *,
    space: Sequence[int],
    batch: int,
    dtype: torch.dtype = torch.float32,
    users_image: bool = False,
) -> tuple[Any, list[Corner]]:
    """Make inputs for a probing pass: a test image, and the same image with each corner changed.

    For a volume or video, four of the eight corners are changed, no two on one edge, which is enough for all axes.

    Args:
        x: the user's inputs, of which shapes and devices are used, and values only of what is no image.
        picture: number of the images among their tensors.
        space: the axes of space of the images.
        batch: number of images in ``x``.
        dtype: of the floating-point inputs.
        users_image: use the first of the user's images instead of a test image.

    Returns:
        The inputs with 1 + n images, and the n corners in order.
    """
    axes = len(space)
    corners = [c for c in itertools.product((True, False), repeat=axes) if axes < 3 or sum(c) % 2 == 1]
    generator = torch.Generator().manual_seed(0)

    def own(tensor: Tensor) -> Tensor:
        if not users_image and tensor.ndim > 2 and (tensor.is_floating_point() or tensor.dtype == torch.uint8):
            image = _image(tensor.shape[1:], generator)
            image = 48 * image + 32 if tensor.dtype == torch.uint8 else image
            tensor = image.to(tensor.device, dtype).expand(tensor.shape)
        tensor = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        per_image = tensor.ndim > 0 and len(tensor) == batch
        return (torch.cat([tensor[:1]] * (1 + len(corners))) if per_image else tensor).clone()

    copies = map_tensors(x, own)
    images = next(t for i, t in enumerate(tensors(copies)) if i == picture)
    level = _NOISE * images[0].std()
    for variant, corner in zip(images[1:], corners, strict=True):
        region = at_corner(variant, corner, [axis - 1 for axis in space], part=4)
        noise = torch.randn(region.shape, generator=generator).to(region)
        region.copy_(region.flip(-1) + level * noise)
    return with_picture(copies, images, picture=picture), corners


def _image(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return a smooth random image with noise, of deviation about 1 and of as much level as pixels in [0, 1] have."""
    *outer, height, width = (1, *shape) if len(shape) == 1 else shape
    coarse = torch.randn(1, math.prod(outer), min(height, _COARSE), min(width, _COARSE), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.randn(1, math.prod(outer), height, width, generator=generator)
    return (_LEVEL + smooth + 0.5 * noise).view(*shape)


def at_corner(values: Tensor, corner: Corner, axes: Sequence[int], *, part: int) -> Tensor:
    """Return a corner of a tensor: the n-th part of each of some axes, at its beginning or its end.

    >>> at_corner(torch.arange(8), (False,), [0], part=4)
    tensor([6, 7])
    """
    for axis, first in zip(axes, corner, strict=True):
        size = values.shape[axis]
        length = max(1, size // part)
        values = values.narrow(axis, 0 if first else size - length, length)
    return values
