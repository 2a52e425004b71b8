"""Which axes of a layer's output are batch, channels and space, told from shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from camscope.errors import LayerError
from camscope.trace import Layout

_MOST_PREFIX_TOKENS = 16
_SLACK = 1.0
"""Cells by which a grid may miss the picture's aspect: strides and unpadded convolutions round."""


def guess_layout(shape: Sequence[int], picture: Sequence[int]) -> Layout | None:
    """Find how a layer's output maps to the picture.

    Args:
        shape: of the layer's output.
        picture: (B, C, *space) shape of the network's input.

    Returns:
        The layout whose grid has the picture's aspect: channels first before channels last, then tokens (B, N, K),
        (N, B, K) or (B, K, N) with the fewest prefix tokens; None where nothing fits.

    >>> guess_layout((1, 7, 7, 768), (1, 3, 224, 224))
    Layout(batch=0, channel=3, grid=None, prefix=0)
    >>> guess_layout((1, 197, 768), (1, 3, 224, 224))
    Layout(batch=0, channel=2, grid=(14, 14), prefix=1)
    """
    batch, space = picture[0], tuple(picture[2:])
    if len(shape) == len(space) + 2 and shape[0] == batch:
        for channel in (1, len(shape) - 1):
            layout = Layout(channel=channel)
            if fits(grid_of(shape, layout), space):
                return layout
    if len(shape) == 3 and len(space) > 1:
        for b, tokens, channel in ((0, 1, 2), (1, 0, 2), (0, 2, 1)):
            if shape[b] == batch and (unfolded := _unfold(shape[tokens], space)):
                grid, prefix = unfolded
                return Layout(batch=b, channel=channel, grid=grid, prefix=prefix)
    return None


def find_layout(shape: Sequence[int], picture: Sequence[int], *, layer: str) -> Layout:
    """As `guess_layout`, for a layer that was named.

    Raises:
        LayerError: nothing fits.

    >>> find_layout((2, 512, 7, 7), (2, 3, 224, 224), layer="layer4")
    Layout(batch=0, channel=1, grid=None, prefix=0)
    """
    layout = guess_layout(shape, picture)
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


def fits(grid: Sequence[int], space: Sequence[int]) -> bool:
    """Whether a grid could be a coarser version of the picture: one stride for all axes, give or take a cell."""
    if any(g > s for g, s in zip(grid, space, strict=True)):
        return False
    stride = (math.prod(space) / math.prod(grid)) ** (1 / len(space)) if min(grid) > 0 else math.inf
    return all(abs(s / stride - g) <= _SLACK for g, s in zip(grid, space, strict=True))


def _unfold(tokens: int, space: Sequence[int]) -> tuple[tuple[int, ...], int] | None:
    """The grid and number of prefix tokens that ``tokens`` could be."""
    for prefix in range(min(_MOST_PREFIX_TOKENS, tokens - 1) + 1):
        cells = tokens - prefix
        stride = (math.prod(space) / cells) ** (1 / len(space))
        sides = [(math.floor(s / stride + 1e-6), math.ceil(s / stride - 1e-6)) for s in space]
        for grid in itertools.product(*sides):
            if math.prod(grid) == cells and fits(grid, space):
                return grid, prefix
    return None
