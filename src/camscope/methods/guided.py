"""Guided backpropagation, and Guided Grad-CAM.

The rule is applied to the autograd graph, not to modules: so ReLUs are detected as modules, functions and in-place
operations, and the network is not changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

from camscope.errors import MethodError
from camscope.heatmap import upsample
from camscope.methods.gradient import gradcam
from camscope.methods.network import Targets, at_input, input_gradients
from camscope.methods.registry import MethodFacts, method
from camscope.trace import Trace, record
from camscope.trace.layout import Locate

_OTHERS = (
    "Celu Elu Gelu Glu Hardshrink Hardswish LeakyRelu LogSigmoid Mish Prelu PreluKernel RreluWithNoise Silu Softplus "
    "Softshrink"
)
_UNDEFINED = {f"{name}Backward{number}": name for name in _OTHERS.split() for number in range(3)}
_LOWER_BOUND = {
    "HardtanhBackward": "_saved_min_val",
    "ClampBackward": "_saved_min",
    "ClampMinBackward": "_saved_min",
    "ThresholdBackward": "_saved_threshold",
}


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        at_input=True,
        passes="1 forward, 1 backward",
        reference=(
            "Springenberg, Dosovitskiy, Brox, Riedmiller. Striving for Simplicity: The All Convolutional Net. "
            "ICLR 2015 workshop. arXiv:1412.6806"
        ),
    )
)
def guidedbackprop(net: nn.Module, inputs: Any, targets: Targets, *, picture: int = 0) -> Tensor:
    """Guided backpropagation: gradient with respect to the pixels; each ReLU passes only positive values.

    At each ReLU with input z, and gradient g at its output, the gradient is R(g) where z > 0, else 0. It is
    defined for rectifiers alone (ReLU, ReLU6, clamping at 0), as modules or functions, also in place.

    Args:
        net: a network of ReLUs.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        picture: which of several inputs is the image.

    Returns:
        (B, *space) signed map, summed over the colour channels.

    Raises:
        MethodError: the network has other activation functions, or no ReLU.

    Needs: rectifiers as activation functions, and no others; refused elsewhere.
    """
    return guided_gradients(net, inputs, targets, picture=picture).sum(1)


@method(
    MethodFacts(
        needs="gradients",
        whole_network=True,
        passes="2 forwards, 1 backward, 1 backward to the layer",
        reference=(
            "Selvaraju et al. Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization. "
            "ICCV 2017, IJCV 2020. arXiv:1610.02391"
        ),
    )
)
def guidedgradcam(
    net: nn.Module, inputs: Any, targets: Targets, *, layer: str, picture: int = 0, locate: Locate | None = None
) -> Tensor:
    """Guided Grad-CAM: guided backpropagation times Grad-CAM; fine detail of one class.

    L = G * U(R(L_Grad-CAM)), G guided backpropagation.

    Args:
        net: a network of ReLUs.
        inputs: (B, C, *space), or a tuple of inputs.
        targets: one target function per image.
        layer: the layer of Grad-CAM.
        picture: which of several inputs is the image.
        locate: function that returns the layout of an output; None to use the shapes.

    Returns:
        (B, *space) signed map, summed over the colour channels.

    Raises:
        MethodError: the network has other activation functions than ReLU, or none.

    Needs: rectifiers as activation functions, and no others; refused elsewhere.
    """
    guided = guidedbackprop(net, inputs, targets, picture=picture)
    forward = record(net, inputs, layers=[layer], picture=picture)
    heat = gradcam(forward.trace(layer, targets, layout=forward.layout_of(layer, locate=locate))).relu()
    return guided * upsample(heat, guided.shape[1:]).to(guided)


def guided_gradients(net: nn.Module, inputs: Any, targets: Targets, *, picture: int = 0) -> Tensor:
    """Compute guided backpropagation before the sum over channels: (B, C, *space)."""
    trace = at_input(net, inputs, targets, picture=picture)
    rectifiers = [node for node in _graph(trace) if _is_rectifier(node)]
    for node in rectifiers:
        node.register_prehook(lambda gradients: tuple(None if g is None else g.relu() for g in gradients))
    gradients = input_gradients(trace)
    if not rectifiers:
        raise MethodError(f"guided backpropagation needs ReLUs, and {type(net).__name__} has none; use smoothgrad")
    return gradients


def _graph(trace: Trace) -> Iterator[Node]:
    """Yield every node between the scores and the image.

    Raises:
        MethodError: for an activation function that guided backpropagation is not defined for.
    """
    if not trace.scores.requires_grad:
        return
    queue, seen_nodes = [get_gradient_edge(trace.scores).node], set()
    while queue:
        node = queue.pop()
        if node in seen_nodes:
            continue
        seen_nodes.add(node)
        if name := _undefined(node):
            raise MethodError(
                f"guided backpropagation is defined for ReLU alone, and {type(trace.forward.net).__name__} computes "
                f"{name}; use smoothgrad or integratedgradients"
            )
        queue += [next_node for next_node, _ in node.next_functions if next_node is not None]
        yield node


def _undefined(node: Node) -> str:
    """Return the name of the activation function that is no ReLU, if the node is one's derivative; else ""."""
    if _is_custom(node):
        return f"{node.name().removesuffix('Backward')}, a function with a derivative of its own,"
    if node.name().startswith("MulBackward"):
        # x * sigmoid(x), SiLU written out, as opposed to a gate: other(x) * sigmoid(x).
        factors = [following for following, _ in node.next_functions]
        for gate, value in (factors, factors[::-1]):
            if gate and value and gate.name().startswith("SigmoidBackward") and gate.next_functions[0][0] is value:
                return "x * sigmoid(x)"
    return _UNDEFINED.get(node.name(), "")


def _is_custom(node: object) -> bool:
    return isinstance(node, BackwardCFunction)


def _is_rectifier(node: Node) -> bool:
    """Return whether a node is the derivative of a function that is 0 below 0 and has slope 1 above."""
    name = node.name().rstrip("0123456789")
    return name == "ReluBackward" or (name in _LOWER_BOUND and getattr(node, _LOWER_BOUND[name], None) == 0)
