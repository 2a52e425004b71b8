"""Maps, masks and inputs of one batch: whether they fit, and maps at the size of what they are held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camscope.errors import SettingError
from camscope.heatmap import normalise, upsample


def at_size(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Signed maps (B, *grid) at another size, (B, *size), in float64."""
    maps = maps.detach().double()
    return maps if maps.shape[1:] == tuple(size) else upsample(maps, size)


def against(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps at the size of their masks, flattened: (B, pixels) float64 and bool.

    Raises:
        SettingError: not one mask a map, or masks that are not of the same axes.
    """
    if masks.ndim != maps.ndim or len(masks) != len(maps):
        raise SettingError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} do not fit: give maps (B, h, w) and one mask "
            "for each, (B, H, W)"
        )
    return at_size(maps, masks.shape[1:]).flatten(1), masks.to(maps.device).bool().flatten(1)


def unit(maps: Tensor) -> Tensor:
    """The heat R(L) of each map scaled to [0, 1], as masks that pictures are multiplied with: s(R(L)), in float64.

    A flat map keeps all of the picture where it is positive, and nothing where it is not.

    >>> unit(torch.tensor([[[-1.0, 1.0, 3.0]], [[2.0, 2.0, 2.0]], [[-2.0, -2.0, -2.0]]])).tolist()
    [[[0.0, 0.333..., 1.0]], [[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]]
    """
    heat = maps.detach().double().relu()
    largest, least = heat.flatten(1).amax(1), heat.flatten(1).amin(1)
    kept = ((largest == least) & (largest > 0)).view(-1, *[1] * (heat.ndim - 1))
    return torch.where(kept, 1.0, normalise(heat, axes=heat.ndim - 1))


def undefined(values: Tensor, where: Tensor) -> Tensor:
    """Values (B,) or (B, ...) with NaN for the pictures of which a metric is not defined."""
    return values.masked_fill(where.to(values.device).view(-1, *[1] * (values.ndim - 1)), torch.nan)


def unsound(maps: Tensor) -> Tensor:
    """(B,) true for maps with NaN or infinity: no order of their pixels means anything."""
    return ~maps.detach().flatten(1).isfinite().all(1)
