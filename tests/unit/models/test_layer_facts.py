"""The default layer is a fact of the network: no image, batch, dtype, weight or mode changes it."""

import functools
import itertools

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

import camscope as cs
from camscope.errors import LayerError
from camscope.models import layer_choice
from camscope.models.layer_choice import choose_layer, default_layer

IMAGES = {
    "black": lambda shape: torch.zeros(shape),
    "constant": lambda shape: torch.full(shape, 3.0),
    "noise": lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(1)),
    "a dot": lambda shape: torch.zeros(shape).index_put((*(torch.tensor(0),) * len(shape),), torch.tensor(9.0)),
}


def dead(net):
    """Biases so low that nearly every activation is 0."""
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            p.data.fill_(-9.0)


def zeroed(net):
    for p in net.parameters():
        p.data.zero_()


def large(net):
    for p in net.parameters():
        p.data.mul_(1 + 3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))


WEIGHTS = {"as made": lambda net: None, "dead": dead, "zeroed": zeroed, "large": large}

NETS = {
    "squeezenet": (lambda classes: torchvision.models.squeezenet1_0(num_classes=classes), 96, "features"),
    "vgg": (lambda classes: torchvision.models.vgg11(num_classes=classes), 64, "features.19"),
    "resnet": (lambda classes: timm.create_model("test_resnet", num_classes=classes), 96, "layer4"),
    "vit": (lambda classes: timm.create_model("test_vit", img_size=96, num_classes=classes), 96, "blocks.5.norm1"),
    "convnext": (lambda classes: timm.create_model("test_convnext", num_classes=classes), 96, "stages"),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("vgg", "vit"))) for n in NETS])
def test_one_answer(name):
    make, size, layer = NETS[name]
    answers = set()
    for classes in (2, 7):
        for change in WEIGHTS.values():
            torch.manual_seed(0)
            net = make(classes)
            change(net)
            for kind, image in IMAGES.items():
                if kind == "black" or change is WEIGHTS["dead"]:
                    layer_choice._choices.clear()
                    answers.add(default_layer(net, image((1, 3, size, size))))
    layer_choice._choices.clear()
    answers |= {
        default_layer(net, torch.zeros(4, 3, size, size)),
        default_layer(net.train(), torch.zeros(1, 3, size, size)),
    }
    answers.add(default_layer(make(3).bfloat16(), torch.zeros(1, 3, size, size, dtype=torch.bfloat16)))
    with torch.inference_mode():
        answers.add(default_layer(make(3), torch.zeros(1, 3, size, size)))
    assert answers == {layer}


def test_a_replaced_part_is_seen():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    x = torch.rand(1, 3, 32, 32)
    assert default_layer(net, x) == "1"
    net[1] = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.GELU())
    assert default_layer(net, x) == "1"
    assert cs.cam(net, x).shape == (1, 7, 7)


class TwoViews(nn.Module):
    def __init__(self, *, shared):
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(1, 4, 4, 4, bias=False), nn.ReLU())
        nn.init.constant_(self.left[0].weight, 1 / 16)
        self.right = self.left if shared else nn.Sequential(nn.Conv2d(1, 4, 4, 4, bias=False), nn.ReLU())
        nn.init.constant_(self.right[0].weight, 1 / 16)
        self.fc = nn.Linear(8, 2)
        nn.init.constant_(self.fc.weight, 1.0)

    def forward(self, a, b):
        return self.fc(torch.cat([self.left(a).mean((2, 3)), self.right(b).mean((2, 3))], 1))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_input_has_its_own_layer(shared, order):
    a, b = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    a[..., 4:16, 4:16], b[..., 44:56, 40:52] = 1, 1
    net = TwoViews(shared=shared)
    for picture in order:
        m = cs.cam(net, (a, b), targets=0, picture=picture)[0]
        assert divmod(int(m.argmax()), 16) == [(1, 1), (11, 10)][picture]


def planted(*strides):
    """A network that answers where its input is bright, with one stride per axis and layer."""
    kinds = {
        1: (nn.Conv1d, nn.AdaptiveAvgPool1d),
        2: (nn.Conv2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.AdaptiveAvgPool3d),
    }
    conv, pool = kinds[len(strides[0])]
    convs = [conv(16 if i else 1, 16, stride, stride, bias=False) for i, stride in enumerate(strides)]
    layers = [part for one in convs for part in (one, nn.ReLU())]
    net = nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(16, 1))
    for p in net.parameters():
        nn.init.constant_(p, 0.25)
    return net


STRIDES = {
    "thick slices": (((1, 2, 2), (1, 2, 2)), (8, 64, 64), (5, 41, 9), (5, 10, 2)),
    "video": (((2, 2, 2), (1, 4, 4)), (16, 64, 64), (9, 41, 9), (4, 5, 1)),
    "text line": (((2, 1), (2, 1)), (32, 100), (9, 70), (2, 70)),
    "spectrogram": (((1, 4), (1, 4)), (24, 320), (20, 300), (20, 18)),
    "electrodes": (((1, 5), (16, 1)), (16, 500), (3, 333), (0, 66)),
    "signal": (((4,), (4,)), (512,), (333,), (20,)),
}


@pytest.mark.parametrize("name", STRIDES)
def test_strides_that_differ_between_axes(name):
    strides, size, place, cell = STRIDES[name]
    net, x = planted(*strides), torch.zeros(1, 1, *size)
    x[(0, 0, *place)] = 1
    last = str(2 * len(strides) - 1)
    assert default_layer(net, x) == last
    for layer in (None, last):
        m = cs.cam(net, x, targets=0, layer=layer)[0]
        assert tuple(int(i) for i in (m == m.max()).nonzero()[0]) == cell


class Frames(nn.Module):
    """A network of images that runs on the frames of a clip, (B, T, C, H, W) or (B, T * C, H, W)."""

    def __init__(self, *, channels_hold_frames):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 4, 4, bias=False), nn.ReLU())
        nn.init.constant_(self.body[0].weight, 1 / 48)
        self.fc, self.channels_hold_frames = nn.Linear(3, 4), channels_hold_frames
        nn.init.constant_(self.fc.weight, 1.0)

    def forward(self, clips):
        if self.channels_hold_frames:
            clips = clips.unflatten(1, (-1, 3))
        features = self.body(clips.flatten(0, 1)).mean((2, 3)).unflatten(0, clips.shape[:2])
        return self.fc(features.mean(1))


@pytest.mark.parametrize("channels_hold_frames", [False, True])
@pytest.mark.parametrize("frames", [4, 6])
def test_frames_folded_into_the_batch(channels_hold_frames, frames):
    clips = torch.zeros(2, frames, 3, 64, 64)
    for t in range(frames):
        clips[:, t, :, 4 + 8 * t : 12 + 8 * t, 4:12] = 1
    clips[1] = clips[1].flip(-2)
    x = clips.flatten(1, 2) if channels_hold_frames else clips
    m = cs.cam(Frames(channels_hold_frames=channels_hold_frames), x, targets=0)
    assert m.shape == (2, frames, 16, 16)
    rows = m.amax(3).argmax(2)
    assert rows[0].tolist() == [1 + 2 * t for t in range(frames)]
    assert (rows[1] - (14 - rows[0])).abs().max() <= 1
    chunked = cs.cam(Frames(channels_hold_frames=channels_hold_frames), x, targets=0, method="ablationcam")
    assert chunked.shape == m.shape


OVER_FRAMES = {
    "lstm": lambda: nn.LSTM(16, 16, batch_first=True),
    "attention": lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
    "convolution": lambda: nn.Sequential(nn.Conv1d(6, 6, 3, 1, 1), nn.ReLU()),
}


@pytest.mark.parametrize("kind", OVER_FRAMES)
@pytest.mark.parametrize("volume", [False, True])
def test_features_per_frame_have_no_places(kind, volume):
    """(B, T, K) after a pool over space is no grid, though the frames keep their order."""

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1 if volume else 3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
            self.over, self.fc = OVER_FRAMES[kind](), nn.Linear(16, 2)

        def forward(self, clips):
            clips = clips.movedim(1, 2) if volume else clips
            found = self.over(self.body(clips.flatten(0, 1)).relu().mean((2, 3)).unflatten(0, clips.shape[:2]))
            return self.fc((found[0] if kind == "lstm" else found).mean(1))

    torch.manual_seed(0)
    x = torch.randn(2, 1, 6, 64, 64) if volume else torch.randn(2, 6, 3, 64, 64)
    assert cs.cam(Sequence(), x, targets=0).shape == (2, 6, 16, 16)


class Member(nn.Module):
    def __init__(self, colour):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 3, 4, 4, bias=False), nn.ReLU()), nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.body[0].weight.copy_(torch.eye(3)[..., None, None].expand(3, 3, 4, 4) / 16)
            self.fc.weight.zero_()
            self.fc.weight[0, colour] = 1

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class Ensemble(nn.Module):
    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        return torch.stack([m(x) for m in self.members]).mean(0)


@pytest.mark.parametrize("colours", [(0, 1), (0, 1, 2), (1, 1)])
def test_the_maps_of_all_members_of_an_ensemble(colours):
    x = torch.rand(2, 3, 64, 64)
    net = Ensemble([Member(c) for c in colours])
    layer = " + ".join(f"members.{i}.body" for i in range(len(colours)))
    assert default_layer(net, x) == layer
    expected = sum(cs.cam(m, x, targets=0) for m in net.members) / len(colours)
    for given in (None, layer, [m.body for m in net.members]):
        torch.testing.assert_close(cs.cam(net, x, targets=0, layer=given), expected)
    assert cs.cams(net, x, targets=[[0, 1]] * 2).shape == (2, 2, 16, 16)


def test_members_with_other_grids_are_added():
    class Other(Member):
        def forward(self, x):
            return super().forward(nn.functional.avg_pool2d(x, 2))

    net, x = Ensemble([Member(0), Other(1)]), torch.rand(1, 3, 64, 64)
    choice = choose_layer(net, x)
    assert choice.layers == ("members.0.body", "members.1.body")
    assert choice.complete
    torch.testing.assert_close(cs.cam(net, x, targets=0, method="hirescam").sum(), net(x)[0, 0].detach())
    fine, coarse = (cs.cam(net, x, targets=0, layer=f"members.{i}.body", method="hirescam") for i in range(2))
    both = cs.cam(net, x, targets=0, layer=["members.0.body", "members.1.body"], method="hirescam")
    torch.testing.assert_close(
        both, fine + nn.functional.interpolate(coarse[:, None], scale_factor=2, mode="bilinear")[:, 0] / 4
    )


def test_never_the_stem_because_nothing_else_fits():
    """Places in polar order after the stem: no grid of the image, so the candidates are listed."""

    class Polar(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 1, 1)
            self.blocks = nn.Sequential(*(nn.Conv1d(8, 8, 5, 2, 2) for _ in range(6)))
            self.fc = nn.Linear(8, 2)
            self.register_buffer("order", torch.randperm(64 * 64, generator=torch.Generator().manual_seed(0))[:1999])

        def forward(self, x):
            return self.fc(self.blocks(self.stem(x).flatten(2)[..., self.order]).mean(2))

    with pytest.raises(LayerError, match="no layer of Polar was found to explain; name one with layer=: '"):
        default_layer(Polar(), torch.rand(1, 3, 64, 64))


class Token(nn.Module):
    """A class token without a place of its own, all of whose values would be equal if it were a scale."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.zeros(1, 1, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True) for _ in "abc"
        )
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 2)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.norm(x)[:, 0])


def test_a_class_token_without_positions_reads_the_patches():
    torch.manual_seed(0)
    assert default_layer(Token().eval(), torch.randn(1, 3, 64, 64)) == "blocks.2.norm1"


def test_the_share_is_told_where_a_path_without_places_leads_around():
    class Beside(Member):
        """Half of the score comes from the mean colour of the image, which has no places."""

        def forward(self, x):
            return super().forward(x) + x.mean((2, 3))[:, :2]

    model = cs.Model("beside", Beside(0), preprocess=cs.Preprocess((64, 64), (0,) * 3, (1,) * 3))
    assert not choose_layer(model.net, torch.rand(1, 3, 64, 64)).complete
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 153
    e = cs.explain(model, image, target=0)
    assert e.layer == "body"
    assert any("carries 50% of the score" in note for note in e.notes)


@pytest.mark.parametrize("scales", [(1, 2), (2, 1), (1, 2, 4)])
def test_one_body_on_several_scales_of_the_image(scales):
    class Pyramid(Member):
        def forward(self, x):
            pooled = (nn.functional.avg_pool2d(x, k) if k > 1 else x for k in scales)
            return sum(super(Pyramid, self).forward(one) for one in pooled)

    net, x = Pyramid(1), torch.rand(2, 3, 64, 64)
    assert len(choose_layer(net, x).layers) == len(scales)
    torch.testing.assert_close(cs.cam(net, x, targets=0, method="hirescam").sum((1, 2)), net(x)[:, 0].detach())


class WithClasses(nn.Module):
    """An encoder that returns its input too, as those of segmentation_models_pytorch, a decoder, and two heads."""

    def __init__(self):
        super().__init__()
        sizes = (3, 8, 16)
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.ReLU()) for i, o in itertools.pairwise(sizes)
        )
        self.encoder.forward = self.features
        self.up = nn.ModuleList(nn.Sequential(nn.Conv2d(i, 8, 3, 1, 1), nn.ReLU()) for i in (16, 8, 8, 8))
        self.masks, self.classes = nn.Conv2d(8, 2, 1), nn.Linear(16, 3)

    def features(self, x):
        every = [x.clone()]
        for stage in self.encoder:
            every.append(stage(every[-1]))
        return every

    def forward(self, x):
        every = self.encoder(x)
        y = every[-1]
        for i, block in enumerate(self.up):
            y = block(nn.functional.interpolate(y, scale_factor=2) if i < 2 else y)
        return self.masks(y), self.classes(every[-1].mean((2, 3)))


def test_the_head_for_classes_of_a_segmentation_network():
    net, x = WithClasses(), torch.randn(2, 3, 64, 64)
    assert default_layer(net, x, output=1) == "encoder.1"
    assert cs.cam(net, x, targets=1, output=1).shape == (2, 16, 16)


def test_a_forward_that_was_replaced_by_a_partial_function():
    """As accelerate does."""
    net, x = torchvision.models.resnet18(num_classes=2).eval(), torch.randn(2, 3, 64, 64)
    expected = cs.cam(net, x, targets=1)
    net._old_forward = net.forward
    through = functools.partial(lambda module, *args: module._old_forward(*args), net)
    net.forward = functools.update_wrapper(through, net.forward)
    torch.testing.assert_close(cs.cam(net, x, targets=1), expected)
