"""Weighted sums of channels, and access to their weights."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from camscope.errors import MethodError

if TYPE_CHECKING:
    from camscope.trace import Trace

_sums: ContextVar[list[tuple[Tensor, Tensor]] | None] = ContextVar(
    "weights and channels that methods sum", default=None
)


def mean_over_cells(values: Tensor) -> Tensor:
    """Compute the mean over the grid, (B, K, *grid) -> (B, K)."""
    return values.flatten(2).mean(2)


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """Compute sum_k w_k A_k: (B, K) and (B, K, *grid) -> (B, *grid)."""
    log = _sums.get()
    if log is not None:
        log.append((weights, activations))
    return torch.einsum("bk,bk...->b...", weights, activations)


def channel_weights(function: Callable[..., Tensor], trace: Trace, **settings: Any) -> tuple[Tensor, Tensor]:
    """Apply a method to one image, and return its map with its channel weights.

    Args:
        function: a method of a `Trace`.
        trace: one forward pass of one image, recorded at the layer.
        **settings: its settings.

    Returns:
        The map (1, *grid), and the weights (K,) of the layer's channels, 0 for channels that the method leaves out.

    Raises:
        MethodError: the map is not a weighted sum of the layer's channels.

    >>> from camscope.trace import record
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> trace = record(net, torch.ones(1, 3, 4, 4), layers=["0"]).trace("0", [lambda scores: scores[0]])
    >>> channel_weights(lambda trace: weighted(torch.tensor([[1.0, 2.0]]), trace.activations), trace)[1]
    tensor([1., 2.])
    """
    log: list[tuple[Tensor, Tensor]] = []
    token = _sums.set(log)
    try:
        raw = function(trace, **settings)
    finally:
        _sums.reset(token)
    if not log:
        raise without_steps(function.__name__)
    weights, channels = (values.detach()[0] for values in log[-1])
    A = trace.activations.detach()[0]
    places = list(range(len(A)))
    if len(channels) != len(A):  # some channels, copied: find each
        places = [int((channel == A).flatten(1).all(1).float().argmax()) for channel in channels]
    summed = torch.einsum("k,k...->...", weights, channels)
    is_sum = raw.shape[1:] == summed.shape and torch.allclose(raw[0].detach(), summed, rtol=1e-3, equal_nan=True)
    if not is_sum or len(log) > 1 or not torch.equal(A[places], channels):
        raise without_steps(function.__name__)
    return raw, weights.new_zeros(len(A)).index_add(0, torch.tensor(places, device=weights.device), weights)


def without_steps(name: str) -> MethodError:
    """Return the error of a method whose map is not a weighted sum of the channels of a layer."""
    return MethodError(
        f"the map of {name} is not a weighted sum of a layer's channels, so its steps cannot be shown; use gradcam, "
        "gradcampp, xgradcam, scorecam or ablationcam"
    )
