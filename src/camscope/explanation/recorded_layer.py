"""The layer, or the layers of several branches, at which one forward pass is recorded, and their joint map."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import LayerError
from camscope.heatmap import upsample
from camscope.methods.registry import needs_of
from camscope.models.engines import Prepared, prepare
from camscope.models.layer_choice import JOINT, choose_layer, probed_layouts
from camscope.targets import Target
from camscope.trace import Forward, Layout, Trace, record
from camscope.trace.address import name_of
from camscope.trace.graph_paths import parts_of_whole
from camscope.trace.hooks import refuse_program
from camscope.trace.layout import Locate, fits, grid_of, is_last, possible_layouts
from camscope.trace.outputs import chosen_output
from camscope.trace.structure import Input, with_picture
from camscope.trace.wrappers import bare

Layers = str | nn.Module | Sequence[str | nn.Module] | None
"""A layer by name or as a module, several of them, or None for `default_layer`."""


@dataclass(frozen=True)
class RecordedLayer:
    """The layers that a forward pass was recorded at, and what computed the way to them.

    Attributes:
        layers: one name, or those of several branches.
        layouts: the axes of each.
        engine: what computed the part of the network before them.
        complete: whether they are known to carry the whole score, or were named by the user.
    """

    layers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    engine: Prepared
    complete: bool = True

    @property
    def layer(self) -> str:
        """The name, or the names joined by " + "."""
        return JOINT.join(self.layers)

    def traces(self, forward: Forward, targets: Sequence[Target], *, rows: Sequence[int] | None = None) -> list[Trace]:
        """Return the pass seen at each layer; what one does through a later one counts there alone."""
        later = parts_of_whole(forward.outputs, {name: forward.records[name] for name in self.layers})
        return [
            forward.trace(layer, targets, layout=layout, rows=rows, apart_from=later[layer])
            for layer, layout in zip(self.layers, self.layouts, strict=True)
        ]


def record_layer(
    net: nn.Module,
    x: Any,
    *,
    layer: Layers = None,
    layout: Layout | None = None,
    picture: Input = None,
    differentiable: bool = False,
    engine: str = "eager",
) -> tuple[Forward, RecordedLayer]:
    """Run a network once, recorded at a layer that is named, given or chosen."""
    refuse_program(net)
    net = bare(net)
    choice = choose_layer(net, x, picture=picture, output=chosen_output()) if layer is None else None
    names = layer_names(net, layer) if choice is None else choice.layers
    prepared = prepare(net, x, layer=names[0], engine=engine if len(names) == 1 else "eager")
    forward = record(net, x, layers=names, picture=picture, differentiable=differentiable, trunk=prepared.trunk)
    if choice is not None and layout is None:
        return forward, RecordedLayer(names, choice.layouts, prepared, choice.complete)
    layouts = tuple(layout or forward.layout_of(name, locate=locate_in(forward)) for name in names)
    return forward, RecordedLayer(names, layouts, prepared)


def layer_names(net: nn.Module, layer: Any) -> tuple[str, ...]:
    """Return the names of the layers that are asked for."""
    if isinstance(layer, (list, tuple)):
        return tuple(name for one in layer for name in layer_names(net, one))
    if isinstance(layer, nn.Module):
        return (name_of(net, layer),)
    if not isinstance(layer, str):
        raise LayerError(f"Expected a layer as its name or module, but got {type(layer).__name__}")
    return tuple(layer.split(JOINT))


def locate_in(forward: Forward) -> Locate:
    """Return what tells the layout of an output of this network where the shapes alone do not.

    Where one layout has equal strides and no other has, the shapes do. Otherwise a probing pass does; a network that
    cannot be probed is read by its shapes.
    """
    net = forward.net

    def locate(shape: Sequence[int], picture: Sequence[int], layer: str | None) -> Layout | None:
        possible = list(dict.fromkeys(possible_layouts(shape, picture, last=is_last(net))))
        grids = [grid_of(shape, layout) for layout in possible]
        even = [len(grid) == len(picture) - 2 and fits(grid, picture[2:]) for grid in grids]
        if len(possible) < 2 or (even[0] and not any(even[1:])):
            return None
        with contextlib.suppress(Exception):
            probed = probed_layouts(net, forward.inputs, picture=forward.picture, output=forward.output)
            return probed.layout_of(shape, layer, possible)
        return None

    return locate


def joint_map(function: Callable[..., Tensor], traces: Sequence[Trace], **settings: Any) -> Tensor:
    """Apply a method to a pass seen at one layer, or at those of several branches, and add their maps.

    The sum is exact for Grad-CAM of a mean or a sum of networks, each with a layer of its own. Maps of several sizes,
    as of the levels of a detector or an encoder, are resized to the finest grid, and a coarse cell's value is spread
    over the fine cells in it: each layer keeps its part of the sum. The values of a method without gradients are no
    parts of the score: its maps are scaled to a largest absolute value of 1 first, and each layer counts alike.

    Args:
        function: the method.
        traces: of one pass, one per layer.
        **settings: the method's own.

    Returns:
        (B, *grid) signed map, float32 or better, whatever grad mode the caller is in.

    Raises:
        LayerError: the grids of the layers have different numbers of axes.
    """
    with (
        torch.inference_mode(mode=False),
        torch.set_grad_enabled(traces[0].forward.differentiable),
        without_autocast(traces[0].outputs),
    ):
        maps = [function(trace, **settings) for trace in traces]
        if len({one.ndim for one in maps}) > 1:
            sizes = ", ".join(f"{t.layer!r} {tuple(m.shape[1:])}" for t, m in zip(traces, maps, strict=True))
            raise LayerError(f"Expected layers whose maps have as many axes, but got {sizes}")
        finest = max((one.shape[1:] for one in maps), key=math.prod)
        if len(maps) > 1 and needs_of(function) != "gradients":
            return torch.stack([upsample(_scaled(one), finest) for one in maps]).mean(0)
        return torch.stack([_spread_over(one, finest) for one in maps]).sum(0)


def _scaled(heat: Tensor) -> Tensor:
    """Return maps (B, *grid), each with a largest absolute value of 1."""
    return heat / heat.flatten(1).abs().amax(1).clamp_min(1e-30).view(-1, *[1] * (heat.ndim - 1))


def _spread_over(heat: Tensor, grid: torch.Size) -> Tensor:
    """Return a map (B, *cells) on a finer grid, with the same sum over all cells but for what interpolation rounds."""
    cells = heat.shape[1:]
    return heat if cells == grid else upsample(heat, grid) * (math.prod(cells) / math.prod(grid))


def carried_share(forward: Forward, seen: RecordedLayer, targets: Sequence[Target]) -> list[float]:
    """Compute which share of each score a layer carries, for a layer that other paths lead around.

    The share is (s(x) - s(x; A = A(0))) / (s(x) - s(0)): how much of the difference between the score of an image and
    that of a blank one (all 0) is gone where the layer alone sees the blank image.

    Args:
        forward: a pass recorded at the layer.
        seen: that layer.
        targets: one per image.

    Returns:
        One share per image; NaN where the score does not differ from that of a blank image.
    """
    with torch.no_grad():
        scores = next(trace.scores for trace in seen.traces(forward, targets)).detach()
        pictures = torch.zeros_like(forward.pictures)
        blank = record(
            forward.net,
            with_picture(forward.inputs, pictures, picture=forward.picture),
            layers=seen.layers,
            picture=forward.picture,
        )
        edits = {name: _replaced_by(blank.records[name].detach()) for name in seen.layers}
        mixed = record(forward.net, forward.inputs, layers=seen.layers, edits=edits, picture=forward.picture)
        of = [torch.stack([t(o) for t, o in zip(targets, one.outputs, strict=True)]) for one in (blank, mixed)]
    shares = (scores - of[1]) / (scores - of[0])
    return [float(share) if share.isfinite() else float("nan") for share in shares]


def _replaced_by(values: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: values


def without_autocast(like: Tensor) -> torch.autocast:
    """Calculate as it is written: under `torch.autocast` the network runs in half precision, not what is made of it."""
    return torch.autocast(like.device.type, enabled=False)
