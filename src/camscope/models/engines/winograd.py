"""3 x 3 convolutions with a quarter of the multiplications: tiles of 4 x 4 results, F(4 x 4, 3 x 3).

Each tile Y of a result comes from a tile d of 6 x 6 inputs as Y = A' [(G g G') * (B' d B)] A, where * is element by
element and ' transposes. Summed over the input channels, the product in brackets is one matrix product for each of
the 36 places of a tile, and of 9 x 16 multiplications 36 are left. Against that stands the traffic of moving tiles,
so it pays where there are many channels: see `pays`. In float32 the error is about 1e-5 of the largest result.

Reference:
    Lavin, Gray. Fast Algorithms for Convolutional Neural Networks. CVPR 2016. arXiv:1509.09308
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 4
_PLACES = (_TILE + 2) ** 2
_CHUNK = 16_000_000
"""Bytes of tiles per part of a batch, so that tiles stay in the cache between two steps."""

_INPUTS = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_RESULTS = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
_WEIGHTS = (
    torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
)
"""Matrices B', A' and G for the points 0, 1, -1, 2, -2 and infinity."""


def pays(weight: Tensor, size: list[int], *, padding: list[int]) -> bool:
    """Return whether a convolution of stride 1 is faster in tiles than directly.

    With C channels in and K out it saves about C K multiplications a pixel and moves about C + K numbers. Measured on
    two cores: 256 channels on 56 x 56 pixels take 0.65 of the time, 512 on 28 x 28 half, 256 on 14 x 14 0.85, 128 on
    56 x 56 the same. Few tiles make thin matrix products, which are no faster, and half empty tiles are work for
    nothing.

    Args:
        weight: (K, C, *kernel).
        size: (B, C, H, W) of its inputs.
        padding: zeros around the image, (rows, columns).
    """
    if weight.shape[2:] != (3, 3):
        return False
    rows, columns = _results(size[2:], padding)
    high, wide = _tiles(rows), _tiles(columns)
    waste = high * wide * _TILE**2 / (rows * columns)
    channels = weight.shape[0] * weight.shape[1] / (weight.shape[0] + weight.shape[1])
    return channels >= 80 * waste and size[0] * high * wide >= 100


def in_tiles(weight: Tensor, bias: Tensor | None, *, padding: list[int]) -> Callable[[Tensor], Tensor]:
    """Return what computes a convolution of stride 1.

    Args:
        weight: (K, C, 3, 3); copied to four times its size.
        bias: (K,) or None.
        padding: zeros around the image, (rows, columns).

    Returns:
        A function of (B, C, H, W) inputs in channels-last order, which returns that order.
    """
    outputs, channels = weight.shape[:2]
    spread = torch.kron(_WEIGHTS, _WEIGHTS) @ weight.double().permute(2, 3, 1, 0).reshape(9, -1)
    factors = spread.to(weight.dtype).reshape(_PLACES, channels, outputs)
    shift = torch.zeros(outputs, dtype=weight.dtype) if bias is None else bias
    before, after = torch.kron(_INPUTS, _INPUTS), torch.kron(_RESULTS, _RESULTS)

    def forward(x: Tensor) -> Tensor:
        tiles, shape = _cut(x, padding)
        batch, high, wide = tiles.shape[2:5]
        results = x.new_empty(batch, high, _TILE, wide, _TILE, outputs)
        for images, rows in _chunks(tiles, outputs):
            part = tiles[:, :, images, rows]
            moved = _product(before, part.reshape(_PLACES, -1)).view(_PLACES, -1, channels)
            products = torch.bmm(moved, factors).view(_PLACES, -1)
            square = _product(after, products).view(_TILE, _TILE, *part.shape[2:5], outputs)
            torch.add(square.permute(2, 3, 0, 4, 1, 5), shift, out=results[images, rows])
        whole = results.view(batch, high * _TILE, wide * _TILE, outputs)[:, : shape[0], : shape[1]]
        return whole.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    return forward


def _product(few: Tensor, many: Tensor) -> Tensor:
    """Return a few rows with many columns, where oneDNN takes half the time of MKL."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(few, many.t(), None, "none", [], "")
    return product


def _results(size: Sequence[int], padding: Sequence[int]) -> tuple[int, int]:
    """Return the (height, width) of the results for an input size."""
    return size[0] + 2 * padding[0] - 2, size[1] + 2 * padding[1] - 2


def _tiles(cells: int) -> int:
    return -(-cells // _TILE)


def _cut(x: Tensor, padding: list[int]) -> tuple[Tensor, tuple[int, int]]:
    """Return overlapping tiles of the inputs, (6, 6, B, high, wide, C), as a view, and the size of the results."""
    rows, columns = _results(x.shape[2:], padding)
    high, wide = _tiles(rows), _tiles(columns)
    below = high * _TILE + 2 - x.shape[2] - padding[0]
    beside = wide * _TILE + 2 - x.shape[3] - padding[1]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], beside, padding[0], below))
    image, row, column, channel = padded.stride()
    size = (_TILE + 2, _TILE + 2, len(x), high, wide, x.shape[1])
    steps = (row, column, image, _TILE * row, _TILE * column, channel)
    return padded.as_strided(size, steps), (rows, columns)


def _chunks(tiles: Tensor, outputs: int) -> Iterator[tuple[slice, slice]]:
    """Yield parts of a batch: several images, or some rows of tiles of one image."""
    batch, high, wide, channels = tiles.shape[2:]
    rows = max(1, _CHUNK // (_PLACES * wide * max(channels, outputs) * tiles.element_size()))
    images = max(1, rows // high)
    for image in range(0, batch, images):
        for row in range(0, high, min(rows, high)):
            yield slice(image, image + images), slice(row, row + min(rows, high))
