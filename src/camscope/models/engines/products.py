"""Convolutions and linear layers fused with later operations; their weights are packed once.

In eval mode batch normalisation is a scale and a shift of each channel, so it goes into the weights of the
convolution before it: w' = w gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta. On a CPU the
addition and the activation that follow are computed while the result is in the cache, and oneDNN, which arranges the
weights anew at every call, is given them in its own order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camscope.models.engines.winograd import in_tiles, pays

Run = Callable[[Tensor, Tensor | None], Tensor]
"""(inputs, summand or None) -> result. The summand may be overwritten."""


@dataclass(frozen=True)
class Act:
    """An activation: its name, numbers and variant in oneDNN, and the function, which may work in place."""

    name: str
    numbers: Sequence[float]
    variant: str
    function: Callable[[Tensor], Tensor]


NONE = Act("none", [], "", lambda x: x)
RELU = Act("relu", [], "", torch.relu_)
_SILU = Act("swish", [], "", lambda x: F.silu(x, inplace=True))
_HARDSWISH = Act("hardswish", [], "", lambda x: F.hardswish(x, inplace=True))


def _clamp(_: Tensor, low: float = -1.0, high: float = 1.0, *__: Any, **keywords: float) -> Act:
    low, high = keywords.get("min_val", low), keywords.get("max_val", high)
    return Act("hardtanh", [low, high], "", lambda x: x.clamp_(low, high))


def _leaky(_: Tensor, negative_slope: float = 0.01, inplace: Any = None) -> Act:
    return Act("leaky_relu", [negative_slope], "", lambda x: F.leaky_relu(x, negative_slope, inplace=True))


def _gelu(_: Tensor, *, approximate: str = "none") -> Act:
    return Act("gelu", [], approximate, lambda x: F.gelu(x, approximate=approximate))


ACTS: Mapping[str, Callable[..., Act]] = {
    "relu": lambda *_, **__: RELU,
    "relu_": lambda *_, **__: RELU,
    "relu6": lambda x, inplace=False: _clamp(x, 0.0, 6.0),
    "hardtanh": _clamp,
    "hardtanh_": _clamp,
    "leaky_relu": _leaky,
    "silu": lambda *_, **__: _SILU,
    "hardswish": lambda *_, **__: _HARDSWISH,
    "gelu": _gelu,
}
"""Name of a torch function -> (its arguments -> the activation)."""


@dataclass(frozen=True)
class Convolution:
    """Arguments of `torch.conv2d`; ``size`` is (B, C, H, W) of its inputs."""

    size: Sequence[int]
    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(
        cls, x: Tensor, /, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Convolution | None:  # fmt: skip
        """Return None if the padding is a word, or the input is one image without a batch axis."""
        if isinstance(padding, str) or x.ndim != 4:
            return None
        return cls(x.shape, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups)

    def packed(self, norm: Norm | None, act: Act, batch: int) -> Run:
        """Return the convolution, folded with a normalisation, for ``batch`` times as many images."""
        bias = None if self.bias is None else self.bias.detach()
        weight, bias = norm.folded(self.weight.detach(), bias) if norm else (self.weight.detach(), bias)
        size = [batch * self.size[0], *self.size[1:]]
        weight = weight.contiguous(memory_format=torch.channels_last)
        how = (self.padding, self.stride, self.dilation, self.groups)
        if not can_pack(weight):
            direct = (self.stride, self.padding, self.dilation, self.groups)
            return _then(lambda x: F.conv2d(x, weight, bias, *direct), act)
        if self._is_plain and pays(weight, size, padding=self.padding):
            return _then(in_tiles(weight, bias, padding=self.padding), act)
        weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *how, size)
        fused = (act.name, act.numbers, act.variant)
        last = act.name if act is not NONE else None

        def run(x: Tensor, summand: Tensor | None) -> Tensor:
            x = channels_last(x)
            if summand is None:
                result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *how, *fused)
                return result
            result = channels_last(summand)
            torch.ops.mkldnn._convolution_pointwise_.binary(result, x, weight, bias, *how, "add", None, last, [], None)
            return result

        return run

    @property
    def _is_plain(self) -> bool:
        return self.groups == 1 and self.stride == [1, 1] and self.dilation == [1, 1]


@dataclass(frozen=True)
class Linear:
    """Arguments of `torch.nn.functional.linear`; ``size`` is (..., C) of its inputs."""

    size: Sequence[int]
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, x: Tensor, /, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Accept any number of axes before the last."""
        return cls(x.shape, weight, bias)

    def packed(self, norm: Norm | None, act: Act, batch: int) -> Run:
        """Return the product, for ``batch`` times as many rows; no normalisation goes into it, and no addition."""
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach()
        if not can_pack(weight):
            return _then(lambda x: F.linear(x, weight, bias), act)
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, batch * math.prod(self.size[:-1]))
        run, fused = torch.ops.mkldnn._linear_pointwise, (act.name, act.numbers, act.variant)
        return lambda x, _: run(x, weight, bias, *fused)


@dataclass(frozen=True)
class Norm:
    """Arguments of `torch.nn.functional.batch_norm`."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @classmethod
    def of(
        cls, _: Tensor, /, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
        bias: Tensor | None = None, training: Any = None, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Norm | None:  # fmt: skip
        """Return None if the norm uses batch statistics."""
        if training or running_mean is None or running_var is None:
            return None
        return cls(running_mean, running_var, weight, bias, eps)

    def folded(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the weights of a convolution and of this normalisation after it."""
        scale = (self.var.double() + self.eps).rsqrt()
        shift = -self.mean.double() if bias is None else bias.double() - self.mean.double()
        if self.weight is not None:
            scale = scale * self.weight.detach().double()
        moved = shift * scale + (0 if self.bias is None else self.bias.detach().double())
        return (weight.double() * scale[:, None, None, None]).to(weight.dtype), moved.to(weight.dtype)


def can_pack(tensor: Tensor) -> bool:
    """Return whether oneDNN takes weights in its own order for tensors like this one.

    >>> can_pack(torch.zeros(2, dtype=torch.float64))
    False
    """
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def channels_last(x: Tensor) -> Tensor:
    """Return (B, C, H, W), contiguous in that order."""
    return x.contiguous(memory_format=torch.channels_last)


def _then(product: Callable[[Tensor], Tensor], act: Act) -> Run:
    def run(x: Tensor, summand: Tensor | None) -> Tensor:
        result = product(channels_last(x) if x.ndim == 4 else x)
        return act.function(result if summand is None else result.add_(summand))

    return run


def _pair(number: Any) -> list[int]:
    return [int(number)] * 2 if isinstance(number, int) else [int(n) for n in number]
