"""Where batch, channels and space lie in a layer's output, and how to tell it from shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camscope.errors import LayerError

_MOST_PREFIX_TOKENS = 16
_SLACK = 1.0
"""Cells by which a grid may miss the picture's aspect: strides and unpadded convolutions round."""
_CLOSE = 0.4
"""As much, for tokens, while there is a choice: 4 x 5 cells and one token on a square picture are 4 x 4 and five."""


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


def guess_layout(shape: Sequence[int], picture: Sequence[int], *, last: bool = False) -> Layout | None:
    """Find how a layer's output maps to the picture.

    Args:
        shape: of the layer's output.
        picture: (B, C, *space) shape of the network's input.
        last: the network keeps its channels last (see `is_last`).

    Returns:
        The layout whose grid has the picture's aspect: channels first before channels last (``last``: after), then
        tokens (B, N, K), (N, B, K) or (B, K, N), a grid of the very aspect before one that is a cell off, with the
        fewest prefix tokens; None where nothing fits.

    >>> guess_layout((1, 7, 7, 768), (1, 3, 224, 224))
    Layout(batch=0, channel=3, grid=None, prefix=0)
    >>> guess_layout((1, 197, 768), (1, 3, 224, 224))
    Layout(batch=0, channel=2, grid=(14, 14), prefix=1)
    >>> guess_layout((1, 32, 32, 32), (1, 3, 64, 64), last=True)
    Layout(batch=0, channel=3, grid=None, prefix=0)
    """
    batch, space = picture[0], tuple(picture[2:])
    if len(shape) == len(space) + 2 and shape[0] == batch:
        for channel in (len(shape) - 1, 1) if last else (1, len(shape) - 1):
            layout = Layout(channel=channel)
            if fits(grid_of(shape, layout), space):
                return layout
    if len(shape) == 3 and len(space) > 1:
        orders = ((0, 1, 2), (1, 0, 2), (0, 2, 1))
        for slack, (b, tokens, channel) in itertools.product((_CLOSE, _SLACK), orders):
            if shape[b] == batch and (unfolded := _unfold(shape[tokens], space, slack)):
                grid, prefix = unfolded
                return Layout(batch=b, channel=channel, grid=grid, prefix=prefix)
    return None


def is_last(net: nn.Module) -> bool:
    """Whether a network says, by an attribute ``channels_last``, that its layers keep the channels last.

    >>> is_last(nn.Identity())
    False
    """
    return bool(getattr(net, "channels_last", False))


def find_layout(shape: Sequence[int], picture: Sequence[int], *, layer: str, last: bool = False) -> Layout:
    """As `guess_layout`, for a layer that was named.

    Raises:
        LayerError: nothing fits.

    >>> find_layout((2, 512, 7, 7), (2, 3, 224, 224), layer="layer4")
    Layout(batch=0, channel=1, grid=None, prefix=0)
    """
    layout = guess_layout(shape, picture, last=last)
    if layout is None:
        raise LayerError(
            f"layer {layer!r} returns {tuple(shape)}, which has no place for each part of a picture of "
            f"{tuple(picture[2:])}; name an earlier layer, or give its layout="
        )
    return layout


def grid_of(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """The grid of an output of this shape under a layout."""
    if layout.grid is not None:
        return layout.grid
    return tuple(n for axis, n in enumerate(shape) if axis not in (layout.batch, layout.channel))


def fits(grid: Sequence[int], space: Sequence[int], *, slack: float = _SLACK) -> bool:
    """Whether a grid could be a coarser version of the picture: one stride for all axes, give or take a cell."""
    if any(g > s for g, s in zip(grid, space, strict=True)):
        return False
    stride = (math.prod(space) / math.prod(grid)) ** (1 / len(space)) if min(grid) > 0 else math.inf
    return all(abs(s / stride - g) <= slack for g, s in zip(grid, space, strict=True))


def _unfold(tokens: int, space: Sequence[int], slack: float) -> tuple[tuple[int, ...], int] | None:
    """The grid and number of prefix tokens that ``tokens`` could be."""
    for prefix in range(min(_MOST_PREFIX_TOKENS, tokens - 1) + 1):
        cells = tokens - prefix
        stride = (math.prod(space) / cells) ** (1 / len(space))
        sides = [(math.floor(s / stride + 1e-6), math.ceil(s / stride - 1e-6)) for s in space]
        for grid in itertools.product(*sides):
            if math.prod(grid) == cells and fits(grid, space, slack=slack):
                return grid, prefix
    return None
