"""Compute raw signed maps of tensors, on the layer's grid, for any network."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from camscope.arguments import checked
from camscope.errors import LayerError, MethodError, SettingError, TargetError, reason
from camscope.explanation.apply import apply_method, run_pass
from camscope.explanation.method_lookup import check_needs, check_settings, default_method, find_method, method_name
from camscope.explanation.recorded_layer import Layers
from camscope.methods import Method, facts_of
from camscope.targets import Target, category, class_index
from camscope.trace import Forward, Layout
from camscope.trace.outputs import choosing_output
from camscope.trace.pytree import Input, map_arrays, picture_of

_IMAGE = 3

Asked = int | Target | None
"""Target of one image: a class index, a target function, or None for the predicted class."""


@checked
def cam(
    net: nn.Module,
    x: Any,
    *,
    method: str | Method | None = None,
    layer: Layers = None,
    targets: Asked | Sequence[Asked] | Tensor | npt.NDArray[Any] = None,
    layout: Layout | None = None,
    picture: Input = None,
    output: int | str | None = None,
    differentiable: bool = False,
    engine: str = "eager",
    precision: str = "float32",
    **settings: Any,
) -> Tensor:
    """Compute the map of each image: signed, before the final ReLU, on the layer's own grid.

    Maps of methods of the whole network have the size of the input, or another grid.

    Args:
        net: any network; it runs in eval mode and is restored bit for bit.
        x: (B, C, *space) inputs as the network takes them, a tensor or a NumPy array. Several inputs come as a tuple,
            which is spread over the network's parameters, as a list, or as a dict, which is passed by keywords where
            the network takes them.
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)"; or a function
            of a `Trace`, or of (net, inputs, targets). None: Grad-CAM, or occlusion for a black box.
        layer: name ("layer4", "relu()") or module; None for `default_layer`. Of several layers, a list or names
            joined by " + ", the maps are added, coarser ones resized to the finest grid.
        targets: None for the predicted class, a class index or target function for all images, or a list with one of
            these for each image; a tensor or array (B,) of class indices is such a list.
        layout: the axes of the layer's output; None to use the shapes.
        picture: which of several inputs is the batch of images: its number among the tensors, its key in a dict, or
            None for the first with axes of space.
        output: which of several outputs of the network to explain: its index, key or attribute; None for ``logits``,
            ``out``, or else the first. Targets are functions of that output.
        differentiable: keep the graph to the inputs and parameters, for a map inside a loss.
        engine: what computes the part of the network before the layer: "eager" PyTorch or "openvino" (see
            `camscope.models.engines.prepare`), which is worth its preparation for many inputs of one size.
        precision: of that part: "float32", "bfloat16", "float16", or "auto" (bfloat16 if the device computes it). In a
            lower precision, the maps of the first images must agree with those in float32; if they do not, a warning
            says so, and float32 is used.
        **settings: the method's own keyword arguments.

    Returns:
        (B, h, w), or (B, *grid) on inputs with another number of space axes, in the dtype of the activations. Frames
        that a network folds into the batch are an axis of their own, (B, frames, h, w).

    Raises:
        LayerError: the layer does not exist, did not run, or has no place for each part of the image.
        TargetError: a class or output that does not exist, or not one target per image.
        MethodError: no such method, or it cannot be applied to this network.
        SettingError: an image without its batch axis, a batch of no images, or a setting that the method does not take.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> x = torch.randn(4, 3, 32, 32)
    >>> cam(net, x, targets=1).shape, cam(net, x, targets=1, method="fullgrad").shape
    (torch.Size([4, 15, 15]), torch.Size([4, 32, 32]))
    """
    x = as_inputs(net, x, picture)
    targets = _listed(targets)
    columns: list[Any] = [targets if isinstance(targets, list) else [targets] * len(picture_of(x, picture))]
    options: Any = {"method": method, "layer": layer, "layout": layout, "picture": picture, "output": output}
    return _columns(
        net, x, columns, differentiable=differentiable, engine=engine, precision=precision, settings=settings, **options
    )[:, 0]


@checked
def cams(
    net: nn.Module,
    x: Any,
    *,
    targets: Sequence[Sequence[Asked]] | Tensor | npt.NDArray[Any],
    method: str | Method | None = None,
    layer: Layers = None,
    layout: Layout | None = None,
    picture: Input = None,
    output: int | str | None = None,
    engine: str = "eager",
    precision: str = "float32",
    **settings: Any,
) -> Tensor:
    """Compute maps of many targets per image, from one forward pass.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or several inputs, see `cam`.
        targets: (B, T) class indices, or for each image a list of T class indices or target functions.
        method: a name in `METHODS` or a function; None for Grad-CAM, or occlusion for a black box.
        layer: name, module or several of them; None for `default_layer`.
        layout: the axes of the layer's output; None to use the shapes.
        picture: which of several inputs is the batch of images.
        output: which of several outputs of the network to explain.
        engine: what computes the part of the network before the layer.
        precision: of that part.
        **settings: the method's own keyword arguments.

    Returns:
        (B, T, h, w), or (B, T, *grid).

    Raises:
        TargetError: not one list per image, or lists of different lengths.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    >>> cams(net, torch.randn(2, 3, 32, 32), targets=[[0, 1, 2], [2, 1, 0]]).shape
    torch.Size([2, 3, 15, 15])
    """
    lists = targets.tolist() if isinstance(targets, (Tensor, np.ndarray)) else targets
    rows = [_listed(row) for row in lists] if isinstance(lists, Sequence) else []
    if not rows or not all(isinstance(row, list) and len(row) == len(rows[0]) > 0 for row in rows):
        raise TargetError("targets must be one list per image, all of the same length: [[0, 1], [0, 1]]")
    columns = [list(column) for column in zip(*rows, strict=True)]
    options: Any = {"method": method, "layer": layer, "layout": layout, "picture": picture, "output": output}
    return _columns(
        net, as_inputs(net, x, picture), columns, engine=engine, precision=precision, settings=settings, **options
    )


def _columns(
    net: nn.Module,
    x: Any,
    columns: Sequence[Sequence[Asked]],
    *,
    method: str | Method | None,
    layer: Layers,
    layout: Layout | None,
    picture: Input,
    output: int | str | None,
    settings: Mapping[str, Any],
    differentiable: bool = False,
    engine: str = "eager",
    precision: str = "float32",
) -> Tensor:
    """Compute (B, T, *grid) maps of T targets per image, given as T columns with one target per image."""
    method = method or default_method(net)
    function = find_method(method)
    check_needs(net, [function])
    check_settings(settings, [method])
    if differentiable and facts_of(function).whole_network:
        raise MethodError(f"{method_name(method)} has no differentiable map; use a method of one layer, as gradcam is")
    if differentiable and (engine, precision) != ("eager", "float32"):
        raise SettingError(
            "a differentiable map is made by engine='eager' in float32: other engines have no graph of the network"
        )
    if facts_of(function).whole_network:
        names = [name for name, value in (("layer", layer), ("layout", layout)) if value is not None]
        if names and "layer" not in inspect.signature(function).parameters:
            raise MethodError(f"{method_name(method)} sees the whole network and takes no {names[0]}=")
    with choosing_output(output), torch.inference_mode(mode=False):
        forward, recorded_layer = run_pass(
            net,
            x,
            [function],
            layer=layer,
            layout=layout,
            picture=picture,
            differentiable=differentiable,
            engine=engine,
            precision=precision,
        )
        if recorded_layer is not None:
            engine_notes = [recorded_layer.engine.note] if recorded_layer.engine.note else []
            for text in (*engine_notes, *recorded_layer.place_notes):
                warnings.warn(text, stacklevel=4)
            if not recorded_layer.complete:
                warnings.warn(f"{recorded_layer.paths_around}; `explain` says which share it carries", stacklevel=4)
        maps = []
        for column in columns:
            targets = spread(column, forward)
            result = apply_method(
                function, forward, recorded_layer, targets, settings=settings, layer=layer, layout=layout
            )
            uses_gradients = any(trace.used_gradients for trace in result.traces)
            if uses_gradients and not any(trace.connected for trace in result.traces):
                raise LayerError(
                    f"the scores have no gradient by layer {result.layer!r}: it is not on their way, or what follows "
                    "has none (quantised weights, argmax, detach); name another layer, or use a method such as "
                    "occlusion"
                )
            maps.append(result.raw)
        like = forward.pictures if recorded_layer is None else forward.records[recorded_layer.layers[0]]
        return torch.stack(maps, 1).to(like.dtype)


def as_inputs(net: nn.Module, x: Any, picture: Input = None) -> Any:
    """Return inputs with NumPy arrays as tensors, and refuse those that are no batch.

    Raises:
        SettingError: an image without its batch axis, or a batch of no images.
    """
    parameters = net.parameters() if isinstance(net, nn.Module) else ()
    try:
        x = map_arrays(x, next((p.dtype for p in parameters if p.is_floating_point()), torch.float32))
    except TypeError as error:  # an array of texts or objects
        raise SettingError(f"Expected images as numbers (B, C, H, W): {reason(error)}") from None
    images = picture_of(x, picture)
    if len(images) == 0:
        raise SettingError(f"Expected at least one image, but got a batch of none: {tuple(images.shape)}")
    if images.is_complex():
        raise SettingError(f"Expected images as real numbers, but got {images.dtype}")
    if images.ndim == _IMAGE and isinstance(net, nn.Module):
        kernel = next((p for p in net.parameters() if p.ndim >= _IMAGE), None)
        if kernel is not None and kernel.ndim == _IMAGE + 1 and len(images) == kernel.shape[1]:
            raise SettingError(
                f"Expected a batch of images (B, C, H, W), but got {tuple(images.shape)}; add the batch axis, x[None]"
            )
    return x


def _listed(targets: Any) -> Any:
    """Return targets for several images as a list; a tensor or an array holds class indices."""
    if isinstance(targets, (Tensor, np.ndarray)):
        if targets.ndim > 1 and targets.shape[-1] > 1:
            raise TargetError(
                f"Expected one class index per image, but got {tuple(targets.shape)}; of one-hot rows pass "
                "targets.argmax(1)"
            )
        return targets.reshape(-1).tolist() if targets.ndim else targets.item()
    return list(targets) if isinstance(targets, Sequence) and not isinstance(targets, str) else targets


def spread(targets: Asked | Sequence[Asked] | Tensor, forward: Forward) -> list[Target]:
    """Return one target function per image; predicted classes and indices are settled here, once and for all."""
    target_value = _listed(targets)
    requests: list[Asked] = target_value if isinstance(target_value, list) else [target_value] * forward.batch
    if len(requests) != forward.batch:
        raise TargetError(
            f"Expected targets to have one entry per image (batch of {forward.batch}), but got {len(requests)}"
        )
    return [_as_target(request, output) for request, output in zip(requests, forward.outputs.detach(), strict=True)]


def _as_target(request: Asked, output: Tensor) -> Target:
    if request is None:
        if output.ndim > 1:
            raise TargetError(
                f"the output is a map {tuple(output.shape)} of scores; name what to explain of it as target"
            )
        return category(int(output.reshape(-1).argmax()))
    if callable(request) and not isinstance(request, type):
        return request
    target = category(class_index(request))
    target(output)
    return target
