"""The layers at which a pass is recorded."""

import torch
from torch import nn

from camscope import cam
from camscope.explanation.recorded_layer import record_layer


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


def test_a_named_layer_of_several_possible_layouts_is_read_as_the_network_uses_it():
    x = torch.zeros(2, 1, 32, 128)
    x[:, :, 24:, 100:] = 5.0
    _, seen = record_layer(Lines(), x, layer="norm")
    assert seen.layouts[0].channel == 3
    heat = cam(Lines(), x, layer="norm", method="gradcam", targets=1).abs()
    assert heat.shape == (2, 4, 32)
    base = heat[:, 0, 0].view(2, 1, 1)
    changed = (heat - base).abs() > 1e-6
    assert changed[:, 3, 25:].all()
    assert not changed[:, :3].any()


def test_methods_of_the_whole_network_are_given_the_layout_of_the_default_layer():
    given = {}

    def sees(net, inputs, targets, *, layer, layout=None):
        given.update(layer=layer, layout=layout)
        return torch.zeros(len(inputs), 4, 32)

    cam(Lines(), torch.zeros(2, 1, 32, 128), method=sees, targets=1)
    assert (given["layer"], given["layout"].channel) == ("relu()", 3)
