"""Joint map of a method at several layers of one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camscope.errors import LayerError, MethodError, shortened
from camscope.heatmap import upsample
from camscope.methods.registry import facts_of
from camscope.trace import Forward, Layout, Trace
from camscope.trace.graph_paths import parts_of_whole


def traces_of(
    forward: Forward,
    layers: Sequence[str],
    layouts: Sequence[Layout],
    targets: Sequence[Callable[[Tensor], Tensor]],
    *,
    rows: Sequence[int] | None = None,
) -> list[Trace]:
    """Return a pass seen at each of several layers; what one does through a later one counts there alone."""
    later = parts_of_whole(forward.outputs, {name: forward.records[name] for name in layers})
    return [
        forward.trace(layer, targets, layout=layout, rows=rows, apart_from=later[layer])
        for layer, layout in zip(layers, layouts, strict=True)
    ]


def joint_map(function: Callable[..., Tensor], traces: Sequence[Trace], **settings: Any) -> Tensor:
    """Apply a method to a pass seen at one layer, or at those of several branches, and add their maps.

    The sum is exact for Grad-CAM of a mean or a sum of networks with one layer each. Maps of several sizes,
    as of the levels of a detector or an encoder, are resized to the finest grid, and a coarse cell's value is spread
    over the fine cells in it: each layer keeps its part of the sum. The values of a method without gradients are no
    parts of the score: its maps are scaled to a largest absolute value of 1 first, and each layer counts alike.

    Args:
        function: the method.
        traces: of one pass, one per layer.
        **settings: the method's own.

    Returns:
        (B, *grid) signed map, float32 or better, in any grad mode of the caller.

    Raises:
        LayerError: the grids of the layers have different numbers of axes.
    """
    with (
        torch.inference_mode(mode=False),
        torch.set_grad_enabled(traces[0].forward.differentiable),
        without_autocast(traces[0].outputs),
    ):
        maps = [function(trace, **settings) for trace in traces]
        if not all(isinstance(layer_map, Tensor) for layer_map in maps):
            raise MethodError(f"a method returns a tensor (B, *grid), but got {shortened(maps[0])}")
        if len({layer_map.ndim for layer_map in maps}) > 1:
            sizes = ", ".join(f"{t.layer!r} {tuple(m.shape[1:])}" for t, m in zip(traces, maps, strict=True))
            raise LayerError(f"Expected layers whose maps have as many axes, but got {sizes}")
        finest = max((layer_map.shape[1:] for layer_map in maps), key=math.prod)
        if len(maps) > 1 and facts_of(function).needs != "gradients":
            return torch.stack([upsample(_scaled(layer_map), finest) for layer_map in maps]).mean(0)
        return torch.stack([_spread_over(layer_map, finest) for layer_map in maps]).sum(0)


def _scaled(heat: Tensor) -> Tensor:
    """Return maps (B, *grid), each with a largest absolute value of 1."""
    return heat / heat.flatten(1).abs().amax(1).clamp_min(1e-30).view(-1, *[1] * (heat.ndim - 1))


def _spread_over(heat: Tensor, grid: torch.Size) -> Tensor:
    """Return a map (B, *cells) on a finer grid, with the same sum over all cells but for what interpolation rounds."""
    cells = heat.shape[1:]
    return heat if cells == grid else upsample(heat, grid) * (math.prod(cells) / math.prod(grid))


def without_autocast(like: Tensor) -> torch.autocast:
    """Disable `torch.autocast` inside: only the network runs in half precision, not the method."""
    return torch.autocast(like.device.type, enabled=False)
