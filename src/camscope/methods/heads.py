"""Detect the head after a layer from its gradient, without another forward pass, if the sum of its maps is known."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from camscope.trace import Trace


def linear_levels(trace: Trace) -> Tensor:
    """Return what one last linear layer makes of the activations: each score less the bias.

    The rest of the network is such a head where the gradient is the layer's row W_c itself (after flattening) or
    W_c / Z in every cell (after global average pooling). Targets linear in the output are followed through.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B,) y - b; NaN where the rest of the network is something else.

    >>> net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    >>> _ = nn.init.ones_(net[2].weight), nn.init.ones_(net[2].bias)
    >>> from camscope.trace import record
    >>> linear_levels(record(net, torch.ones(1, 1, 2, 2), layers=["0"]).trace("0", [lambda output: output[1]]))
    tensor([4.])
    """
    A = trace.activations.detach()
    B, K, Z = A.flatten(2).shape
    levels = A.new_full((B,), math.nan)
    for W, b in _last_layers(trace, {K, K * Z}):
        rows = W[:, :, None].expand(B, K, Z) / Z if W.shape[1] == K else W.unflatten(1, (K, Z))
        levels = torch.where(_is_gradient(trace, rows), trace.scores.detach().to(b) - b, levels)
    return levels


def frozen_sums(trace: Trace) -> Tensor:
    """Return what frozen-norm CAM's map adds up to, on a head of pooling, a layer norm and one linear layer.

    The rest of the network is such a head where the gradient is (v_k - mean v - Fh_k mean(v Fh)) / (Z sigma) in every
    cell, with F the pooled activations, mu, sigma their mean and standard deviation, Fh = (F - mu) / sigma and
    v = gamma * W_c. The sum is Z v . Fh = Z (y - b - W_c . beta).

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B,) sums; NaN where the rest of the network is something else.
    """
    A = trace.activations.detach()
    B, K, Z = A.flatten(2).shape
    sums = A.new_full((B,), math.nan)
    for W, _ in _last_layers(trace, {K}):
        for module in trace.forward.net.modules():
            eps = getattr(module, "eps", None)
            if not isinstance(eps, float) or size(module, "weight") not in (0, K):
                continue
            gamma = getattr(module, "weight", None)
            v = W if gamma is None else W * gamma.detach().flatten().to(W)
            pooled = A.flatten(2).mean(2)
            mu, sigma = statistics(pooled, eps)
            Fh = (pooled - mu) / sigma
            rows = (v - v.mean(1, keepdim=True) - Fh * (v * Fh).mean(1, keepdim=True)) / (Z * sigma)
            sums = torch.where(_is_gradient(trace, rows[:, :, None].expand(B, K, Z)), Z * (v * Fh).sum(1), sums)
    return sums


def size(module: nn.Module, name: str) -> int:
    """Return the number of values of a parameter; 0 if it is None, -1 if the module has no such parameter."""
    value = getattr(module, name, -1)
    return value.numel() if isinstance(value, Tensor) else (0 if value is None else -1)


def statistics(pooled: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the channels, (B, 1) each, as in a layer norm."""
    return pooled.mean(1, keepdim=True), (pooled.var(1, correction=0, keepdim=True) + eps).sqrt()


def tolerance(values: Tensor) -> float:
    """Return how far, relative to their size, numbers of this dtype may differ and count as the same."""
    return math.sqrt(torch.finfo(values.dtype).eps)


def slope(trace: Trace, image: int) -> Tensor | None:
    """Return the derivative of an image's target by the network's output; None if the target does not use it."""
    with torch.enable_grad():
        leaf = trace.outputs[image].detach().clone().requires_grad_()
        score = trace.targets[image](leaf)
        (derivative,) = torch.autograd.grad(score, leaf, allow_unused=True) if score.requires_grad else (None,)
    return derivative


def _last_layers(trace: Trace, widths: Collection[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield possible last linear layers: (B, width) weights of the targets, and (B,) biases."""
    outputs = trace.outputs.detach()
    if outputs.ndim != 2:
        return
    slopes = None
    for module in trace.forward.net.modules():
        weight, bias = _linear(module)
        if not isinstance(weight, Tensor) or weight.ndim < 2 or len(weight) != outputs.shape[1]:
            continue
        if weight[0].numel() in widths:
            slopes = _slopes(trace) if slopes is None else slopes
            W = slopes @ weight.detach().flatten(1).to(slopes)
            yield W, slopes @ bias.detach().to(slopes) if isinstance(bias, Tensor) else slopes.new_zeros(len(slopes))


def _linear(module: nn.Module) -> tuple[Any, Any]:
    """Return weight (C, width) and bias (C,) of a module that may be linear."""
    kernel = module._parameters.get("kernel")
    if kernel is not None and kernel.ndim == 2:  # layout of Keras, (width, C)
        return kernel.T, module._parameters.get("bias")
    return getattr(module, "weight", None), getattr(module, "bias", None)


def _slopes(trace: Trace) -> Tensor:
    """Return (B, C) derivatives of the targets by the output; NaN if a target is not linear in it."""
    outputs = trace.outputs.detach().to(trace.activations.dtype)
    slopes = torch.full_like(outputs, math.nan)
    for image, output in enumerate(outputs):
        derivative = slope(trace, image)
        if derivative is not None:
            slopes[image] = derivative.to(outputs)
            linear = (slopes[image] * output).sum()
            error = (linear - trace.scores[image].detach().to(linear)).abs()
            slopes[image, error > tolerance(trace.scores) * (slopes[image] * output).abs().sum()] = math.nan
    return slopes


def _is_gradient(trace: Trace, rows: Tensor) -> Tensor:
    """Return (B,) whether the gradient of each image equals this one, (B, K, Z)."""
    off = (trace.gradients.detach().flatten(2) - rows).abs().flatten(1).amax(1)
    return off <= tolerance(trace.scores) * rows.abs().flatten(1).amax(1)
