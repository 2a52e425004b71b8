"""Compute null maps of a trained network: random CAM; and how many inputs pass at once."""

from __future__ import annotations

import torch
from torch import Tensor

_BATCH = 64  # inputs of 224 x 224 per forward pass


def batch_for(size: tuple[int, int]) -> int:
    """Return the number of inputs (h, w) per forward pass, at most 64, so that large inputs do not fill the memory.

    >>> batch_for((224, 224)), batch_for((448, 448)), batch_for((96, 96))
    (64, 16, 64)
    """
    return min(_BATCH, max(1, _BATCH * 224**2 // (size[0] * size[1])))


def random_cam(activations: Tensor, *, seed: int) -> Tensor:
    """Return random combinations (B, h, w) of the channels (B, K, h, w), with weights uniform in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    weights = 2 * torch.rand(*activations.shape[:2], generator=generator, dtype=torch.float64) - 1
    return (weights[:, :, None, None].to(activations) * activations).sum(1)
