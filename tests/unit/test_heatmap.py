import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from camscope.heatmap import normalise, place, upsample
from camscope.images.picture import Window


def by_hand(grid, window):
    """Pixel by pixel: where does its centre lie on the grid, and what do the cells around it say?"""
    axes = grid.ndim
    result = torch.zeros(window.picture, dtype=grid.dtype)
    for pixel in itertools.product(*map(range, window.picture)):
        total, outside = 0.0, False
        corners = []
        for axis in range(axes):
            centre = (pixel[axis] + 0.5 - window.start[axis]) / window.extent[axis]
            outside = outside or not 0 <= centre < 1
            position = min(max(centre * grid.shape[axis] - 0.5, 0.0), grid.shape[axis] - 1.0)
            lower = math.floor(position)
            share = position - lower
            corners.append([(lower, 1 - share), (min(lower + 1, grid.shape[axis] - 1), share)])
        if outside:
            continue
        for corner in itertools.product(*corners):
            total += math.prod(share for _, share in corner) * float(grid[tuple(cell for cell, _ in corner)])
        result[pixel] = total
    return result


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((7,), (32,)),
        ((7, 7), (224, 224)),
        ((7, 5), (33, 20)),
        ((1, 1), (9, 4)),
        ((1, 6), (5, 6)),
        ((2, 3), (2, 3)),
        ((14, 14), (10, 7)),
        ((2, 3, 4), (9, 10, 11)),
        ((1, 3, 2), (4, 3, 7)),
    ],
)
def test_a_whole_window_is_interpolate(pictures, grid, size):
    maps = pictures(2, 3, *grid)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]
    expected = F.interpolate(maps, size=size, mode=mode, align_corners=False)
    torch.testing.assert_close(upsample(maps, size), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(place(maps, Window.whole(size)), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(upsample(maps[0, 0], size), expected[0, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("grid", "window"),
    [
        ((4, 3), Window((20, 24), (5, 6), (10, 12))),
        ((4, 3), Window((20, 24), (-4, 0), (28, 24))),
        ((4, 3), Window((20, 24), (2.3, -3.7), (11.45, 31.2))),
        ((4, 3), Window((20, 24), (0.5, 0.5), (19, 23))),
        ((5, 5), Window((11, 7), (-20, -20), (50, 50))),
        ((1, 1), Window((6, 6), (1.5, 1.6), (3, 3))),
        ((6,), Window((17,), (3.25,), (9.5,))),
        ((6,), Window((17,), (30,), (9,))),
        ((2, 3, 2), Window((7, 6, 5), (1, -1.5, 0.2), (4, 9, 4.1))),
    ],
    ids=["crop", "letterbox", "fractional", "half pixels", "beyond", "one cell", "1-D", "1-D outside", "3-D"],
)
def test_any_window_against_pixels_by_hand(pictures, grid, window):
    maps = pictures(2, *grid)
    result = place(maps, window)
    for one, expected in zip(result, maps, strict=True):
        torch.testing.assert_close(one, by_hand(expected, window), rtol=1e-12, atol=1e-12)
    inside = torch.zeros(window.picture, dtype=torch.bool)
    inside[window.visible()] = True
    assert not result[:, ~inside].any()
    assert bool((result[:, inside] != 0).all())


def test_a_crop_is_the_crop_of_nothing_else(pictures):
    """Upsampling to the crop, then pasting it where it was cut out."""
    maps = pictures(3, 4, 4)
    placed = place(maps, Window((30, 40), (3, 8), (20, 24)))
    torch.testing.assert_close(placed[:, 3:23, 8:32], upsample(maps, (20, 24)), rtol=1e-12, atol=1e-12)
    assert int((placed != 0).sum()) == 3 * 20 * 24


def test_place_is_linear_and_keeps_a_constant(pictures):
    window = Window((20, 24), (2.3, -3.7), (11.45, 31.2))
    a, b = pictures(4, 4), pictures(4, 4, seed=1)
    torch.testing.assert_close(place(2 * a - b, window), 2 * place(a, window) - place(b, window))
    seen = place(torch.ones(4, 4), window)[window.visible()]
    torch.testing.assert_close(seen, torch.ones_like(seen))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(pictures, dtype):
    maps = pictures(2, 7, 7).to(dtype)
    result = upsample(maps, (50, 60))
    assert result.dtype == dtype
    expected = upsample(maps.double(), (50, 60))
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=32 * torch.finfo(dtype).eps)


def test_normalise(pictures):
    maps = pictures(2, 3, 5, 6) * 7 - 2
    scaled = normalise(maps)
    for b, k in itertools.product(range(2), range(3)):
        low, high = maps[b, k].min(), maps[b, k].max()
        torch.testing.assert_close(scaled[b, k], (maps[b, k] - low) / (high - low))
    assert (float(scaled.min()), float(scaled.max())) == (0, 1)
    volumes = normalise(maps, 3)
    assert [(float(v.min()), float(v.max())) for v in volumes] == [(0, 1), (0, 1)]


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-30])
def test_a_flat_map_becomes_zero(value):
    assert torch.equal(normalise(torch.full((2, 3, 3), value)), torch.zeros(2, 3, 3))
