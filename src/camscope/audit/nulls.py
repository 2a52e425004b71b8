"""Compute null maps of a trained network: random CAM."""

from __future__ import annotations

import torch
from torch import Tensor


def random_cam(activations: Tensor, *, seed: int) -> Tensor:
    """Return random combinations (B, h, w) of the channels (B, K, h, w), with weights uniform in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    weights = 2 * torch.rand(*activations.shape[:2], generator=generator, dtype=torch.float64) - 1
    return (weights[:, :, None, None].to(activations) * activations).sum(1)
