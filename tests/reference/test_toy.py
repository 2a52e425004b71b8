"""Networks whose right map is known: weights set by hand, and every class-discriminative method must point at it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camscope as cs
from camscope.errors import MethodError
from camscope.heatmap import upsample
from camscope.methods import facts_of

PICTURES, SIZE, OBJECT = 12, 48, 12


def head(kind: str, channels: int) -> list[nn.Module]:
    """A class for each channel, which speaks for its own class and a little against the others."""
    linear = nn.Linear(channels, channels)
    linear.weight.data = 300 * (1.2 * torch.eye(channels) - 0.2)
    linear.bias.data.zero_()
    norm = [nn.LayerNorm(channels)] if kind == "normed" else []
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *norm, linear]


def colours(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Three squares, red, green and blue, and a channel for each colour: it sees its own less the others."""
    detector = nn.Conv2d(3, 3, 4, 4, bias=False)
    detector.weight.data = ((1.5 * torch.eye(3) - 0.5) / 16)[:, :, None, None].expand(3, 3, 4, 4).contiguous()
    torch.manual_seed(0)
    pictures = 0.1 * torch.rand(PICTURES, 3, SIZE, SIZE)
    regions = torch.zeros(PICTURES, 3, SIZE, SIZE, dtype=torch.bool)
    for picture, cells in zip(range(PICTURES), places(), strict=True):
        for colour, (top, left) in enumerate(cells):
            pictures[picture, colour, top : top + OBJECT, left : left + OBJECT] = 1
            regions[picture, colour, top : top + OBJECT, left : left + OBJECT] = True
    return nn.Sequential(detector, nn.ReLU(), *head(kind, 3)).eval(), pictures, regions


def shapes(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A patch of upright stripes and one of lying ones, of one colour, and a channel for each edge direction."""
    edges = nn.Conv2d(1, 4, (2, 2), bias=False)
    upright, lying = torch.tensor([[1.0, -1], [1, -1]]), torch.tensor([[1.0, 1], [-1, -1]])
    edges.weight.data = torch.stack([upright, -upright, lying, -lying])[:, None]
    pool = nn.Conv2d(4, 2, 4, 4, bias=False)
    pool.weight.data = torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, 1]])[:, :, None, None].expand(2, 4, 4, 4) / 32
    torch.manual_seed(0)
    pictures = 0.05 * torch.rand(PICTURES, 1, SIZE + 1, SIZE + 1)
    regions = torch.zeros(PICTURES, 2, SIZE + 1, SIZE + 1, dtype=torch.bool)
    stripes = (torch.arange(OBJECT) % 4 < 2).float().expand(OBJECT, OBJECT)
    for picture, cells in zip(range(PICTURES), places(), strict=True):
        for shape, (top, left) in enumerate(cells[:2]):
            rows, columns = slice(top, top + OBJECT), slice(left, left + OBJECT)
            pictures[picture, 0, rows, columns] += stripes if shape == 0 else stripes.T
            regions[picture, shape, rows, columns] = True
    return nn.Sequential(edges, nn.ReLU(), pool, nn.ReLU(), *head(kind, 2)).eval(), pictures, regions


def thresholds() -> tuple[nn.Module, Tensor, Tensor]:
    """The coloured squares for a network that sees a colour where it is strong, and nothing where it is not.

    So the gradient by the image is 0 outside the squares, and does not cancel over the colours.
    """
    _, pictures, regions = colours("plain")
    detector = nn.Conv2d(3, 3, 4, 4)
    detector.weight.data = (torch.eye(3) / 16)[:, :, None, None].expand(3, 3, 4, 4).contiguous()
    detector.bias.data.fill_(-0.5)
    return nn.Sequential(detector, nn.ReLU(), *head("plain", 3)).eval(), pictures, regions


class Attention(nn.Module):
    """Each token adds the mean of those like it."""

    def forward(self, z: Tensor) -> Tensor:
        heads = z[:, None]
        return z + F.scaled_dot_product_attention(heads, heads, heads)[:, 0]


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels with their mean colour less the others, two blocks, and a class token that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = colours("plain")[0][0]
        self.blocks = nn.Sequential(Attention(), Attention())
        self.head = nn.Linear(3, 3)
        self.head.weight.data, self.head.bias.data = torch.eye(3), torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x).flatten(2).transpose(1, 2)
        z = self.blocks(torch.cat([z.new_zeros(len(z), 1, 3), z], 1))
        return self.head(z[:, 0])


def places() -> list[list[tuple[int, int]]]:
    """For each image the corners of three objects, which do not touch."""
    cells = [(top, left) for top in range(0, SIZE, 16) for left in range(0, SIZE, 16)]
    generator = torch.Generator().manual_seed(0)
    return [[cells[i] for i in torch.randperm(9, generator=generator)[:3].tolist()] for _ in range(PICTURES)]


def pointing_game(method: str, net: nn.Module, pictures: Tensor, regions: Tensor) -> float:
    """Share of images and classes where the peak of the map, at image size, lies in the class's own region."""
    options: dict[str, Any] = {"method": method, **SETTINGS.get(method, {})}
    if not facts_of(cs.METHODS[method]).whole_network:
        options["layer"] = "3" if isinstance(net[2], nn.Conv2d) else "1"
    hits = []
    for index in range(regions.shape[1]):
        maps = cs.cam(net, pictures, targets=index, **options)
        peaks = upsample(maps, pictures.shape[2:]).flatten(1).argmax(1)
        hits.append(regions[:, index].flatten(1).gather(1, peaks[:, None]))
    return float(torch.stack(hits).double().mean())


# RefineCAM's own base, Grad-CAM++, assumes activations >= 0, and the first stage here is a convolution.
SETTINGS = {"sscam": {"samples": 4, "noise": 0.1}, "refinecam": {"base": "layercam"}}
FACTS = {name: facts_of(function) for name, function in cs.METHODS.items()}
DISCRIMINATIVE = sorted(n for n, f in FACTS.items() if not f.class_agnostic and not f.whole_network)
WHOLE_NETWORK = sorted(n for n, f in FACTS.items() if not f.class_agnostic and f.whole_network)
CLASS_AGNOSTIC = sorted(n for n, f in FACTS.items() if f.class_agnostic and not f.whole_network)


@pytest.mark.parametrize("toy", [colours, shapes])
@pytest.mark.parametrize("method", DISCRIMINATIVE)
def test_pointing_game(method, toy):
    kind = "normed" if method == "frozennormcam" else "plain"
    assert pointing_game(method, *toy(kind)) == 1.0


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow) if m == "rise" else m for m in WHOLE_NETWORK]
)
def test_pointing_game_of_methods_that_see_the_whole_network(method):
    net, pictures, regions = thresholds()
    assert pointing_game(method, Transformer().eval() if method == "legrad" else net, pictures, regions) == 1.0


def test_pointing_game_of_rollout():
    """It is the same map for three classes."""
    _, pictures, regions = thresholds()
    assert pointing_game("rollout", Transformer().eval(), pictures, regions) <= 1 / 3 + 1e-9


@pytest.mark.parametrize("method", CLASS_AGNOSTIC)
def test_pointing_game_of_class_agnostic_methods(method):
    """One map for three classes hits at most one of the three; so the game can be lost."""
    assert pointing_game(method, *colours("plain")) <= 1 / 3 + 1e-9


def test_the_toys_know_their_classes():
    for net, pictures, regions in (colours("plain"), shapes("plain"), thresholds(), (Transformer(), *thresholds()[1:])):
        for index in range(regions.shape[1]):
            alone = torch.where(regions[:, [index]], pictures, pictures.new_zeros(()))
            assert (net(alone).argmax(1) == index).all()


def test_cam_and_frozennormcam_are_for_different_heads():
    for method, kind in (("cam", "normed"), ("frozennormcam", "plain")):
        net, pictures, _ = colours(kind)
        with pytest.raises(MethodError):
            cs.cam(net, pictures, method=method, layer="1", targets=0)
