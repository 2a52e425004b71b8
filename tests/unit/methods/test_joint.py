"""A method at several layers of one pass."""

import pytest
import torch
from torch import nn

from camscope import cam
from camscope.explanation.recorded_layer import record_layer
from camscope.methods import METHODS
from camscope.methods.joint import joint_map


class Skips(nn.Module):
    """An encoder of two layers, and a decoder without biases that reads both: the score is a sum of parts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.head = nn.Conv2d(14, 2, 1, bias=False)

    def forward(self, x):
        fine = self.fine(x).relu()
        coarse = nn.functional.interpolate(self.coarse(fine).relu(), scale_factor=2)
        return self.head(torch.cat([fine, coarse], 1))


def of_pixels(output):
    return output[1, 2:5, 3:6].sum()


@pytest.mark.parametrize("differentiable", [False, True])
def test_what_a_layer_does_through_a_later_one_counts_once(differentiable):
    """Over all layers that a decoder reads, gradient times activation adds up to the score (Euler)."""
    net, x = Skips(), torch.randn(2, 3, 32, 32)
    forward, seen = record_layer(net, x, differentiable=differentiable)
    assert len(seen.layers) == 2
    traces = seen.traces(forward, [of_pixels] * 2)
    heat = joint_map(METHODS["hirescam"], traces)
    assert heat.shape == (2, 16, 16)
    scores = torch.stack([of_pixels(one) for one in net(x)])
    sums = torch.stack([joint_map(METHODS["hirescam"], [trace]).flatten(1).sum(1) for trace in traces]).sum(0)
    assert torch.allclose(sums, scores, rtol=1e-4)
    assert torch.equal(cam(net, x, layer=seen.layer, targets=of_pixels), cam(net, x, targets=of_pixels))


def test_layers_in_a_row_keep_their_whole_gradients():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(400, 2))
    x = torch.randn(1, 3, 10, 10)
    early, late = (cam(net, x, layer=layer, method="hirescam", targets=0) for layer in ("1", "3"))
    assert early.any()
    assert torch.allclose(cam(net, x, layer=["1", "3"], method="hirescam", targets=0), early + late, atol=1e-6)


def test_maps_without_gradients_count_alike_at_each_of_several_layers():
    """Their values are no parts of the score: a layer with large activations must not hide the others."""
    net, x = Skips(), torch.randn(2, 3, 32, 32)
    before = cam(net, x, method="eigencam", targets=of_pixels)
    with torch.no_grad():
        net.fine.weight *= 100
        net.fine.bias *= 100
        net.coarse.weight /= 100
    assert torch.allclose(cam(net, x, method="eigencam", targets=of_pixels), before, atol=1e-4)
    assert before.abs().max() <= 1


def test_what_runs_again_with_a_changed_layer_knows_what_later_layers_take_over():
    net, x = Skips(), torch.randn(1, 3, 32, 32)
    forward, seen = record_layer(net, x)
    fine, coarse = seen.traces(forward, [of_pixels])
    assert (fine.apart_from, coarse.apart_from) == ((coarse.layer,), ())
    half = fine.again(edit=lambda values: 0.5 * values)
    assert torch.equal(half.gradients, fine.gradients)  # the head is linear
    whole = forward.trace(fine.layer, [of_pixels])
    assert not torch.equal(whole.gradients, fine.gradients)


class Two(nn.Module):
    """The mean of two members, each of which sees one half of the image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.members = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU()) for _ in range(2)
        )
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        halves = [x * (torch.arange(x.shape[3]) < x.shape[3] // 2), x * (torch.arange(x.shape[3]) >= x.shape[3] // 2)]
        return sum(self.head(member(half).mean((2, 3))) for member, half in zip(self.members, halves, strict=True))


def test_stages_of_several_members_are_added_before_they_are_multiplied():
    """A product of the members' own maps would be empty where each sees another part."""
    net, x = Two(), torch.randn(2, 3, 32, 32)
    stages = ["members.0.1 + members.1.1", "members.0.3 + members.1.3"]
    heat = cam(net, x, method="refinecam", layers=stages, base="layercam", targets=0)
    sums = [cam(net, x, method="layercam", layer=stage, targets=0).relu() for stage in stages]
    product = torch.stack([one / one.amax((1, 2), keepdim=True) for one in sums]).prod(0)
    assert torch.allclose(heat, product, atol=1e-5)
