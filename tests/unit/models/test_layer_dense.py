"""Networks with many scores an image, with branches, with repeated modules, and networks whose signals die away."""

import itertools

import pytest
import torch
import torchvision
from torch import nn

import camscope as cs
from camscope.models.layer_choice import choose_layer, default_layer
from camscope.trace import record


class UNet(nn.Module):
    """Down to a bottleneck and up again, with a skip connection."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.bottleneck, self.up = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(48, 12, 3, 1, 1)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        skip = self.two(self.one(x).relu()).relu()
        deep = nn.functional.interpolate(self.bottleneck(skip).relu(), scale_factor=2)
        up = self.up(torch.cat([skip, deep], 1)).relu()
        return {"out": nn.functional.interpolate(self.head(up), x.shape[2:])}


class Narrow(UNet):
    """All of the image goes through the bottleneck."""

    def forward(self, x):
        deep = self.bottleneck(self.two(self.one(x).relu()).relu()).relu()
        up = self.up(torch.cat([deep, deep[:, :16]], 1)).relu()
        return {"out": nn.functional.interpolate(self.head(up), x.shape[2:])}


def test_all_layers_of_an_encoder_that_its_decoder_reads(pictures):
    torch.manual_seed(0)
    net, x = UNet().double(), pictures(2, 3, 32, 48)
    assert default_layer(net, x) == "relu()#1 + bottleneck"
    assert cs.cam(net, x, targets=lambda output: output[1].mean()).shape == (2, 16, 24)


def test_the_bottleneck_where_no_connection_skips_it(pictures):
    torch.manual_seed(0)
    net, x = UNet().double(), pictures(2, 3, 32, 48)
    assert default_layer(Narrow().double(), x) == "bottleneck"
    assert choose_layer(net, x).complete
    assert choose_layer(Narrow().double(), x).complete


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lraspp_mobilenet_v3_large", "backbone.4 + backbone.16"),
        pytest.param("deeplabv3_mobilenet_v3_large", "backbone", marks=pytest.mark.slow),
        pytest.param("fcn_resnet50", "backbone", marks=pytest.mark.slow),
    ],
)
def test_the_backbone_of_a_segmentation_network(name, layer, pictures):
    """At 224 pixels the channels of a gate could be a grid of one column, coarser than all layers."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5).eval()
    assert default_layer(net, pictures(1, 3, 224, 224, dtype=torch.float32)) == layer


def test_the_end_of_a_backbone_that_is_wider_inside_of_its_blocks(pictures):
    def block(channels, out, stride):
        inside = 6 * channels
        depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside)
        layers = [nn.Conv2d(channels, inside, 1), nn.ReLU(), depthwise, nn.ReLU(), nn.Conv2d(inside, out, 1)]
        return nn.Sequential(*layers)

    torch.manual_seed(0)
    backbone = nn.Sequential(block(3, 8, 2), block(8, 12, 2), block(12, 16, 1))
    head = nn.Sequential(nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 4, 1), nn.Upsample(scale_factor=4))
    net = nn.ModuleDict({"backbone": backbone, "head": head})
    net.forward = lambda x: net["head"](net["backbone"](x))
    assert default_layer(net.double(), pictures(1, 3, 48, 48)) == "backbone"


class Detector(nn.Module):
    """As torchvision's: a list with boxes for each image, none where the threshold is too high."""

    def __init__(self, threshold):
        super().__init__()
        self.body, self.threshold = nn.Conv2d(3, 16, 3, 4, 1), threshold
        self.neck, self.head = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        found = self.head(self.neck(self.body(x).relu()).relu()).flatten(2).movedim(1, 2)
        return [{"boxes": one[one[:, 4] > self.threshold]} for one in found]


@pytest.mark.parametrize("threshold", [-100.0, 100.0], ids=["boxes", "nothing found"])
def test_the_backbone_of_a_detector_also_where_it_finds_nothing(pictures, threshold):
    torch.manual_seed(0)
    assert default_layer(Detector(threshold).double(), pictures(1, 3, 64, 64)) == "body"


def test_the_backbone_of_a_detector_whose_activations_work_in_place(pictures):
    """As an SSD on VGG: what a convolution returned is overwritten, and the boxes come from a third of the places."""

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            convolutions = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
            self.features = nn.Sequential(*(part for conv in convolutions for part in (conv, nn.ReLU(inplace=True))))
            self.head = nn.Conv2d(16, 5, 1)

        def forward(self, x):
            found = self.head(self.features(x)).flatten(2).movedim(1, 2)
            return [{"boxes": one[::3]} for one in found]

    torch.manual_seed(0)
    assert default_layer(Single().double(), pictures(1, 3, 64, 64)) == "features"


def test_the_main_branch_of_a_network_with_an_early_exit(pictures):
    """The scores are a sum of two heads: nothing but the stem is on every way."""

    class Exits(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.early = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 3)
            self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(8))
            self.late = nn.Linear(8, 3)

        def forward(self, x):
            x = self.stem(x).relu()
            first = self.early(x.mean((2, 3)))
            for block in self.blocks:
                x = x + block(x).relu()
            return first + self.late(x.mean((2, 3)))

    torch.manual_seed(0)
    assert default_layer(Exits().double(), pictures(1, 3, 32, 32)) == "add()#7"


def test_a_module_that_runs_twice_is_named_with_the_call_that_is_meant(pictures):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, 1, 1), nn.Linear(3, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(x.mean((2, 3))) + 0 * self.conv(x.detach()).mean()

    torch.manual_seed(0)
    net, x = Twice().double(), pictures(1, 3, 16, 16)
    layer = default_layer(net, x)
    assert layer == "conv#0"
    assert torch.equal(record(net, x, layers=[layer]).records[layer], net.conv(x))


def test_a_network_whose_signal_dies_away(pictures, snapshot):
    """As some are made: tiny weights, and batch norms that were never trained."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Conv2d(3 if i == 0 else 8, 8, 3, 1 + i % 2, 1), nn.BatchNorm2d(8)) for i in range(12)]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    for stage in stages:
        nn.init.normal_(stage[0].weight, std=1e-5)
        nn.init.zeros_(stage[0].bias)
    before = snapshot(net)
    assert default_layer(net, pictures(1, 3, 256, 256, dtype=torch.float32)) == "11"
    assert snapshot(net) == before


def test_a_network_that_ran_in_inference_mode_and_kept_what_it_made(pictures):
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc, self.bias = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 2), None

        def place(self, x):
            if self.bias is None:
                self.bias = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype).expand(1, 1, x.shape[-2], -1)
            return self.bias.contiguous()

        def forward(self, x):
            x = self.conv(x)
            return self.fc((x + self.place(x)).relu().mean((2, 3)))

    torch.manual_seed(0)
    net, x = Cached().double(), pictures(1, 3, 32, 32)
    with torch.inference_mode():
        net(x)
    assert default_layer(net, x) == "relu()"


class Fpn(nn.Module):
    """A pyramid that goes up before its heads look at the coarsest level."""

    def __init__(self):
        super().__init__()
        widths = (3, 16, 32, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.ReLU()) for i, o in itertools.pairwise(widths)
        )
        self.sides = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in widths[2:])
        self.heads = nn.ModuleList(nn.Conv2d(16, 8, 3, 1, 1) for _ in widths[2:])
        self.scores = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        levels = []
        for stage in self.stages:
            levels.append(stage(levels[-1] if levels else x))
        coarse = self.sides[1](levels[2])
        fine = self.sides[0](levels[1]) + nn.functional.interpolate(coarse, scale_factor=2)
        fine, coarse = self.heads[0](fine), self.heads[1](coarse)
        return self.scores(fine + nn.functional.interpolate(coarse, scale_factor=2))


def test_a_coarse_stage_that_goes_up_before_it_is_read_is_a_stage():
    assert choose_layer(Fpn(), torch.randn(1, 3, 64, 64)).layers == ("stages.1", "stages.2")
