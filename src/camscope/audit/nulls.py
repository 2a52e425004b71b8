"""Compute null maps of a trained network: random CAM."""

from __future__ import annotations

import torch
from torch import Tensor

BATCH = 32


def random_cam(activations: Tensor, *, seed: int) -> Tensor:
    """Channels (B, K, h, w) weighted by chance, as Random CAM does: (B, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    weights = 2 * torch.rand(*activations.shape[:2], generator=generator, dtype=torch.float64) - 1
    return (weights[:, :, None, None].to(activations) * activations).sum(1)
