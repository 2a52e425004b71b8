"""Parts shared by methods of the whole network: a pass with the graph from the image on. RefineCAM."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import LayerError, MethodError, nearest
from camscope.heatmap import fuse
from camscope.methods.joint import joint_map, traces_of
from camscope.methods.registry import METHODS, Method, MethodFacts, facts_of, method
from camscope.naming import method_spelling
from camscope.trace import Trace, record, unchanged
from camscope.trace.layer_path import JOINT
from camscope.trace.layout import Locate
from camscope.trace.pytree import map_tensors, picture_of

Targets = Sequence[Callable[[Tensor], Tensor]]

INPUT = "input"


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        passes="1 forward, and what the base method costs at each layer: 1 backward to it",
        reference=(
            "Domeniconi, Stramiglio, Lombardi, Salti. How to Evaluate and Refine your CAM. 2026. arXiv:2605.14641"
        ),
    )
)
def refinecam(
    net: nn.Module,
    inputs: Any,
    targets: Targets,
    *,
    layers: Sequence[str],
    base: str | Method = "gradcampp",
    picture: int = 0,
    locate: Locate | None = None,
) -> Tensor:
    """RefineCAM: product of the maps of all stages; as sharp as the first and as selective as the last.

    L = prod_l U(R(L_l) / max R(L_l)), L_l the map of the base method at layer l. The paper refines several
    methods. Grad-CAM++ gives smooth maps on networks of ReLUs; it assumes activations >= 0, so that where stages end
    in signed ones (MobileNetV2, ConvNeXt, ViT) "hirescam" or "layercam" is the better base. A stage whose map is
    nowhere positive makes the product empty.

    Args:
        net: any network.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        layers: names of the layers; by default the stages of the network.
        base: the method that is refined: a name in `METHODS`, or a function of a `Trace`; Grad-CAM++ as in
            the authors' example.
        picture: which of several inputs is the image.
        locate: function that returns the layout of an output; None to use the shapes.

    Returns:
        (B, *grid) map in [0, 1], on the finest of the layers' grids.

    Raises:
        MethodError: the base method is unknown, or sees the whole network.

    Needs: what the base method needs, at every layer.
    """
    maps = maps_of_layers(trace_method(base), net, inputs, targets, layers=layers, picture=picture, locate=locate)
    return fuse(maps, "product")


def maps_of_layers(
    function: Method,
    net: nn.Module,
    inputs: Any,
    targets: Targets,
    *,
    layers: Sequence[str],
    picture: int = 0,
    locate: Locate | None = None,
) -> list[Tensor]:
    """Compute a method's maps (B, *grid) at several layers, in one forward pass; "a + b" is the joint map of two.

    Raises:
        LayerError: no layer is named, or one has no place for each part of the image.
    """
    if not layers or isinstance(layers, str):
        raise LayerError(f"layers={layers!r} is not a list of layers; use names, such as ['layer3', 'layer4']")
    together = [layer.split(JOINT) for layer in layers]
    forward = record(net, inputs, layers=[*dict.fromkeys(itertools.chain(*together))], picture=picture)
    maps = []
    for names in together:
        layouts = [forward.layout_of(name, locate=locate) for name in names]
        maps.append(joint_map(function, traces_of(forward, names, layouts, targets)))
    return maps


def trace_method(method: str | Method) -> Method:
    """Return the method of this name, which must be a function of a `Trace`.

    Raises:
        MethodError: there is none, or it sees the whole network.
    """
    function = METHODS.get(method_spelling(method)) if isinstance(method, str) else method
    if function is None:
        raise MethodError(nearest("method", str(method), METHODS))
    if facts_of(function).whole_network:
        raise MethodError(
            f"{function.__name__} sees the whole network; this needs a method of one layer, as gradcam is"
        )
    return function


def at_input(net: nn.Module, inputs: Any, targets: Targets, *, picture: int = 0) -> Trace:
    """Return one forward pass with its graph from the image on, seen at the input as if that were a layer.

    Args:
        net: any network; restored bit for bit.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        picture: which of several inputs is the image.

    Returns:
        A trace whose activations are the images and whose gradients are those of the scores by the images.

    >>> trace = at_input(nn.Flatten(), torch.ones(1, 1, 2, 2), [lambda output: 3 * output[2]])
    >>> trace.gradients
    tensor([[[[0., 0.],
              [3., 0.]]]])
    """
    with torch.inference_mode(mode=False), torch.enable_grad(), unchanged(net):
        inputs = map_tensors(inputs, lambda tensor: tensor.detach().clone())
        pictures = picture_of(inputs, picture).requires_grad_()
        forward = record(net, inputs, layers=[], picture=picture, differentiable=True)
        input_pass = dataclasses.replace(
            forward, inputs=inputs, records={INPUT: pictures}, calls={INPUT: 1}, differentiable=False
        )
        return input_pass.trace(INPUT, targets)


def input_gradients(trace: Trace) -> Tensor:
    """Return the gradients (B, C, *space) of a trace `at_input`.

    Raises:
        MethodError: the score does not depend on the image.
    """
    if not trace.connected:
        raise MethodError(
            f"the score of {type(trace.forward.net).__name__} has no gradient by its input (it is computed under "
            "no_grad, or detached); use a method of one layer, as gradcam is"
        )
    return trace.gradients
