"""Methods for networks whose head is known: pooling and one linear layer, with or without a layer norm between them.

The head of a network is identified by its computations, not by names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from camscope.errors import MethodError
from camscope.methods.heads import size, statistics, tolerance
from camscope.methods.registry import MethodFacts, method
from camscope.methods.weights import weighted
from camscope.trace import Layout, Trace, record, tracing
from camscope.trace.pytree import call


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer, 3 tails",
        reference=(
            "Zhou, Khosla, Lapedriza, Oliva, Torralba. Learning Deep Features for Discriminative Localization. "
            "CVPR 2016. arXiv:1512.04150"
        ),
    )
)
def cam(trace: Trace) -> Tensor:
    """CAM: the activations with the weights of the linear layer after the pooling.

    L = sum_k W_ck A_k; the map's mean is the score less the bias. Needs global average pooling and one linear layer
    after the layer: that the score is such a function of the activations is verified on changed ones.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Raises:
        MethodError: the rest of the network is something else.

    Needs: global average pooling and one linear layer after the layer; refused elsewhere.
    """
    g = trace.gradients.flatten(2)
    needs = f"CAM needs global average pooling and one linear layer after {trace.layer!r}"
    if not _is_pooled(trace):
        raise MethodError(f"{needs}, and here the gradient differs from place to place; use hirescam")
    if not _is_affine(trace):
        raise MethodError(f"{needs}, and here the score is not linear in the activations; use gradcam or hirescam")
    return weighted(g.sum(2), trace.activations)


@method(
    MethodFacts(
        needs="gradients",
        passes="3 forwards, 1 backward to the layer norm, 3 tails",
        reference="This library; it takes CAM (arXiv:1512.04150) through the layer norm.",
    )
)
def frozennormcam(trace: Trace) -> Tensor:
    """Frozen-norm CAM: CAM for heads with a layer norm between pooling and linear layer, such as ConvNeXt.

    L = sum_k v_k (A_k - mu) / sigma with v = gamma * W_c, and mu, sigma the layer norm's mean and standard deviation
    (with its eps) of the pooled activations, held as they are. The map's mean is the score less the bias and
    W_c . beta, exactly; Grad-CAM's map of such a network adds up to nearly 0 for any score, and so shows a
    contrast without an absolute level. Layer norm and head are identified by their computations.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Raises:
        MethodError: the rest of the network is something else.

    Needs: global average pooling, a layer norm and one linear layer after the layer; refused elsewhere.
    """
    A = trace.activations
    pooled = A.flatten(2).mean(2)
    needs = f"frozen-norm CAM needs global average pooling, a layer norm and one linear layer after {trace.layer!r}"
    for name, norm, channel in _norms(trace, pooled):
        forward = trace.forward
        rerun = record(
            forward.net, forward.inputs, layers=[name], picture=forward.picture, differentiable=forward.differentiable
        )
        after = rerun.trace(name, trace.targets, layout=Layout(channel=channel))
        if not _is_affine(after):
            raise MethodError(f"{needs}, and here the score is not linear in the layer norm's output; use gradcam")
        W = after.gradients.flatten(1).to(A.dtype)
        mu, sigma = statistics(pooled, norm.eps)
        v = W if norm.weight is None else W * norm.weight.flatten().to(A.dtype)
        flat = (v[:, :, None] * (A.flatten(2) - mu[:, :, None]) / sigma[:, :, None]).sum(1)
        for image, (level, score) in enumerate(zip(flat.mean(1).tolist(), trace.scores.tolist(), strict=True)):
            text = f"the map's mean, {level:.4g}, is the score, {score:.4g}, without its constant part"
            trace.note(text, where=torch.arange(len(A)) == image)
        return flat.reshape(len(A), *A.shape[2:])
    raise MethodError(f"{needs}, and here no layer norm of the mean activations runs; use cam or gradcam")


def _norms(trace: Trace, pooled: Tensor) -> Iterator[tuple[str, Any, int]]:
    """Yield the layer norms of the mean activations: modules whose output is what a layer norm would make of them.

    Yields:
        Name, module, and the axis of its output where the K channels lie.
    """
    B, K = pooled.shape
    candidates: dict[str, Any] = {
        name: module
        for name, module in trace.forward.net.named_modules()
        if isinstance(getattr(module, "eps", None), float) and size(module, "weight") in (0, K)
    }
    with tracing(trace.forward.net, list(candidates)) as recording:
        call(trace.forward.net, trace.inputs)
    for name, output in recording.tensors.items():
        module = candidates[name]
        axes = [axis for axis in range(1, output.ndim) if output.shape[axis] == K]
        if len(output) != B or output.numel() != B * K or not axes:
            continue
        mu, sigma = statistics(pooled, module.eps)
        expected = (pooled - mu) / sigma
        if module.weight is not None:
            expected = expected * module.weight.flatten()
        if size(module, "bias"):
            expected = expected + module.bias.flatten()
        error = (output.detach().reshape(B, K) - expected).abs().amax(1)
        if bool((error <= tolerance(output) * expected.abs().amax(1)).all()):
            yield name, module, axes[0]


def _is_pooled(trace: Trace) -> bool:
    """Return whether the gradient is the same at every place, as it is where the layer is averaged."""
    g = trace.gradients.flatten(2)
    spread = (g - g.mean(2, keepdim=True)).abs().flatten(1).amax(1)
    return bool((spread <= tolerance(trace.scores) * g.abs().flatten(1).amax(1)).all())


def _is_affine(trace: Trace) -> bool:
    """Return whether the score of each image is linear in the activations: y(A') = y(0) + sum g A' also for other A'.

    An image whose gradient is 0, or whose activations are not finite, has nothing to show and passes.
    """
    A, g = trace.activations.detach(), trace.gradients.detach()
    scale = A.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (A.ndim - 1))
    constant = _score_of(trace, torch.zeros_like(A))
    passes = ~g.flatten(1).any(1) | ~scale.flatten().isfinite()
    linear = torch.ones_like(passes)
    for seed, factor in enumerate((1.0, -10.0)):
        noise = torch.randn(A.shape[1:], generator=torch.Generator().manual_seed(seed)).to(A)
        probe = A + factor * scale * noise
        y, share = _score_of(trace, probe), (g * probe).flatten(1)
        error = (y - constant - share.sum(1)).abs()
        linear &= error <= tolerance(trace.scores) * (y.abs() + constant.abs() + share.abs().sum(1))
    return bool((passes | linear).all())


def _score_of(trace: Trace, activations: Tensor) -> Tensor:
    return trace.again(edit=lambda _: activations).scores.detach().to(activations.dtype)
