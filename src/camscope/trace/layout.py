"""Where batch, channels and space lie in a layer's output."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The axes of a layer's output, and the way to (B, K, *grid) and back.

    Attributes:
        batch: the batch axis.
        channel: the channel axis; every other axis is space, in order, unless ``grid`` is given.
        grid: for token layers, the (h, w) that the one remaining axis unfolds to.
        prefix: tokens before the grid (class, distillation and register tokens); tokens after it are left alone.
    """

    batch: int = 0
    channel: int = 1
    grid: tuple[int, ...] | None = None
    prefix: int = 0

    def read(self, output: Tensor) -> Tensor:
        """A layer's output as (B, K, *grid).

        >>> Layout(channel=2, grid=(14, 14), prefix=1).read(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
        """
        moved = output.movedim((self.batch, self.channel), (0, 1))
        if self.grid is None:
            return moved
        return moved[:, :, self.prefix : self.prefix + math.prod(self.grid)].reshape(*moved.shape[:2], *self.grid)

    def write(self, output: Tensor, activations: Tensor) -> Tensor:
        """``output`` with its grid replaced by ``activations`` (B, K, *grid); prefix tokens are kept."""
        if self.grid is not None:
            moved = output.movedim((self.batch, self.channel), (0, 1))
            end = self.prefix + math.prod(self.grid)
            activations = torch.cat([moved[:, :, : self.prefix], activations.flatten(2), moved[:, :, end:]], 2)
        return activations.movedim((0, 1), (self.batch, self.channel))
