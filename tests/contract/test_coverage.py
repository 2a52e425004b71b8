"""The layer is found without being named: for diverse small architectures, and (slow) for every family of timm."""

import warnings

import pytest
import timm
import torch
from torch import nn

import camscope as cs
from camscope.models.layer_choice import default_layer
from camscope.trace import record
from camscope.trace.layout import find_layout

# Small members of families that differ in what they return, how they pool, and where they branch.
DIVERSE = {
    "test_resnet": (96, "layer4"),
    "test_efficientnet": (96, "bn2"),
    "test_convnext": (96, "stages"),
    "test_vit": (160, None),
    "vit_tiny_patch16_dinov3_qkvb": (96, None),
    "mobilenetv3_small_050": (128, None),
    "edgenext_xx_small": (96, "stages"),
    "crossvit_tiny_240": (240, "blocks.2.fusion.0.norm1"),
    "efficientvit_m0": (224, None),
    "mobilevit_xxs": (128, None),
    "starnet_s050": (96, None),
    "xcit_nano_12_p8_224": (224, None),
    "ghostnet_050": (96, None),
}
LONG = ("xcit_nano_12_p8_224", "crossvit_tiny_240", "vit_tiny_patch16_dinov3_qkvb")
LARGEST = 120e6


def made(name, **options):
    """A network of timm with random weights as after training: none zero, batch norms that know their inputs."""
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(name, **options).eval()


def picture(*shape):
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(shape[0], shape[1], shape[2] // 16, shape[3] // 16, generator=draw)
    smooth = nn.functional.interpolate(coarse, shape[2:], mode="bilinear")
    return smooth + 0.2 * torch.randn(shape, generator=draw)


def settled(net, x):
    """Batch norms with the statistics of these images."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    with torch.no_grad():
        net(torch.cat([x, x.flip(-1), x.flip(-2)]))
    for norm in norms:
        norm.training = False
    return net


def assert_places_are_kept(net, x, layer, *, draws=1):
    """Derived from the other end: what a cell in a corner of the grid depends on lies in that corner of the image."""
    leaf = x.clone().requires_grad_()
    forward = record(net, leaf, layers=[layer], differentiable=True)
    layout = find_layout(forward.records[layer].shape, x.shape, layer=layer)
    activations = layout.read(forward.records[layer])
    h, w = activations.shape[2:]
    assert min(h, w) >= 2
    assert abs(h * x.shape[3] - w * x.shape[2]) <= max(x.shape[2:])
    weights = torch.randn(draws, activations.shape[1], generator=torch.Generator().manual_seed(1))
    seen = []
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        scores = weights @ activations[0, :, row, column]
        gradients = [torch.autograd.grad(score, forward.pictures, retain_graph=True)[0] for score in scores]
        mass = sum(gradient[0].abs().sum(0) for gradient in gradients)
        rows, columns = torch.meshgrid(torch.arange(mass.shape[0]), torch.arange(mass.shape[1]), indexing="ij")
        seen.append((float((mass * rows).sum() / mass.sum()), float((mass * columns).sum() / mass.sum())))
    (top_left, top_right, bottom_left, bottom_right) = seen
    # Both corners of a side together: with random attention a single cell sees little more of its own side.
    assert top_left[0] + top_right[0] < bottom_left[0] + bottom_right[0]
    assert top_left[1] + bottom_left[1] < top_right[1] + bottom_right[1]


def assert_timm_says_the_same(net, x, layer):
    """The choice reads no record of timm's: fewer networks have one, and it tells of shapes, not of what happens."""
    layout = find_layout(record(net, x, layers=[layer]).records[layer].shape, x.shape, layer=layer)
    if layout.grid is None:
        return
    late = isinstance(net, timm.models.Cait)  # its class token joins after the blocks
    assert layout.prefix == (0 if late else getattr(net, "num_prefix_tokens", layout.prefix))
    embedding = getattr(net, "patch_embed", None)
    if hasattr(net, "num_prefix_tokens") and getattr(embedding, "img_size", None) == tuple(x.shape[2:]):
        assert layout.grid == getattr(embedding, "grid_size", layout.grid)


def check(net, x, *, draws=1):
    layer = default_layer(net, x)
    assert_places_are_kept(net, x, layer, draws=draws)
    assert_timm_says_the_same(net, x, layer)
    made_map = cs.cam(net, x)
    assert made_map.isfinite().all()
    return layer


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in DIVERSE])
def test_diverse_architectures(name):
    size, layer = DIVERSE[name]
    x = picture(1, 3, size, size)
    found = check(settled(made(name, num_classes=7), x), x)
    assert layer in (None, found)


@pytest.mark.parametrize(("channels", "size"), [(1, (64, 64)), (12, (64, 96)), (3, (32, 32)), (3, (160, 64))])
def test_inputs_of_other_shapes(channels, size):
    x = picture(1, channels, *size)
    check(settled(made("test_resnet", num_classes=7, in_chans=channels), x), x)


def smallest_of_each_family():
    smallest = {}
    for name in timm.list_models():
        family = timm.model_entrypoint(name).__module__
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            count = sum(p.numel() for p in timm.create_model(name).parameters())
        smallest[family] = min(smallest.get(family, (LARGEST, "")), (count, name))
    return sorted(name for _, name in smallest.values() if name)


@pytest.mark.slow
def test_one_of_every_family_of_timm():
    """All but those whose smallest member is larger than 120 million parameters."""
    missed = {}
    for name in smallest_of_each_family():
        net = made(name)
        channels, height, width = net.pretrained_cfg["input_size"]
        if not net.pretrained_cfg.get("fixed_input_size") and height > 260:
            height = width = 224
        x = picture(1, channels, height, width)
        try:
            check(settled(net, x), x, draws=4)
        except Exception as error:
            missed[name] = repr(error)[:200]
    assert not missed
