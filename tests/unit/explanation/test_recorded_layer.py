"""The layers at which a pass is recorded."""

import pytest
import torch
from torch import nn

from camscope import cam
from camscope.errors import MethodError
from camscope.explanation.recorded_layer import record_layer
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
