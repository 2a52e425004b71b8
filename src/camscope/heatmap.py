"""Place maps on the image: upsampling, scaling, and fusing of several layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from camscope.errors import SettingError, nearest
from camscope.images.picture import Window


def place(maps: Tensor, window: Window) -> Tensor:
    """Lay grid maps over the image, where the network saw it; what it did not see is 0.

    Linear interpolation with ``align_corners=False`` (a grid cell covers an equal share of the window), one matrix
    per axis, so that crops, letterboxes and fractional boxes are exact. Axes of a reoriented volume are put back.

    Args:
        maps: (..., *grid), any number of leading axes.
        window: the part of the image that the network saw, with as many axes as the grid.

    Returns:
        (..., *image) at image size, in the unit of ``maps``.

    >>> place(torch.tensor([[0.0, 1.0]]), Window((2, 4), (0, 0), (2, 4)))
    tensor([[0.0000, 0.2500, 0.7500, 1.0000],
            [0.0000, 0.2500, 0.7500, 1.0000]])
    """
    axes = len(window.picture)
    if window.order:
        maps = maps.flip([axis - axes for axis, flip in enumerate(window.flipped) if flip])
        maps = maps.movedim([axis - axes for axis in range(axes)], [axis - axes for axis in window.order])
    for axis in range(-axes, 0):
        cells = maps.shape[axis]
        weights = _interpolation(cells, window.picture[axis], window.start[axis], window.extent[axis], like=maps)
        maps = (maps.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return maps


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample maps (..., *grid) to the size of the network's input, (..., *size).

    >>> upsample(torch.ones(2, 7, 7), (224, 224)).shape
    torch.Size([2, 224, 224])
    """
    return place(maps, Window.whole(tuple(size)))


def normalise(maps: Tensor, axes: int = 2) -> Tensor:
    """Compute s(M) = (M - min) / (max - min) of each map over its last ``axes`` axes; a flat map becomes 0.

    >>> normalise(torch.tensor([[1.0, 3.0]]))
    tensor([[0., 1.]])
    """
    flat = maps.flatten(-axes)
    low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
    spread = high - low
    scaled = (flat - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
    return scaled.reshape(maps.shape)


def fuse(maps: Sequence[Tensor], how: str = "mean") -> Tensor:
    """Return one map out of the maps of several layers, on the finest of their grids.

    Each map is rectified, M = R(L), divided by its own maximum (an empty map stays 0) and upsampled. Then

    * "mean": their mean;
    * "max": the largest in each place;
    * "tanh": the largest of tanh(2 M / max M) in each place, as LayerCAM fuses early layers;
    * "product": their product, as RefineCAM fuses.

    Args:
        maps: (B, *grid) signed maps; grids may differ.
        how: one of these words.

    Returns:
        (B, *grid) in [0, 1].

    Raises:
        SettingError: another word, or no maps.

    Reference:
        Jiang et al. LayerCAM. IEEE TIP 2021. doi:10.1109/TIP.2021.3089943 (tanh); Domeniconi et al. How to Evaluate
        and Refine your CAM. 2026. arXiv:2605.14641 (product)

    >>> fuse([torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0, 4.0]])], "mean")
    tensor([[0.2500, 1.0000]])
    """
    if how not in _FUSIONS:
        raise SettingError(nearest("way to fuse maps", how, _FUSIONS))
    if not maps:
        raise SettingError("there are no maps to fuse; name at least one layer")
    finest = max((layer_map.shape[1:] for layer_map in maps), key=math.prod)
    heat = [layer_map.relu() for layer_map in maps]
    largest = [layer_map.flatten(1).amax(1).reshape(-1, *[1] * (layer_map.ndim - 1)) for layer_map in heat]
    unit = [layer_map / torch.where(top > 0, top, 1.0) for layer_map, top in zip(heat, largest, strict=True)]
    return _FUSIONS[how](torch.stack([upsample(layer_map, finest) for layer_map in unit]))


_FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean(0),
    "max": lambda maps: maps.amax(0),
    "tanh": lambda maps: (2 * maps).tanh().amax(0),
    "product": lambda maps: maps.prod(0),
}


def _interpolation(cells: int, pixels: int, start: float, extent: float, *, like: Tensor) -> Tensor:
    """Return (pixels, cells) weights of linear interpolation; rows of pixels outside the window are 0."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    centre = torch.arange(pixels, device=like.device, dtype=dtype) + 0.5 - start
    position = (centre / extent * cells - 0.5).clamp(0, cells - 1)
    lower = position.floor().long().clamp(max=max(cells - 2, 0))
    fraction = position - lower
    weights = torch.zeros(pixels, cells, device=like.device, dtype=dtype)
    weights.scatter_(1, lower[:, None], (1 - fraction)[:, None])
    if cells > 1:
        weights.scatter_(1, lower[:, None] + 1, fraction[:, None])
    inside = (centre >= 0) & (centre < extent)
    return (weights * inside[:, None]).to(like.dtype)
