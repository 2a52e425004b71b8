"""Weighted sums of channels, and access to their weights."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from camscope.errors import MethodError

_seen: ContextVar[list[Tensor] | None] = ContextVar("weights that methods gave to channels", default=None)


def mean_over_cells(values: Tensor) -> Tensor:
    """Compute the mean over the grid, (B, K, *grid) -> (B, K)."""
    return values.flatten(2).mean(2)


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """Compute sum_k w_k A_k: (B, K) and (B, K, *grid) -> (B, *grid)."""
    weight_log = _seen.get()
    if weight_log is not None:
        weight_log.append(weights)
    return torch.einsum("bk,bk...->b...", weights, activations)


def channel_weights(function: Callable[..., Tensor], *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """Apply a method and return its map with its channel weights.

    Args:
        function: the method.
        *args: what it is applied to, a `Trace`.
        **settings: its settings.

    Returns:
        The map (B, *grid), and the weights (B, K).

    Raises:
        MethodError: it does not weight channels.

    >>> A = torch.ones(1, 2, 3, 3)
    >>> channel_weights(lambda A: weighted(torch.tensor([[1.0, 2.0]]), A), A)[1]
    tensor([[1., 2.]])
    """
    weight_log: list[Tensor] = []
    token = _seen.set(weight_log)
    try:
        raw = function(*args, **settings)
    finally:
        _seen.reset(token)
    if not weight_log:
        raise MethodError(
            f"{function.__name__} gives the channels no weights, so its steps cannot be shown; gradcam, gradcampp, "
            "xgradcam, scorecam and ablationcam do"
        )
    return raw, weight_log[-1].detach()
