"""Maps of tensors: any network, a batch of inputs, raw signed maps on the layer's grid."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import MethodError, SettingError, TargetError, nearest
from camscope.methods import ATTRIBUTIONS, META, METHODS, Method, NetworkMethod, needs_of, sees_network
from camscope.models.black_box import BlackBox
from camscope.models.engines import Prepared, prepare
from camscope.models.layer_choice import default_layer
from camscope.models.stages import stage_layers
from camscope.targets import Target, category, class_index
from camscope.trace import Forward, Layout, Trace, record
from camscope.trace.address import name_of
from camscope.trace.hooks import refuse_program
from camscope.trace.layout import find_layout, is_last

_MADE = re.compile(r"(\w+)\((.+)\)")

Asked = int | Target | None
"""What is asked for in one image: a class index, a target function, or None for the predicted class."""


def cam(
    net: nn.Module,
    x: Any,
    *,
    method: str | Method = "gradcam",
    layer: str | nn.Module | None = None,
    targets: Asked | Sequence[Asked] | Tensor = None,
    layout: Layout | None = None,
    picture: int = 0,
    differentiable: bool = False,
    engine: str = "eager",
    **settings: Any,
) -> Tensor:
    """The map of each image: signed, before the final ReLU, on the layer's own grid.

    A method that sees the whole network has its map at input size, or on a grid of its own.

    Args:
        net: any network; it runs in eval mode and is left bit-identical.
        x: (B, C, *space) inputs as the network takes them; a tuple where it takes several.
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)"; or a function
            of a `Trace`, or of (net, inputs, targets).
        layer: name ("layer4", "relu()") or module; None for `default_layer`.
        targets: None for the predicted class, a class index or target function for all images, or a list with one of
            these for each image; a tensor (B,) of class indices is such a list.
        layout: the axes of the layer's output; None to tell them from the shapes.
        picture: which of several inputs is the picture.
        differentiable: keep the graph to the inputs and parameters, for a map inside a loss.
        engine: what computes the part of the network before the layer: "eager" PyTorch, "packed" or "openvino" (see
            `camscope.models.engines.prepare`), which are worth their preparation for many inputs of one size.
        **settings: the method's own keyword arguments.

    Returns:
        (B, h, w), or (B, *grid) on inputs with another number of space axes, in the dtype of the activations.

    Raises:
        LayerError: the layer does not exist, did not run, or has no place for each part of the picture.
        TargetError: a class that does not exist, or not one target an image.
        MethodError: no such method, or it cannot be applied to this network.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> x = torch.randn(4, 3, 32, 32)
    >>> cam(net, x, targets=1).shape, cam(net, x, targets=1, method="fullgrad").shape
    (torch.Size([4, 15, 15]), torch.Size([4, 32, 32]))
    """
    function = find_method(method)
    check_needs(net, [function])
    if sees_network(function):
        if differentiable:
            raise MethodError(
                f"{method_name(method)} has no differentiable map; use a method of one layer, as gradcam is"
            )
        if layer is not None and "layer" not in inspect.signature(function).parameters:
            raise MethodError(f"{method_name(method)} sees the whole network and takes no layer=; leave it out")
        forward = record(net, x, layers=[], picture=picture)
        given = provided(function, forward, settings, layer=layer, layout=layout)
        maps = network_map(function, forward, spread(targets, forward), **given)
        return maps.to(forward.pictures.dtype)
    if differentiable and engine != "eager":
        raise SettingError(
            f"a differentiable map is made by engine='eager', and {engine!r} has no graph of the network"
        )
    forward, seen = look(
        net, x, layer=layer, layout=layout, picture=picture, differentiable=differentiable, engine=engine
    )
    trace = forward.trace(seen.layer, spread(targets, forward), layout=seen.layout)
    return raw_map(function, trace, **settings).to(forward.records[seen.layer].dtype)


def cams(
    net: nn.Module,
    x: Any,
    *,
    targets: Sequence[Sequence[Asked]],
    method: str | Method = "gradcam",
    layer: str | nn.Module | None = None,
    layout: Layout | None = None,
    picture: int = 0,
    engine: str = "eager",
    **settings: Any,
) -> Tensor:
    """Maps of many targets an image, from one forward pass.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or a tuple of inputs.
        targets: for each image, the same number T of class indices or target functions.
        method: as for `cam`.
        layer: as for `cam`.
        layout: as for `cam`.
        picture: as for `cam`.
        engine: as for `cam`.
        **settings: the method's own keyword arguments.

    Returns:
        (B, T, h, w), or (B, T, *grid).

    Raises:
        TargetError: not one list an image, or lists of different lengths.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    >>> cams(net, torch.randn(2, 3, 32, 32), targets=[[0, 1, 2], [2, 1, 0]]).shape
    torch.Size([2, 3, 15, 15])
    """
    if not targets or len({len(row) for row in targets}) != 1 or not len(targets[0]):
        raise TargetError("targets must be one list an image, all of the same length: [[0, 1], [0, 1]]")
    function = find_method(method)
    check_needs(net, [function])
    if sees_network(function):
        columns = [list(column) for column in zip(*targets, strict=True)]
        more = {"method": method, "layer": layer, "layout": layout, "picture": picture} | settings
        return torch.stack([cam(net, x, targets=column, **more) for column in columns], 1)
    forward, seen = look(net, x, layer=layer, layout=layout, picture=picture, engine=engine)
    columns = [spread(list(column), forward) for column in zip(*targets, strict=True)]
    traces = (forward.trace(seen.layer, column, layout=seen.layout) for column in columns)
    maps = [raw_map(function, trace, **settings) for trace in traces]
    return torch.stack(maps, 1).to(forward.records[seen.layer].dtype)


@dataclass(frozen=True)
class Seen:
    """The layer that a forward pass was recorded at, where its axes lie, and what computed the way to it."""

    layer: str
    layout: Layout
    engine: Prepared


def look(
    net: nn.Module,
    x: Any,
    *,
    layer: str | nn.Module | None = None,
    layout: Layout | None = None,
    picture: int = 0,
    differentiable: bool = False,
    engine: str = "eager",
) -> tuple[Forward, Seen]:
    """Run a network once, recorded at a layer that is named, given or chosen."""
    refuse_program(net)
    if layer is None:
        layer = default_layer(net, x, picture=picture)
    name = layer if isinstance(layer, str) else name_of(net, layer)
    prepared = prepare(net, x, layer=name, engine=engine)
    forward = record(net, x, layers=[name], picture=picture, differentiable=differentiable, trunk=prepared.trunk)
    return forward, Seen(name, layout or layout_of(forward, name), prepared)


def layout_of(forward: Forward, layer: str) -> Layout:
    """Where the axes of a recorded layer lie, told from the shapes.

    Raises:
        LayerError: the layer has no place for each part of the picture.
    """
    return find_layout(forward.records[layer].shape, forward.pictures.shape, layer=layer, last=is_last(forward.net))


def spread(targets: Asked | Sequence[Asked] | Tensor, forward: Forward) -> list[Target]:
    """One target function an image; predicted classes and indices are settled here, once and for all."""
    targets = targets.tolist() if isinstance(targets, Tensor) else targets
    asked: list[Asked] = [*targets] if isinstance(targets, Sequence) else [targets] * forward.batch
    if len(asked) != forward.batch:
        raise TargetError(f"{len(asked)} targets for {forward.batch} images; give one, or one for each image")
    return [_as_target(one, output) for one, output in zip(asked, forward.outputs.detach(), strict=True)]


def _as_target(asked: Asked, output: Tensor) -> Target:
    if asked is None:
        if output.ndim > 1:
            raise TargetError(
                f"the output is a map {tuple(output.shape)} of scores; name what to explain of it as target"
            )
        return category(int(output.reshape(-1).argmax()))
    if callable(asked):
        return asked
    target = category(class_index(asked))
    target(output)
    return target


def find_method(method: str | Method | NetworkMethod) -> Method | NetworkMethod:
    """The method of this name, also "augmented(gradcam)"; a function is its own method.

    Raises:
        MethodError: there is none; the message has the nearest names.

    >>> find_method("fused(layercam)").__name__
    'fused(layercam)'
    """
    if callable(method):
        return method
    made = _MADE.fullmatch(method)
    if made and made[1] in META:
        return META[made[1]](find_method(made[2]))
    if method not in METHODS:
        raise MethodError(nearest("method", method, [*METHODS, *(f"{name}(gradcam)" for name in META)]))
    return METHODS[method]


def check_needs(net: nn.Module, functions: Iterable[Method | NetworkMethod]) -> None:
    """Check that a network has what some methods need; of a black box nothing but scores can be had.

    Raises:
        MethodError: it has not; the message names the methods that work.
    """
    if not isinstance(net, BlackBox):
        return
    for function in functions:
        needs = needs_of(function)
        if needs in ("activations", "gradients"):
            raise MethodError(
                f"{method_name(function)} needs the {needs} of a network, and this model is a black box, of which only "
                f"the scores are known; use a method that needs only scores: {', '.join(methods_of_scores())}"
            )


def methods_of_scores() -> list[str]:
    """Return the names of the methods that need nothing but scores.

    >>> "occlusion" in methods_of_scores(), "gradcam" in methods_of_scores()
    (True, False)
    """
    return [name for name, function in METHODS.items() if needs_of(function) == "scores"]


def method_name(method: str | Method | NetworkMethod) -> str:
    """What a method is called in results.

    >>> method_name("gradcam"), method_name(METHODS["gradcam"])
    ('gradcam', 'gradcam')
    """
    return method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)


def place_name(function: NetworkMethod, given: Mapping[str, Any], *, chosen: bool) -> str:
    """What a method that sees the whole network looked at, in words.

    Args:
        function: the method.
        given: its settings.
        chosen: whether its ``layers`` are those that the user named.

    >>> place_name(METHODS["occlusion"], {}, chosen=False), place_name(METHODS["fullgrad"], {}, chosen=False)
    ('input', 'whole network')
    """
    if "layer" in given:
        return str(given["layer"])
    if chosen and "layers" in given:
        return ", ".join(given["layers"])
    return "input" if method_name(function).split("(")[-1].rstrip(")") in ATTRIBUTIONS else "whole network"


def known(function: Callable[..., Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a method takes."""
    takes = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    return {name: value for name, value in settings.items() if any_name or name in takes}


def provided(
    function: NetworkMethod,
    forward: Forward,
    settings: Mapping[str, Any],
    *,
    layer: str | nn.Module | None = None,
    layout: Layout | None = None,
) -> dict[str, Any]:
    """The settings of a method that sees the whole network, with the layers that it asks for by its parameters."""
    takes = inspect.signature(function).parameters
    given = dict(settings) | {"picture": forward.picture}
    if "layer" in takes:
        layer = default_layer(forward.net, forward.inputs, picture=forward.picture) if layer is None else layer
        given |= {"layer": layer if isinstance(layer, str) else name_of(forward.net, layer), "layout": layout}
    if "layers" in takes and takes["layers"].default is inspect.Parameter.empty and "layers" not in given:
        given["layers"] = stage_layers(forward.net, forward.inputs, picture=forward.picture)
    return {name: value for name, value in given.items() if name in takes or name in settings}


def network_map(function: NetworkMethod, forward: Forward, targets: Sequence[Target], **given: Any) -> Tensor:
    """Apply a method that sees the whole network to the inputs of a pass, whatever grad mode the caller is in.

    Returns:
        (B, *grid) or (B, *space) signed map, float32 or better.
    """
    with torch.inference_mode(mode=False), torch.enable_grad(), without_autocast(forward.outputs):
        return function(forward.net, forward.inputs, list(targets), **given).detach()


def raw_map(function: Callable[..., Tensor], trace: Trace, **settings: Any) -> Tensor:
    """Apply a method to a trace, whatever grad mode the caller is in.

    Returns:
        (B, *grid) signed map, float32 or better.
    """
    with (
        torch.inference_mode(mode=False),
        torch.set_grad_enabled(trace.forward.differentiable),
        without_autocast(trace.outputs),
    ):
        return function(trace, **settings)


def without_autocast(like: Tensor) -> torch.autocast:
    """Calculate as it is written: under `torch.autocast` the network runs in half precision, not what is made of it."""
    return torch.autocast(like.device.type, enabled=False)
