"""The layers at which a pass is recorded."""

import pytest
import torch
from torch import nn

from camscope import cam
from camscope.errors import MethodError
from camscope.explanation.recorded_layer import joint_map, record_layer
from camscope.methods import METHODS
from camscope.trace import Layout


class Lines(nn.Module):
    """A network for text lines that keeps its channels last, and has more columns than channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 16, (8, 4), (8, 4))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.norm(self.stem(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))


def lines():
    x = torch.zeros(2, 1, 32, 128)
    x[:, :, 24:, 100:] = 5.0
    return x


def test_a_named_layer_of_several_possible_layouts_is_read_as_the_network_uses_it():
    x = lines()
    _, seen = record_layer(Lines(), x, layer="norm")
    assert seen.layouts[0].channel == 3
    heat = cam(Lines(), x, layer="norm", method="gradcam", targets=1).abs()
    assert heat.shape == (2, 4, 32)
    base = heat[:, 0, 0].view(2, 1, 1)
    changed = (heat - base).abs() > 1e-6
    assert changed[:, 3, 25:].all()
    assert not changed[:, :3].any()


@pytest.mark.parametrize("method", ["fused(gradcam)", "refinecam", "guidedgradcam"])
@pytest.mark.parametrize("named", [False, True])
def test_methods_of_the_whole_network_read_its_layers_as_it_uses_them(method, named):
    at = {"guidedgradcam": {"layer": "norm"}}.get(method, {"layers": ["stem", "norm"]}) if named else {}
    heat = cam(Lines(), lines(), method=method, targets=1, **at).abs()
    grid = torch.nn.functional.adaptive_max_pool2d(heat, (4, 32))
    assert heat.shape[1:] in {(4, 32), (32, 128)}
    base = grid[:, 0, 0].view(2, 1, 1)
    assert not ((grid - base).abs() > 1e-6)[:, :3].any()


def test_fullgrad_reads_the_shares_of_biases_as_the_network_uses_its_layers():
    heat = cam(Lines(), lines(), method="fullgrad", targets=1)
    upper = heat[:, :16]
    assert torch.allclose(upper, upper[:, :1, :1].expand_as(upper), atol=1e-6)
    assert ((heat[:, 28, 110] - upper[:, 0, 0]).abs() > 1e-3).all()


class Square(Lines):
    """As many channels as rows and columns: the shapes fit channels first and channels last alike."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 2, 2)


@pytest.mark.parametrize("method", ["layercam", "fused(layercam)"])
def test_as_many_channels_as_rows_are_told_apart(method):
    x = torch.zeros(1, 1, 32, 32)
    x[:, :, 24:, :8] = 5.0
    at = {"layer": "norm"} if method == "layercam" else {"layers": ["norm"]}
    heat = cam(Square(), x, method=method, targets=1, **at)[0].abs()
    assert heat.shape == (16, 16)
    changed = (heat - heat[0, 0]).abs() > 1e-6
    assert changed[12:, :4].all()
    assert not changed[:12].any()
    assert not changed[:, 4:].any()


def test_a_layout_is_refused_by_methods_that_take_no_layer():
    with pytest.raises(MethodError, match="takes no layout="):
        cam(Lines(), lines(), method="fullgrad", targets=1, layout=Layout(channel=3))


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
