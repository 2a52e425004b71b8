"""Candidates: tensors that may be feature maps, with their axes and their responses to changed corners of the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from camscope.models.stand_ins import Corner
from camscope.models.watch import Event
from camscope.trace import Layout
from camscope.trace.layout import grid_of

_MARGIN = 1.05
"""Minimum ratio between the effects of a change at the same end of an axis and at the other end."""
_RESOLVED = 1e-5
"""Minimum relative change that exceeds rounding in single precision after many layers."""
_FEW = 5
"""Cells on an axis below which every cell sees most of the image, so that the test is inconclusive."""


@dataclass(eq=False)
class Candidate(Event):
    """An event whose tensor has a place for each part of the image.

    Attributes:
        layout: where its axes lie.
        space: pixels on each axis of the image.
        corners: the corners that were changed, in the order of the images.
    """

    layout: Layout = field(default_factory=Layout)
    space: tuple[int, ...] = ()
    corners: Sequence[Corner] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        """Return (h, w), or as many axes as the image has."""
        return grid_of(self.tensor.shape, self.layout)

    @property
    def width(self) -> int:
        """Return the number of channels."""
        return self.tensor.shape[self.layout.channel]

    @cached_property
    def change(self) -> Tensor:
        """Return the effect of each changed corner, (n, K, *grid), minus its median over the grid."""
        grids = self.layout.read(self.tensor.detach()).float()
        change = grids[1:] - grids[:1]
        cells = change.flatten(2).cpu().numpy()
        middle = (cells.shape[2] - 1) // 2
        everywhere = np.partition(cells, middle, axis=2)[..., middle]  # the median, seven times faster than PyTorch's
        return change - torch.from_numpy(everywhere).to(change).view(*everywhere.shape, *[1] * (change.ndim - 2))

    @cached_property
    def tells(self) -> bool:
        """Return whether the changed corners have an effect above rounding."""
        largest = float(self.change.abs().max())
        return largest > max(1e-30, _RESOLVED * float(self.tensor.detach().abs().max()))

    @property
    def collapsed(self) -> bool:
        """Return whether an axis has a single cell, as after a convolution over all electrodes."""
        return min(self.grid) < 2

    @property
    def places(self) -> int:
        """Return the number of values per image and channel: cells, or all tokens."""
        return self.tensor.numel() // (self.tensor.shape[self.layout.batch] * self.width)

    @property
    def has_more_tokens(self) -> bool:
        """Return whether more tokens follow those of the grid."""
        if self.layout.grid is None:
            return False
        return self.places > self.layout.prefix + math.prod(self.layout.grid)

    @cached_property
    def at_corners(self) -> float:
        """Return the share of the change in the corner cells of the changed corners, in [0, 1]."""
        change = self.change.abs().sum(1)
        cells = [(i, ..., *(0 if first else -1 for first in corner)) for i, corner in enumerate(self.corners)]
        return float(torch.stack([change[cell] for cell in cells]).sum() / change.sum().clamp_min(1e-30))

    @cached_property
    def contrast(self) -> float:
        """Return the least ratio, over the axes, of a change's share in its own half to that of other changes."""
        return min((_contrast(share, first) for _, share, first in self._halves()), default=0.0)

    def _halves(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield, per axis, its cells, the share of each change in its first half, and whether the change is there."""
        change = self.change.abs().sum(1)
        for back in range(1, min(len(self.grid), len(self.space)) + 1):  # frames before the image's axes are left out
            cells = self.grid[-back]
            if cells >= 2:
                first = torch.tensor([corner[-back] for corner in self.corners], device=change.device)
                halves = (change.narrow(-back, start, cells // 2) for start in (0, cells - cells // 2))
                low, high = (half.flatten(1).mean(1) for half in halves)
                yield cells, low / (low + high).clamp_min(1e-30), first

    @cached_property
    def keeps_places(self) -> bool:
        """Return whether a change at one end of an axis has more effect at that end of the grid than at the other.

        Some places respond more than others to any change: at the edge, and where gates scale large values. So each
        half's share of a change is compared with its share of the other changes. With few cells, this is
        inconclusive; but so few tokens may not be positions at all.
        """
        if len(self.change) < 2:
            return False
        for cells, share, first in self._halves():
            if cells < _FEW and self.layout.grid is None:
                if _prefers(share, ~first) and _prefers(1 - share, first):
                    return False  # mirrored
            elif not (_prefers(share, first) and _prefers(1 - share, ~first)):
                return False
        return True


def _contrast(share: Tensor, first: Tensor) -> float:
    """Return the mean share of the first half in changes made there, over its share in the others; likewise the second.

    The smaller of the two.
    """
    ratios = ((part[first].mean(), part[~first].mean()) for part in (share, 1 - share))
    (near, far), (low, high) = ratios
    return float(min(near / far.clamp_min(1e-30), high / low.clamp_min(1e-30)))


def _prefers(shares: Tensor, near: Tensor) -> bool:
    """Return whether the changes near a half all show there more than the others do, and clearly so on average."""
    inside, outside = shares[near], shares[~near]
    return bool(inside.min() > outside.max() and inside.mean() >= _MARGIN * outside.mean())
