"""Modifiers of methods: each takes a method, by name or as a function, and returns a method.

>>> augmented("gradcam").__name__
'augmented(gradcam)'
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camscope.errors import MethodError, SettingError, nearest
from camscope.heatmap import fuse
from camscope.methods.activation import first_component
from camscope.methods.network import Targets, maps_of_layers, trace_method
from camscope.methods.registry import METHODS, Method, NetworkMethod, declare, facts_of
from camscope.naming import method_spelling
from camscope.trace import Trace
from camscope.trace.layout import Locate
from camscope.trace.pytree import picture_of, take_images, with_picture

META: dict[str, Callable[..., Method | NetworkMethod]] = {}
"""Name -> modifier; "augmented(gradcam)" is also the name of a method."""


def _meta(function: Any) -> Any:
    META[function.__name__] = function
    return function


@_meta
def augmented(method: str | Method | NetworkMethod, *, scales: Sequence[float] = (0.9, 1.0, 1.1)) -> Any:
    """Augmentation smoothing: the mean of the maps of several views of the image.

    Each view is the image or its mirror image, with the normalised input multiplied by one of the scales. The
    views of all images go through the network in one batch, and their maps are mirrored back.

    Args:
        method: a name in `METHODS`, or a function.
        scales: factors of the intensity.

    Returns:
        A method of the same kind, with the same settings and ``scales``.

    Needs: what the method needs; images whose mirror image means the same.

    Cost: 2 * len(scales) times that of the method, all views but the image itself in one batch; 6 times by default.

    Reference:
        The method has no paper: Gildenblat and contributors. PyTorch library for CAM methods, software, 2021,
        github.com/jacobgil/pytorch-grad-cam, whose views these are.
    """
    function, factors = _found(method), tuple(scales)

    def over_trace(trace: Trace, *, scales: Sequence[float] = factors, **settings: Any) -> Tensor:
        batch = trace.forward.batch
        views = _views(trace.pictures.detach(), scales).split(batch)
        plain_index = 2 * scales.index(1.0) if 1.0 in scales else None  # this view is the existing pass
        new_views = [view for place, view in enumerate(views) if place != plain_index]
        rows = torch.arange(batch).repeat(len(new_views))
        inner = trace.again(torch.cat(new_views), rows=rows)
        maps = [*function(inner, **settings).split(batch)]
        if plain_index is not None:
            maps.insert(plain_index, function(trace, **settings))
        for row, texts in zip(rows.tolist(), inner.notes, strict=True):
            trace.notes[row] += [text for text in texts if text not in trace.notes[row]]
        return _mean_of_views(torch.cat(maps), scales)

    def over_network(
        net: nn.Module,
        inputs: Any,
        targets: Targets,
        *,
        picture: int = 0,
        scales: Sequence[float] = factors,
        **settings: Any,
    ) -> Tensor:
        pictures = picture_of(inputs, picture)
        rows = torch.arange(len(pictures)).repeat(2 * len(scales))
        row_inputs = take_images(inputs, rows, batch=len(pictures))
        several = with_picture(row_inputs, _views(pictures, scales), picture=picture)
        maps = function(net, several, list(targets) * 2 * len(scales), picture=picture, **settings)
        return _mean_of_views(maps, scales)

    variant = _named(over_network if facts_of(function).whole_network else over_trace, "augmented", function)
    parameter = inspect.Parameter("scales", inspect.Parameter.KEYWORD_ONLY, default=factors)
    signature = inspect.signature(function)
    variant.__signature__ = signature.replace(parameters=[*signature.parameters.values(), parameter])
    return variant


def _views(pictures: Tensor, scales: Sequence[float]) -> Tensor:
    """Return each image and its mirror image at each scale: (2 * len(scales) * B, C, *space)."""
    if not scales:
        raise SettingError("scales=[] is not possible; it takes at least one factor, such as 1.0")
    return torch.cat([p * scale for scale in scales for p in (pictures, pictures.flip(-1))])


def _mean_of_views(maps: Tensor, scales: Sequence[float]) -> Tensor:
    """Return the mean of the maps of `_views`, mirrored back."""
    pairs = maps.unflatten(0, (len(scales), 2, -1))
    return torch.cat([pairs[:, 0], pairs[:, 1].flip(-1)]).mean(0)


@_meta
def eigensmoothed(method: str | Method) -> Any:
    """Eigen smoothing: the first principal component of the weighted channels instead of their sum.

    Where the method ends in L = sum_k w_k A_k, L is the projection of the cells x channels matrix (w_k A_k) on its
    first right singular vector, not centred, turned round so that it agrees with the sum: the product of the two,
    added up over the cells, is positive.

    Args:
        method: a name in `METHODS`, or a function of a `Trace`, that ends in a sum over the channels.

    Returns:
        A method of a trace, with the same settings.

    Raises:
        MethodError: when called, for a method that ends in something else.

    Needs: a method that ends in a sum over the channels.

    Cost: that of the method.

    Reference:
        Muhammad, Yeasin. Eigen-CAM: Class Activation Map using Principal Components. IJCNN 2020. arXiv:2008.00299
    """
    function = trace_method(method)

    def over_trace(trace: Trace, **settings: Any) -> Tensor:
        with _ChannelSums(trace.activations.shape) as sums:
            summed = function(trace, **settings)
        if sums.result is not summed or sums.parts is None:
            raise MethodError(
                f"eigen smoothing needs a method that ends in a sum over channels; {_name(function)} does not"
            )
        parts = sums.parts
        X = parts.flatten(2).transpose(1, 2)
        return first_component(X, along=X.sum(2)).reshape(len(parts), *parts.shape[2:])

    return _named(over_trace, "eigensmoothed", function)


@_meta
def fused(method: str | Method, *, how: str = "mean", layers: Sequence[str] | None = None) -> Any:
    """Multi-layer fusion: one map from a method's maps at several layers, in one forward pass.

    Args:
        method: a name in `METHODS`, or a function of a `Trace`.
        how: "mean", "max", "tanh" (as LayerCAM) or "product" (as RefineCAM), see `camscope.heatmap.fuse`.
        layers: names of the layers; None for the stages of the network.

    Returns:
        A method that sees the whole network, with the same settings and ``how`` and ``layers``; its maps lie in
        [0, 1], on the finest of the layers' grids.

    Needs: what the method needs, at every layer.

    Cost: 1 forward, and what the method costs at each layer.

    Reference:
        Jiang et al. LayerCAM: Exploring Hierarchical Class Activation Maps for Localization. IEEE TIP 2021.
        doi:10.1109/TIP.2021.3089943
    """
    function = trace_method(method)
    way, layer_names = how, layers

    def over_network(
        net: nn.Module,
        inputs: Any,
        targets: Targets,
        *,
        layers: Sequence[str],
        how: str = way,
        picture: int = 0,
        locate: Locate | None = None,
        **settings: Any,
    ) -> Tensor:
        at_layer = functools.partial(function, **settings)
        maps = maps_of_layers(at_layer, net, inputs, targets, layers=layers, picture=picture, locate=locate)
        return fuse(maps, how)

    method_parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    base = [p for p in inspect.signature(over_network).parameters.values() if p.kind is not p.VAR_KEYWORD]
    if layer_names is not None:
        base = [p.replace(default=list(layer_names)) if p.name == "layers" else p for p in base]
    preset: dict[str, Any] = {} if layer_names is None else {"layers": layer_names}
    variant = _named(functools.partial(over_network, **preset), "fused", function)
    declare(variant, replace(facts_of(variant), whole_network=True))
    variant.__signature__ = inspect.Signature([*base, *method_parameters])
    return variant


def _found(method: str | Method | NetworkMethod) -> Method | NetworkMethod:
    if not isinstance(method, str):
        return method
    name = method_spelling(method)
    if name not in METHODS:
        raise MethodError(nearest("method", method, METHODS))
    return METHODS[name]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _named(variant: Any, kind: str, function: Callable[..., Tensor]) -> Any:
    """Give a modified method the name, signature and, except for the cost, the facts of the original."""
    declare(variant, replace(facts_of(function), passes=""))
    variant.__signature__ = inspect.signature(function)
    variant.__name__ = f"{kind}({_name(function)})"
    variant.__doc__ = f"{_name(function)}, {kind}: see `camscope.methods.meta.{kind}`.\n\n{inspect.getdoc(function)}"
    return variant


class _ChannelSums(TorchFunctionMode):
    """Recorder of the last sum over channels of a tensor with the activations' shape.

    Attributes:
        result: (B, *grid) the sum.
        parts: (B, K, *grid) what was summed.
    """

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape
        self.result: Tensor | None = None
        self.parts: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        parts = None
        if name == "sum" and len(args) > 1 and args[1] == 1:
            parts = args[0]
        elif name == "einsum" and args[0] == "bk,bk...->b...":
            parts = args[1].reshape(*args[1].shape, *[1] * (args[2].ndim - 2)) * args[2]
        if parts is not None and parts.shape == self.shape:
            self.result, self.parts = result, parts
        return result
