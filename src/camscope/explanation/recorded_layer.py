"""Record a forward pass at a layer, or at the layers of several branches."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import LayerError
from camscope.methods.joint import traces_of
from camscope.models.engines import PreparedEngine, prepare
from camscope.models.layer_choice import choose_layer, probed_layouts
from camscope.targets import Target
from camscope.trace import Forward, Layout, Trace, record
from camscope.trace.hooks import refuse_program
from camscope.trace.layer_path import JOINT, name_of
from camscope.trace.layout import Locate, fits, grid_of, is_last, possible_layouts
from camscope.trace.outputs import chosen_output
from camscope.trace.pytree import Input, map_tensors, with_picture
from camscope.trace.wrappers import bare

_CONV2D = 4  # axes of its input
_in_given_order: weakref.WeakSet[nn.Module] = weakref.WeakSet()

Layers = str | nn.Module | Sequence[str | nn.Module] | None
"""A layer by name or as a module, several of them, or None for `default_layer`."""


@dataclass(frozen=True)
class RecordedLayer:
    """The layers of a recorded forward pass, and the engine before them.

    Attributes:
        layers: one name, or those of several branches.
        layouts: the axes of each.
        engine: what computed the part of the network before them.
        complete: whether they are known to carry the whole score, or were named by the user.
        in_place: whether their places are known to be those of the image, or they were named by the user.
    """

    layers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    engine: PreparedEngine
    complete: bool = True
    in_place: bool = True

    @property
    def layer(self) -> str:
        """Return the name, or the names joined by " + "."""
        return JOINT.join(self.layers)

    @property
    def place_notes(self) -> list[str]:
        """Return the notes on the places of the map."""
        if self.in_place:
            return []
        text = (
            f"the network mirrors, shifts, pads, crops or mixes its images before layer {self.layer!r}: the places of "
            "the map may not be those of the image; compare it with occlusion"
        )
        return [text]

    @property
    def paths_around(self) -> str:
        """Return the start of the note on a layer that does not carry the whole score."""
        return f"not every path from the image to the score passes through layer {self.layer!r}"

    def traces(self, forward: Forward, targets: Sequence[Target], *, rows: Sequence[int] | None = None) -> list[Trace]:
        """Return the pass seen at each layer; see `traces_of`."""
        return traces_of(forward, self.layers, self.layouts, targets, rows=rows)


def record_layer(
    net: nn.Module,
    x: Any,
    *,
    layer: Layers = None,
    layout: Layout | None = None,
    picture: Input = None,
    differentiable: bool = False,
    engine: str = "eager",
    precision: str = "float32",
) -> tuple[Forward, RecordedLayer]:
    """Run a network once and record a layer: by name, by module, or the default layer."""
    refuse_program(net)
    net = bare(net)
    choice = choose_layer(net, x, picture=picture, output=chosen_output()) if layer is None else None
    names = layer_names(net, layer) if choice is None else choice.layers
    if len(names) > 1:
        engine, precision = "eager", "float32"
    prepared = prepare(net, x, layer=names[0], engine=engine, precision=precision)
    forward = _recorded(net, x, layers=names, picture=picture, differentiable=differentiable, trunk=prepared.trunk)
    if choice is not None and layout is None:
        return forward, RecordedLayer(names, choice.layouts, prepared, choice.complete, choice.in_place)
    layouts = tuple(layout or forward.layout_of(name, locate=locate_in(forward)) for name in names)
    return forward, RecordedLayer(names, layouts, prepared)


def _recorded(net: nn.Module, x: Any, **options: Any) -> Forward:
    """Run a network once; convolutional networks on the CPU get inputs with the channels last, which is faster.

    A network that reshapes by ``view`` what such inputs lead to fails, and then gets its inputs as they are.
    """
    convolves = any(isinstance(module, nn.Conv2d) for module in net.modules())
    if convolves and options["trunk"] is None and not options["differentiable"] and net not in _in_given_order:
        with contextlib.suppress(RuntimeError):
            return record(net, map_tensors(x, _with_channels_last), **options)
        _in_given_order.add(net)
    return record(net, x, **options)


def _with_channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim != _CONV2D or tensor.device.type != "cpu" or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def layer_names(net: nn.Module, layer: Any) -> tuple[str, ...]:
    """Return the names of the requested layers."""
    if isinstance(layer, (list, tuple)):
        if not layer:
            raise LayerError("Expected at least one layer, but got none: leave out layer for the default layer")
        return tuple(name for part in layer for name in layer_names(net, part))
    if isinstance(layer, nn.Module):
        return (name_of(net, layer),)
    if not isinstance(layer, str):
        raise LayerError(f"Expected a layer as its name or module, but got {type(layer).__name__}")
    return tuple(layer.split(JOINT))


def locate_in(forward: Forward) -> Locate:
    """Return a function that finds the layout of an output if its shape is ambiguous.

    If exactly one layout has equal strides, the shape decides. Otherwise a probing pass decides. If the network cannot
    be probed, the shape is used.
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


def carried_share(forward: Forward, recorded: RecordedLayer, targets: Sequence[Target]) -> list[float]:
    """Compute the share of each score that a layer carries, if other paths lead around the layer.

    The share is (s(x) - s(x; A = A(0))) / (s(x) - s(0)): the part of the score difference between an
    image and a blank image (all 0) that disappears if the layer alone gets the values of the blank image.

    Args:
        forward: a pass recorded at the layer.
        recorded: that layer.
        targets: one per image.

    Returns:
        One share per image; NaN where the score does not differ from that of a blank image.
    """
    with torch.no_grad():
        scores = next(trace.scores for trace in recorded.traces(forward, targets)).detach()
        pictures = torch.zeros_like(forward.pictures)
        blank = record(
            forward.net,
            with_picture(forward.inputs, pictures, picture=forward.picture),
            layers=recorded.layers,
            picture=forward.picture,
        )
        edits = {name: _replaced_by(blank.records[name].detach()) for name in recorded.layers}
        mixed = record(forward.net, forward.inputs, layers=recorded.layers, edits=edits, picture=forward.picture)
        edited_scores = [
            torch.stack([t(o) for t, o in zip(targets, run.outputs, strict=True)]) for run in (blank, mixed)
        ]
    shares = (scores - edited_scores[1]) / (scores - edited_scores[0])
    return [float(share) if share.isfinite() else float("nan") for share in shares]


def _replaced_by(values: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: values
