"""Maps, masks and inputs of one batch: check that they fit together, and resize maps to what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camscope.errors import SettingError
from camscope.heatmap import normalise, upsample


def at_size(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return signed maps (B, *grid) resized to another size, (B, *size), in float64."""
    maps = maps.detach().double()
    return maps if maps.shape[1:] == tuple(size) else upsample(maps, size)


def against(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps at the size of their masks, and the masks, both flattened: (B, pixels) float64 and bool.

    Raises:
        SettingError: not one mask per map, or masks with other axes.
    """
    if masks.ndim != maps.ndim or len(masks) != len(maps):
        raise SettingError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} do not fit: give maps (B, h, w) and one mask "
            "for each, (B, H, W)"
        )
    return at_size(maps, masks.shape[1:]).flatten(1), masks.to(maps.device).bool().flatten(1)


def unit(maps: Tensor) -> Tensor:
    """Scale the heat map R(L) of each map to [0, 1], for images to be multiplied with: s(R(L)), in float64.

    A flat map becomes 1 everywhere if it is positive, and 0 otherwise.

    >>> unit(torch.tensor([[[-1.0, 1.0, 3.0]], [[2.0, 2.0, 2.0]], [[-2.0, -2.0, -2.0]]])).tolist()
    [[[0.0, 0.333..., 1.0]], [[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]]
    """
    heat = maps.detach().double().relu()
    largest, least = heat.flatten(1).amax(1), heat.flatten(1).amin(1)
    constant = ((largest == least) & (largest > 0)).view(-1, *[1] * (heat.ndim - 1))
    return torch.where(constant, 1.0, normalise(heat, axes=heat.ndim - 1))


def undefined(values: Tensor, where: Tensor) -> Tensor:
    """Return values (B,) or (B, ...) with NaN for the images for which a metric is undefined."""
    return values.masked_fill(where.to(values.device).view(-1, *[1] * (values.ndim - 1)), torch.nan)


def unsound(maps: Tensor) -> Tensor:
    """Return (B,), true for maps with NaN or infinity, whose pixels have no meaningful order."""
    return ~maps.detach().flatten(1).isfinite().all(1)
