import pytest
import timm
import torch
import torchvision
from torch import nn

from camscope.errors import LayerError, SettingError
from camscope.explanation import cam
from camscope.models.layer_choice import choose_layer, default_layer
from camscope.trace import record
from camscope.trace.layout import find_layout

CHOICES = [
    # Networks of torchvision's own code; the larger ones in a smaller size.
    ("resnet18", 128, "layer4", (4, 4), 0),
    ("densenet121", 64, "relu()", (2, 2), 0),
    ("small densenet", 64, "relu()", (8, 8), 0),
    ("vgg11", 64, "features.19", (4, 4), 0),
    ("convnext", 64, "features", (2, 2), 0),
    ("small swin", 64, "norm", (8, 8), 0),
    ("torchvision vit", 64, "encoder.layers.encoder_layer_11.ln_1", (4, 4), 1),
    ("squeezenet", 64, "features", (3, 3), 0),
    # timm
    ("small resnet", 64, "layer4", (2, 2), 0),
    ("vit_tiny", 64, "blocks.11.norm1", (4, 4), 1),
    ("small vit", 64, "blocks.2.norm1", (4, 4), 1),
    ("deit distilled", 64, "blocks.11.norm1", (4, 4), 2),
    ("registers", 64, "blocks.2.norm1", (4, 4), 5),
    ("pooled vit", 64, "blocks", (4, 4), 0),
    # By hand
    ("plain", 12, "3", (4, 4), 0),
    ("plain 1-D", 12, "3", (4,), 0),
    ("plain 3-D", 12, "3", (4, 4, 4), 0),
    ("pooled", 32, "5", (7, 7), 0),
]


@pytest.fixture
def family(make_net):
    def make(name):
        torch.manual_seed(0)
        if name == "convnext":
            block = torchvision.models.convnext.CNBlockConfig
            return torchvision.models.ConvNeXt(
                [block(24, 48, 1), block(48, 96, 1), block(96, 192, 1), block(192, None, 1)]
            )
        if name == "torchvision vit":
            return torchvision.models.VisionTransformer(64, 16, 12, 3, 48, 96, num_classes=5)
        if name == "squeezenet":
            return torchvision.models.squeezenet1_1(num_classes=5)
        if name == "deit distilled":
            return timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, num_classes=5)
        if name == "registers":
            return timm.models.vision_transformer.VisionTransformer(
                img_size=64, embed_dim=48, depth=3, num_heads=3, num_classes=5, reg_tokens=4
            )
        if name == "pooled vit":
            return timm.models.vision_transformer.VisionTransformer(
                img_size=64, embed_dim=48, depth=3, num_heads=3, num_classes=5, class_token=False, global_pool="avg"
            )
        return make_net(name, torch.float32)

    return make


def picture_for(name, size, pictures):
    dims = {"plain 1-D": 1, "plain 3-D": 3}.get(name, 2)
    return pictures(1, 2 if "plain" in name else 3, *[size] * dims, dtype=torch.float32)


@pytest.mark.parametrize(("name", "size", "layer", "grid", "prefix"), CHOICES)
def test_choice(family, pictures, snapshot, name, size, layer, grid, prefix):
    net, x = family(name), picture_for(name, size, pictures)
    before = snapshot(net)
    assert default_layer(net, x) == layer
    assert snapshot(net) == before
    layout = find_layout(record(net, x, layers=[layer]).records[layer].shape, x.shape, layer=layer)
    assert layout.prefix == prefix
    result = cam(net, x)
    assert result.shape == (1, *grid)
    assert result.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("maker", "layer", "grid", "prefix"),
    [
        (lambda: torchvision.models.vgg11(), "features.19", (14, 14), 0),
        (lambda: torchvision.models.convnext_tiny(), "features", (7, 7), 0),
        (lambda: torchvision.models.swin_t(), "norm", (7, 7), 0),
        (lambda: torchvision.models.vit_b_16(), "encoder.layers.encoder_layer_11.ln_1", (14, 14), 1),
        (lambda: torchvision.models.densenet121(), "relu()", (7, 7), 0),
        (lambda: timm.create_model("vit_tiny_patch16_224"), "blocks.11.norm1", (14, 14), 1),
    ],
)
def test_choice_at_full_size(maker, layer, grid, prefix):
    torch.manual_seed(0)
    net, x = maker().eval(), torch.randn(1, 3, 224, 224)
    assert default_layer(net, x) == layer
    layout = find_layout(record(net, x, layers=[layer]).records[layer].shape, x.shape, layer=layer)
    assert layout.prefix == prefix
    assert layout.read(record(net, x, layers=[layer]).records[layer]).shape[2:] == grid


@pytest.mark.parametrize(
    ("channels", "size", "grid"),
    [
        (3, (64, 96), (2, 3)),
        (3, (160, 64), (5, 2)),
        (1, (64, 64), (2, 2)),
        (12, (64, 64), (2, 2)),
        (3, (33, 70), (2, 3)),
    ],
)
def test_pictures_of_other_shapes(pictures, channels, size, grid):
    torch.manual_seed(0)
    block = timm.models.resnet.BasicBlock
    net = timm.models.resnet.ResNet(block, [1, 1, 1, 1], channels=(8, 16, 24, 32), in_chans=channels, num_classes=5)
    x = pictures(1, channels, *size, dtype=torch.float32)
    assert default_layer(net, x) == "layer4"
    assert cam(net, x).shape == (1, *grid)


def test_a_picture_so_small_that_the_last_grid_is_one_cell(make_net, pictures):
    """At 32 px layer4 of a ResNet has one cell: no place for each part; an earlier layer has."""
    net = make_net("small resnet", torch.float32)
    x = pictures(1, 3, 32, 32, dtype=torch.float32)
    assert default_layer(net, x) in ("layer2", "layer3")
    assert min(cam(net, x).shape[1:]) >= 2
    assert default_layer(make_net("plain"), pictures(1, 2, 12, 12)) == "3"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(make_net, pictures, dtype):
    assert default_layer(make_net("pooled", dtype), pictures(1, 3, 32, 32, dtype=dtype)) == "5"


def test_networks_whose_head_is_still_zero(pictures):
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(64, 16, 3, 3, 48, 96, num_classes=5)
    assert not net.heads.head.weight.any()
    assert default_layer(net, pictures(1, 3, 64, 64, dtype=torch.float32)) == "encoder.layers.encoder_layer_2.ln_1"
    assert not net.heads.head.weight.any()


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()], ids=["softmax", "sigmoid"])
def test_a_network_so_sure_that_its_probabilities_have_no_gradient(pictures, last):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), last)
    nn.init.normal_(net[6].weight, std=1e5)
    x = pictures(1, 3, 32, 32, dtype=torch.float32, seed=1)
    assert set(net(x).flatten().tolist()) == {0.0, 1.0}
    assert default_layer(net, x) == "3"


def test_several_inputs(pictures):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(10, 3)

        def forward(self, age, x):
            return self.fc(torch.cat([self.conv(x).relu().mean((2, 3)), age], 1))

    torch.manual_seed(0)
    net, age, x = Net().double(), pictures(2, 2), pictures(2, 3, 20, 20)
    assert default_layer(net, (age, x), picture=1) == "relu()"
    assert cam(net, (age, x), picture=1, targets=[0, 1]).shape == (2, 9, 9)
    for wrong in (0, 2):
        with pytest.raises(
            SettingError, match=rf"input {wrong} of \(2, 2\), \(2, 3, 20, 20\) is not; say with picture="
        ):
            default_layer(net, (age, x), picture=wrong)


def test_the_choice_is_kept_for_a_network_and_input_size(make_net, pictures):
    net, other = make_net("pooled"), make_net("pooled")
    calls = []
    for one in (net, other):
        one.register_forward_hook(lambda *_: calls.append(1))
    x = pictures(2, 3, 24, 24)
    default_layer(net, x)
    assert len(calls) == 1
    default_layer(net, x)
    default_layer(net, pictures(5, 3, 24, 24, seed=1))
    cam(net, x)
    assert len(calls) == 2, "one forward for the choice, one for the map"
    default_layer(net, pictures(2, 3, 32, 24))
    assert len(calls) == 3
    default_layer(other, x)
    assert len(calls) == 4


def test_the_error_lists_five_candidates(pictures):
    class Mixing(nn.Module):
        """Grids all along, but the scores come from somewhere else."""

        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(4))
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            y = x
            for stage in self.stages:
                y = stage(y).tanh()
            return self.fc(x.mean((2, 3)))

    with pytest.raises(LayerError, match="no layer of Mixing was found to explain; name one with layer=: ") as caught:
        default_layer(Mixing(), pictures(1, 3, 32, 32, dtype=torch.float32))
    listed = str(caught.value).split("layer=: ")[1]
    assert listed.count("'") == 10
    assert "'stages.3' (2, 2)" in listed
    assert "'stages.2' (4, 4)" in listed


def test_nothing_has_a_grid(pictures):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12 * 12 * 3, 7), nn.ReLU(), nn.Linear(7, 2))
    with pytest.raises(LayerError, match="none has a grid of the image's shape"):
        default_layer(net, pictures(1, 3, 12, 12, dtype=torch.float32))


def test_the_model_is_left_bit_identical(make_net, pictures, snapshot):
    net = make_net("pooled").train()
    net[3].eval()
    net[0].weight.requires_grad_(False)
    net[8].weight.grad = torch.ones_like(net[8].weight)
    before = snapshot(net)
    default_layer(net, pictures(1, 3, 24, 24))
    assert snapshot(net) == before
    net[8].register_forward_hook(lambda *_: 1 / 0)
    before = snapshot(net)
    with pytest.raises(ZeroDivisionError):
        default_layer(net, pictures(1, 3, 24, 40))
    assert snapshot(net) == before


class Recurrent(nn.Module):
    """A signal through convolutions, and what they say through an LSTM that reads it both ways."""

    def __init__(self, features=8):
        super().__init__()
        self.f = nn.Sequential(nn.Conv1d(12, 8, 3, 2, 1), nn.ReLU(), nn.Conv1d(8, 16, 3, 4, 1), nn.ReLU())
        self.r = nn.LSTM(16, features, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * features, 2)

    def forward(self, x):
        return self.fc(self.r(self.f(x).transpose(1, 2))[0].mean(1))


@pytest.mark.parametrize("features", [8, 32, 64])
def test_time_is_not_taken_for_features(features):
    torch.manual_seed(0)
    net, x = Recurrent(features).eval(), torch.randn(2, 12, 500)
    records = []
    handle = net.r.register_forward_hook(lambda module, inputs, output: records.append(output[0]))
    scores = net(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), records[0])
    by_hand = (records[0] * gradient.mean(1, keepdim=True)).sum(2).detach()
    for layer in (None, "r"):
        torch.testing.assert_close(cam(net, x, targets=1, layer=layer), by_hand)


class Tokens(nn.Module):
    """A transformer on a signal, with a class token."""

    def __init__(self, width, *, first=True):
        super().__init__()
        self.e, self.c, self.first = nn.Conv1d(12, width, 8, 8), nn.Parameter(torch.zeros(1, 1, width)), first
        self.t = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, 32, batch_first=True), 1)
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        parts = [self.c.expand(len(x), -1, -1), self.e(x).transpose(1, 2)]
        return self.fc(self.t(torch.cat(parts if self.first else parts[::-1], 1)).mean(1))


@pytest.mark.parametrize(("width", "first"), [(64, True), (128, True), (32, False)])
def test_the_class_token_of_a_signal_is_no_place(width, first):
    torch.manual_seed(0)
    net, x = Tokens(width, first=first).eval(), torch.randn(2, 12, 512)
    choice = choose_layer(net, x)
    (layout,) = choice.layouts
    assert (layout.grid, layout.prefix, layout.channel) == ((64,), int(first), 2)
    torch.testing.assert_close(cam(net, x, targets=1, layer=choice.name), cam(net, x, targets=1))


class Folded(nn.Module):
    """Frames of a video in one batch, frame by frame or image by image; features of all frames decide."""

    def __init__(self, *, frame_major):
        super().__init__()
        self.frame_major = frame_major
        self.f = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.g, self.fc = nn.GRU(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        b, t = x.shape[:2]
        frames = x.transpose(0, 1) if self.frame_major else x
        features = self.f(frames.flatten(0, 1)).mean((2, 3))
        in_time = features.view(t, b, -1) if self.frame_major else features.view(b, t, -1).transpose(0, 1)
        return self.fc(self.g(in_time)[0].mean(0))


@pytest.mark.parametrize("layer", [None, "f"])
@pytest.mark.parametrize("frames", [3, 5, 6])
def test_frames_in_either_order_are_those_of_their_video(frames, layer):
    torch.manual_seed(0)
    one, other = (Folded(frame_major=major).eval() for major in (True, False))
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, frames, 3, 64, 64)
    maps = cam(one, x, targets=1, layer=layer)
    assert maps.shape == (2, frames, 8, 8)
    torch.testing.assert_close(maps, cam(other, x, targets=1, layer=layer))
    torch.testing.assert_close(maps, torch.cat([cam(one, x[i : i + 1], targets=1, layer=layer) for i in range(2)]))


class Looped(nn.Module):
    """Each slice through one network; means over all places of each are joined."""

    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(1, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(torch.stack([self.f(one).mean((2, 3)) for one in x.unbind(1)], 1).mean(1))


@pytest.mark.parametrize("slices", [2, 4, 8, 12])
def test_means_over_places_have_none(slices):
    with pytest.raises(LayerError, match="no layer of Looped was found"):
        choose_layer(Looped().eval(), torch.randn(1, slices, 1, 64, 64))
