"""Convolutions and linear layers before the layer, folded with what follows them, their weights packed once.

In eval mode batch normalisation is a scale and a shift of each channel, so it goes into the weights of the
convolution before it: w' = w gamma / sqrt(var + eps), b' = (b - mean) gamma / sqrt(var + eps) + beta. On a CPU the
activation that follows is computed while the result is in the cache, and oneDNN, which arranges the weights anew at
every call, is given them in its own order.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camscope.models.engines.winograd import in_tiles, pays
from camscope.trace import tracing
from camscope.trace.hooks import Edit
from camscope.trace.replay import stand_ins

_Forward = Callable[[Tensor], Tensor]
# What oneDNN computes with a product: its name of the function, its numbers, and which variant of it.
_Fused = tuple[str, list[Any], str]
_NOTHING: _Fused = ("none", [], "")


@dataclass(frozen=True)
class Packed:
    """Stand-ins for modules before a layer.

    Attributes:
        forwards: module -> what computes its output.
    """

    forwards: Mapping[nn.Module, _Forward]

    @contextlib.contextmanager
    def __call__(self, inputs: Any) -> Iterator[Mapping[str, Edit]]:
        """Let the stand-ins compute while the context is open."""
        with stand_ins(self.forwards):
            yield {}


def pack(net: nn.Module, x: Any, *, layer: str, batch: int = 1) -> Packed:
    """Fold and pack what runs before a layer.

    Args:
        net: any network.
        x: one image, (1, C, h, w), or a tuple of inputs.
        layer: its layer, see `tracing`; what runs after it is left alone, since gradients flow there.
        batch: images in the passes to come; with another number oneDNN may want another order of the weights, and
            arrange some of them anew at every call.

    Returns:
        The stand-ins; none where there is nothing to pack.
    """
    seen = _watch(net, x, layer)
    forwards: dict[nn.Module, _Forward] = {}
    for call in seen:
        if call.module in forwards or not _is_product(call.module):
            continue
        following = _follower(call, seen)
        norm = following if following is not None and _is_norm(following.module, call.module) else None
        own = None if norm is None else _own_act(norm.module)
        last = None if own is not None else _follower(norm or call, seen)
        act = last.module if last is not None else own
        fused = _FUSED.get(type(act).__name__, _nothing)(act)
        forwards[call.module] = _product(call, norm.module if norm is not None else None, fused, batch=batch)
        if norm is not None:
            forwards[norm.module] = _pass_on if own is None or fused != _NOTHING else own.forward
        if last is not None and fused != _NOTHING:
            forwards[last.module] = _pass_on
    return Packed(forwards)


@dataclass(frozen=True, eq=False)
class _Call:
    """One module that ran before the layer, once; tensors with how often they had been written to by then."""

    module: nn.Module
    given: Tensor
    given_version: int
    returned: Tensor
    returned_version: int

    @property
    def does_nothing(self) -> bool:
        return self.given is self.returned and self.given_version == self.returned_version


def _watch(net: nn.Module, x: Any, layer: str) -> list[_Call]:
    """The modules that run once, before the layer, on one tensor, and are not hooked by anybody else."""
    calls: list[_Call] = []
    before: list[_Call] = []
    times: Counter[nn.Module] = Counter()
    versions: dict[nn.Module, int] = {}

    def enter(module: nn.Module, given: Any) -> None:
        times[module] += 1
        versions[module] = given[0]._version if given and isinstance(given[0], Tensor) else 0

    def leave(module: nn.Module, given: Any, returned: Any) -> None:
        one_step = not any(module.children()) or isinstance(module, nn.BatchNorm2d)
        if one_step and len(given) == 1 and isinstance(given[0], Tensor) and isinstance(returned, Tensor):
            calls.append(_Call(module, given[0], versions[module], returned, returned._version))

    def reached(output: Tensor) -> Tensor:
        before[:] = calls
        return output

    hooked = {module for module in net.modules() if module._forward_hooks or module._forward_pre_hooks}
    with contextlib.ExitStack() as stack:
        for module in net.modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(tracing(net, [layer], edits={layer: reached}))
        net(*x) if isinstance(x, tuple) else net(x)
    return [call for call in before if times[call.module] == 1 and call.module not in hooked]


def _follower(call: _Call, seen: list[_Call]) -> _Call | None:
    """The one module that is given just what this one returned."""
    users = [
        other
        for other in seen
        if other.given is call.returned
        and other.given_version == call.returned_version
        and other.module is not call.module
        and not other.does_nothing
    ]
    return users[0] if len(users) == 1 else None


def _is_product(module: nn.Module) -> bool:
    if type(module).forward is nn.Linear.forward:
        return isinstance(module, nn.Linear)
    return (
        type(module).forward is nn.Conv2d.forward
        and isinstance(module, nn.Conv2d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _is_norm(module: nn.Module, product: nn.Module) -> bool:
    """Whether it is a batch normalisation by running statistics, alone or with an activation of its own (timm's)."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and isinstance(product, nn.Conv2d)
        and module.running_mean is not None
        and (type(module).forward is nn.BatchNorm2d.forward or _own_act(module) is not None)
    )


def _own_act(module: nn.Module) -> nn.Module | None:
    act = getattr(module, "act", None)
    return act if isinstance(module, nn.BatchNorm2d) and isinstance(act, nn.Module) else None


def _nothing(_: nn.Module | None) -> _Fused:
    return _NOTHING


_FUSED: dict[str, Callable[[Any], _Fused]] = {
    "ReLU": lambda _: ("relu", [], ""),
    "SiLU": lambda _: ("swish", [], ""),
    "Swish": lambda _: ("swish", [], ""),
    "GELU": lambda act: ("gelu", [], getattr(act, "approximate", "none")),
    "GELUActivation": lambda _: ("gelu", [], "none"),
    "GELUTanh": lambda _: ("gelu", [], "tanh"),
}
"""By the name of the class: timm and Transformers have their own; a namesake that differs is found out by the proof."""


def _pass_on(x: Tensor) -> Tensor:
    return x


def _product(call: _Call, norm: nn.Module | None, fused: _Fused, *, batch: int) -> _Forward:
    module: Any = call.module
    size = [batch * call.given.shape[0], *call.given.shape[1:]]
    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    if isinstance(norm, nn.BatchNorm2d):
        weight, bias = _folded(weight, bias, norm)
    if isinstance(module, nn.Conv2d):
        return _convolution(module, weight, bias, fused, size=size)
    return _linear(weight, bias, fused, rows=math.prod(size[:-1]))


def _folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The weights of a convolution and the normalisation after it."""
    if norm.running_mean is None or norm.running_var is None:
        return weight, torch.zeros_like(weight[:, 0, 0, 0]) if bias is None else bias
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean.double()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    moved = shift * scale + (0 if norm.bias is None else norm.bias.detach().double())
    return (weight.double() * scale[:, None, None, None]).to(weight.dtype), moved.to(weight.dtype)


def can_pack(tensor: Tensor) -> bool:
    """Whether oneDNN takes weights in its own order for tensors like this one."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _convolution(module: nn.Conv2d, weight: Tensor, bias: Tensor | None, fused: _Fused, *, size: list[int]) -> _Forward:
    stride, padding, dilation = list(module.stride), [int(n) for n in module.padding], list(module.dilation)
    groups = module.groups
    follow = _ACTS[fused[0]]
    weight = weight.contiguous(memory_format=torch.channels_last)
    if not can_pack(weight):
        return lambda x: follow(F.conv2d(_channels_last(x), weight, bias, stride, padding, dilation, groups), fused)
    if pays(module, size):
        tiled = in_tiles(weight, bias, lambda y: follow(y, fused), padding=padding)
        return lambda x: tiled(_channels_last(x))
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, size)
    run = torch.ops.mkldnn._convolution_pointwise
    return lambda x: run(_channels_last(x), packed, bias, padding, stride, dilation, groups, *fused)


def _linear(weight: Tensor, bias: Tensor | None, fused: _Fused, *, rows: int) -> _Forward:
    if not can_pack(weight):
        follow = _ACTS[fused[0]]
        return lambda x: follow(F.linear(x, weight, bias), fused)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    run = torch.ops.mkldnn._linear_pointwise
    return lambda x: run(x, packed, bias, *fused)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


_ACTS: dict[str, Callable[[Tensor, _Fused], Tensor]] = {
    "none": lambda x, _: x,
    "relu": lambda x, _: x.relu_(),
    "swish": lambda x, _: F.silu(x, inplace=True),
    "gelu": lambda x, fused: F.gelu(x, approximate=fused[2]),
}
