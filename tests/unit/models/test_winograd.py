"""Convolutions in tiles: the same results with a quarter of the multiplications."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from camscope.models.engines import prepare, products, winograd
from camscope.models.engines.winograd import in_tiles, pays

CASES = [((2, 8, 12, 16), (1, 1)), ((1, 5, 7, 7), (1, 1)), ((3, 4, 9, 14), (0, 2)), ((1, 3, 5, 6), (0, 0))]


@pytest.mark.parametrize(("size", "padding"), CASES)
@pytest.mark.parametrize("chunk", [1, 2000, winograd._CHUNK])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_convolution(size, padding, chunk, with_bias, monkeypatch):
    monkeypatch.setattr(winograd, "_CHUNK", chunk)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=draw)
    weight = torch.randn(6, size[1], 3, 3, generator=draw)
    bias = torch.randn(6, generator=draw) if with_bias else None
    expected = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=padding)

    found = in_tiles(weight, bias, padding=list(padding))(x)

    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_the_transforms_are_those_of_the_paper():
    """Y = A'[(G g) * (B' d)] for one row of a tile, to the last digits of float64."""
    inputs, weights, results = winograd._INPUTS.double(), winograd._WEIGHTS.double(), winograd._RESULTS.double()
    row, taps = torch.tensor([3.0, -1, 4, 1, -5, 9]).double(), torch.tensor([2.0, -7, 1]).double()
    expected = F.conv1d(row[None, None], taps[None, None])[0, 0]
    torch.testing.assert_close(results @ ((weights @ taps) * (inputs @ row)), expected, rtol=0, atol=1e-12)


def test_a_quarter_of_the_multiplications():
    x, weight = torch.randn(1, 64, 32, 32), torch.randn(64, 64, 3, 3)
    forward = in_tiles(weight, None, padding=[1, 1])
    with FlopCounterMode(display=False) as direct:
        F.conv2d(x, weight, padding=1)
    with FlopCounterMode(display=False) as tiled:
        forward(x)
    counts = tiled.get_flop_counts()["Global"]
    assert counts[torch.ops.aten.bmm] * 4 == direct.get_total_flops()


@pytest.mark.parametrize(
    ("channels", "size", "expected"),
    [
        ((256, 256), 56, True),
        ((512, 512), 28, True),
        ((512, 512), 14, True),
        ((128, 256), 56, True),
        ((256, 256), 14, True),
        ((128, 128), 56, False),
        ((64, 64), 224, False),  # more traffic than arithmetic
        ((128, 32), 28, False),
        ((512, 512), 7, False),  # thin products, half of the tiles empty
    ],
)
def test_pays_where_it_was_measured(channels, size, expected):
    weight = torch.empty(channels[1], channels[0], 3, 3)
    assert pays(weight, [8, channels[0], size, size], padding=[1, 1]) is expected


@pytest.mark.parametrize("setting", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}, {"kernel_size": 5}])
def test_other_convolutions_are_computed_directly(setting, monkeypatch):
    made = tiles_made(monkeypatch)
    module = nn.Conv2d(**{"in_channels": 512, "out_channels": 512, "kernel_size": 3, "padding": 1} | setting).eval()
    net = nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert prepare(net, torch.randn(8, 512, 28, 28), layer="0", engine="packed").name == "packed"
    assert len(made) == (0 if setting else 1)


def tiles_made(monkeypatch):
    made = []
    monkeypatch.setattr(products, "in_tiles", lambda *a, **k: made.append(a) or in_tiles(*a, **k))
    return made


def test_a_network_of_wide_convolutions_is_packed_in_tiles(monkeypatch):
    torch.manual_seed(0)
    wide = [nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(inplace=True)]
    net = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), *wide, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    made = tiles_made(monkeypatch)
    prepared = prepare(net, torch.randn(8, 3, 20, 20), layer="4", engine="packed")
    assert (prepared.name, prepared.note, len(made)) == ("packed", "", 1)
