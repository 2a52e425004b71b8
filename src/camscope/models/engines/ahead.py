"""Compute a layer's output outside the network, and let the network begin there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import EngineError
from camscope.trace import record
from camscope.trace.hooks import Edit, tracing
from camscope.trace.pytree import call, map_tensors, picture_of, take_images, tensors
from camscope.trace.replay import Tail
from camscope.trace.replica import replicate

Compute = Callable[[Any], Sequence[Tensor]]
"""Inputs, (B, C, *space) or several -> the outputs of `cuts`, as many as the layer needs."""


@dataclass(frozen=True)
class Ahead:
    """A backend of everything before a layer, for `record`.

    Attributes:
        cuts: the layer, and the modules before it whose outputs also reach the scores on paths around the layer, such
            as the input of a residual block.
        compute: computes the outputs of the cuts, in float32.
        tail: the part of the network after the cuts.
    """

    cuts: tuple[str, ...]
    compute: Compute
    tail: Tail

    @property
    def net(self) -> nn.Module:
        """Return the copy of the network that begins at the cuts."""
        return self.tail.net

    @contextlib.contextmanager
    def __call__(self, inputs: Any) -> Iterator[Mapping[str, Edit]]:
        """Compute the cuts, and let the network begin there while the context is open."""
        outputs = self.compute(inputs)
        with self.tail.replayed(torch.zeros(len(picture_of(inputs)), dtype=torch.long)):
            yield {name: _instead(output) for name, output in zip(self.cuts, outputs, strict=True)}

    @classmethod
    def of(cls, net: nn.Module, x: Any, *, cuts: tuple[str, ...], compute: Compute) -> Ahead:
        """Return the backend with the tail of a network.

        Args:
            net: any network.
            x: (B, C, *space) inputs, or several.
            cuts: see `cuts_of`.
            compute: as the attribute.
        """
        one = take_images(x, slice(1), batch=len(picture_of(x)))
        ahead = cls(cuts, compute, Tail.after(replicate(net), cuts[0], one, batch=1))
        with contextlib.suppress(RuntimeError):
            record(net, x, layers=[cuts[0]], trunk=ahead)
            return ahead
        return replace(ahead, tail=replace(ahead.tail, copies=True))  # the network may write into what it is given


def _instead(output: Tensor) -> Edit:
    return lambda _: output


def cuts_of(net: nn.Module, x: Any, *, layer: str) -> tuple[str, ...]:
    """Find the modules whose outputs a network needs to begin at a layer.

    The modules that finish before the layer return what they returned for one image, as leaves of a graph. Those that
    the scores depend on while the layer's own output is fixed lead around it.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or several.
        layer: its layer, which runs once in a pass.

    Returns:
        The layer, and those modules.

    Raises:
        EngineError: what leads around the layer is not a tensor of a module that runs once.

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.stem, self.conv = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
    ...     def forward(self, x):
    ...         x = self.stem(x)
    ...         return (x + self.conv(x)).mean((2, 3))
    >>> cuts_of(Block(), torch.randn(1, 1, 4, 4), layer="conv")
    ('conv', 'stem')
    """
    one = take_images(x, slice(1), batch=len(picture_of(x)))
    twin = replicate(net)
    fixed = record(net, one, layers=[layer]).records[layer].detach()
    tail = Tail.after(twin, layer, one, batch=1, values=True, copies=True)
    leaves: dict[nn.Module, list[Any]] = {
        module: [map_tensors(output, _leaf) for output in outputs] for module, outputs in tail.outputs.items()
    }
    flat = [(module, tensor) for module, outputs in leaves.items() for tensor in tensors(outputs)]
    flat = [(module, tensor) for module, tensor in flat if tensor.requires_grad]
    with torch.enable_grad(), replace(tail, outputs=leaves).replayed(torch.zeros(1, dtype=torch.long)) as inputs:
        with tracing(twin, [layer], edits={layer: _instead(fixed)}):
            returned = list(tensors(call(twin, inputs)))
        scores = [tensor.sum() for tensor in returned if tensor.requires_grad]
        found = torch.autograd.grad(scores, [tensor for _, tensor in flat], allow_unused=True) if scores else ()
    names = {module: name for name, module in twin.named_modules()}
    around = dict.fromkeys(module for (module, _), gradient in zip(flat, found, strict=False) if gradient is not None)
    if odd := next((names[m] for m in around if len(leaves[m]) > 1 or not isinstance(leaves[m][0], Tensor)), None):
        raise EngineError(f"a path around {layer!r} begins at {odd!r}, which runs several times or returns no tensor")
    return (layer, *(names[module] for module in around))


def _leaf(output: Tensor) -> Tensor:
    output = output.detach()
    return output.requires_grad_() if output.is_floating_point() else output
