"""Apply a method to one forward pass; shared by `cam`, `cams` and `BatchExplainer`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camscope.errors import MethodError
from camscope.explanation.method_lookup import method_name
from camscope.explanation.recorded_layer import Layers, RecordedLayer, layer_names, locate_in, record_layer
from camscope.methods import Method, NetworkMethod, facts_of
from camscope.methods.joint import joint_map, without_autocast
from camscope.models.layer_choice import choose_layer
from camscope.models.stages import stage_layers
from camscope.targets import Target
from camscope.trace import Forward, Layout, Trace, record
from camscope.trace.layer_path import JOINT
from camscope.trace.pytree import Input


class Applied(NamedTuple):
    """The maps of one method, with their forward pass.

    Attributes:
        raw: (B, *grid) or (B, *space) signed maps, float32 or better.
        scores: (B,) the explained scores.
        layer: name of the layer; for methods of the whole network, the part that they use.
        forward: the pass.
        traces: the pass at each layer; none for a method of the whole network.
    """

    raw: Tensor
    scores: Tensor
    layer: str
    forward: Forward
    traces: Sequence[Trace]


def run_pass(
    net: nn.Module,
    x: Any,
    functions: Iterable[Method | NetworkMethod],
    *,
    layer: Layers = None,
    layout: Layout | None = None,
    picture: Input = None,
    differentiable: bool = False,
    engine: str = "eager",
    precision: str = "float32",
) -> tuple[Forward, RecordedLayer | None]:
    """Run a network once; record a layer if a method needs one."""
    if all(facts_of(function).whole_network for function in functions):
        return record(net, x, layers=[], picture=picture), None
    return record_layer(
        net,
        x,
        layer=layer,
        layout=layout,
        picture=picture,
        differentiable=differentiable,
        engine=engine,
        precision=precision,
    )


def apply_method(
    function: Method | NetworkMethod,
    forward: Forward,
    recorded: RecordedLayer | None,
    targets: Sequence[Target],
    *,
    settings: Mapping[str, Any],
    rows: Sequence[int] | None = None,
    layer: Layers = None,
    layout: Layout | None = None,
) -> Applied:
    """Compute the maps of a method, in any grad mode of the caller.

    Args:
        function: the method.
        forward: a pass from `run_pass`.
        recorded: the layer that it was recorded at.
        targets: one per image, or per image of ``rows``.
        settings: keyword arguments of the method.
        rows: numbers of the images to explain; None for all.
        layer: the layer that the user or the model names, for methods of the whole network that look at one.
        layout: the axes of that layer's output.

    Raises:
        MethodError: the method cannot be applied to this network.
    """
    if recorded is not None and not facts_of(function).whole_network:
        traces = recorded.traces(forward, targets, rows=rows)
        return Applied(joint_map(function, traces, **settings), traces[0].scores, recorded.layer, forward, traces)
    forward = forward if rows is None else forward.only(rows)
    arguments = _provided(function, forward, settings, layer=layer, layout=layout)
    with torch.inference_mode(mode=False), torch.enable_grad(), without_autocast(forward.outputs):
        raw = function(forward.net, forward.inputs, list(targets), **arguments).detach()
    outputs = forward.outputs.detach()
    scores = torch.stack([target(output) for target, output in zip(targets, outputs, strict=True)])
    return Applied(raw, scores, _place(function, arguments, chosen="layers" in settings), forward, ())


def _provided(
    function: NetworkMethod, forward: Forward, settings: Mapping[str, Any], *, layer: Layers, layout: Layout | None
) -> dict[str, Any]:
    """Return the settings of a method of the whole network, with the layers in its parameters."""
    parameters = inspect.signature(function).parameters
    arguments = dict(settings) | {"picture": forward.picture, "locate": locate_in(forward)}
    if "layer" in parameters:
        if layer is None:
            choice = choose_layer(forward.net, forward.inputs, picture=forward.picture, output=forward.output)
            names, layout = choice.layers, layout or choice.layouts[0]
        else:
            names = layer_names(forward.net, layer)
        if len(names) > 1:
            raise MethodError(f"{method_name(function)} takes one layer, and the score comes from {JOINT.join(names)}")
        arguments["layer"] = names[0]
        if layout is not None:
            arguments["locate"] = lambda *_: layout
    if "layers" in parameters and parameters["layers"].default is inspect.Parameter.empty and "layers" not in arguments:
        arguments["layers"] = stage_layers(forward.net, forward.inputs, picture=forward.picture, output=forward.output)
    return {name: value for name, value in arguments.items() if name in parameters or name in settings}


def _place(function: NetworkMethod, arguments: Mapping[str, Any], *, chosen: bool) -> str:
    """Return the part of the network that a method used; ``chosen``: the user named the layers.

    >>> from camscope.methods import METHODS
    >>> _place(METHODS["occlusion"], {}, chosen=False), _place(METHODS["fullgrad"], {}, chosen=False)
    ('input', 'whole network')
    """
    if "layer" in arguments:
        return str(arguments["layer"])
    if chosen and "layers" in arguments:
        return ", ".join(arguments["layers"])
    return "input" if facts_of(function).at_input else "whole network"
