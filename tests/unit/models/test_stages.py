import math

import pytest
import timm
import torch
from torch import nn

from camscope.errors import LayerError
from camscope.explanation import cam
from camscope.models.layer_choice import default_layer
from camscope.models.stages import stage_layers

NAMES = {
    "resnet18": ["relu", "layer1", "layer2", "layer3", "layer4"],
    "vgg11": ["features.1", "features.4", "features.9", "features.14", "features.19"],
    "small vit": ["blocks.0", "blocks.1", "blocks.2.norm1"],
    "small swin": ["features.1", "norm"],
    "pooled": ["2", "5"],
}


@pytest.mark.parametrize("name", NAMES)
def test_stages_by_the_names_that_users_know(name, shared_net, pictures):
    net = shared_net(name)
    x = pictures(2, 3, 64, 64)
    stages = stage_layers(net, x)
    assert stages == NAMES[name]
    assert stages[-1] == default_layer(net, x)


def test_a_stage_ends_before_the_module_that_leads_to_the_next_size(pictures):
    """The first convolution of an inverted residual is wide and still large; the stage before it is what is meant."""
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv2_035", num_classes=3).double().eval()
    assert stage_layers(net, pictures(1, 3, 96, 96)) == ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]


def test_sizes_that_differ_by_the_border_are_one_stage(pictures):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    assert stage_layers(net.double(), pictures(1, 3, 32, 32)) == ["3", "5"]


def test_paths_around_a_branch_are_no_stage(pictures):
    """Inception: what one branch returns is not what the network looks at."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.two = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.down, self.fc = nn.Conv2d(8, 4, 3, 2), nn.Linear(4, 3)

        def forward(self, x):
            x = self.stem(x).relu()
            x = torch.cat([self.one(x), self.two(x)], 1).relu()
            return self.fc(self.down(x).relu().mean((2, 3)))

    stages = stage_layers(Branches().double(), pictures(1, 3, 33, 33))
    assert stages == ["relu()#1", "relu()"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "coatnet_nano_rw_224", "pit_ti_224", "crossvit_9_240"])
def test_every_stage_can_be_explained(name):
    """The attention of LeViT, (B, heads, tokens, width), is a cut, but no map can be read from its shape."""
    net = timm.create_model(name).eval()
    side = net.default_cfg["input_size"][-1]
    x = torch.randn(1, 3, side, side)
    for stage in stage_layers(net, x):
        assert math.prod(cam(net, x, layer=stage).shape[1:]) > 1


def test_attention_whose_axes_no_shape_tells_is_no_stage(pictures):
    class Attention(nn.Module):
        """Eight heads of 16 tokens with 3 values each; after it, a grid of 4 x 4 again."""

        def forward(self, x):
            tokens = x.flatten(2).unflatten(1, (8, 3)).movedim(2, 3)
            return torch.matmul(tokens.softmax(2), torch.eye(3, dtype=x.dtype)).movedim(3, 2).reshape(x.shape)

    net = nn.Sequential(
        nn.Conv2d(3, 24, 4, 4), nn.ReLU(), nn.Conv2d(24, 24, 2, 2), Attention(), nn.Conv2d(24, 24, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3),
    ).double()  # fmt: skip
    x = pictures(1, 3, 32, 32)
    stages = stage_layers(net, x)
    assert stages == ["1", "5"]
    assert [cam(net, x, layer=name).shape[1:] for name in stages] == [(8, 8), (4, 4)]


def test_the_network_is_left_as_it_was(make_net, pictures, snapshot):
    net = make_net("resnet18").train()
    before = snapshot(net)
    stage_layers(net, pictures(2, 3, 64, 64))
    assert snapshot(net) == before


def test_a_network_without_a_grid_is_refused(pictures):
    with pytest.raises(LayerError):
        stage_layers(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).double(), pictures(1, 3, 4, 4))
