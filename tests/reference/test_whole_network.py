"""FullGrad, guided backpropagation, RefineCAM and fusion from their papers, naively, in float64; and their peers."""

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import camscope as cs
from camscope.errors import MethodError
from camscope.methods.fullgrad import full_gradient
from camscope.methods.guided import guided_gradients
from camscope.targets import category

CLASSES = 5


class Tower(nn.Module):
    """A ReLU network with a bias of every kind: strided and plain convolution, batch norm, addition, linear."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, 1, 1)
        self.fc = nn.Linear(6 * 16, CLASSES)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(torch.relu(x + self.second(x)), 2)
        return self.fc(x.flatten(1))


@pytest.fixture
def tower(pictures):
    torch.manual_seed(0)
    net = Tower().double().eval()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.weight.normal_()
        net.norm.bias.normal_()
    return net


def upsampled(values, size):
    return F.interpolate(values[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def test_fullgrad_of_a_relu_network_from_the_paper(tower, pictures, close):
    """Every layer by hand: its bias, the gradient at its output, the post-processing psi, channel by channel."""
    x = pictures(2, 3, 16, 16).requires_grad_()
    a = tower.first(x)
    b = tower.norm(a)
    c = F.relu(b)
    d = tower.second(c)
    y = tower.fc(F.max_pool2d(F.relu(c + d), 2).flatten(1))
    score = y[0, 1] + y[1, 3]
    norm = tower.norm
    biases = [
        tower.first.bias,
        norm.bias - norm.weight * norm.running_mean / torch.sqrt(norm.running_var + norm.eps),
        tower.second.bias,
    ]
    by_x, *by_layer = torch.autograd.grad(score, [x, a, b, d])
    expected = torch.zeros(2, 16, 16, dtype=torch.float64)
    terms = [x * by_x, *(g * bias[None, :, None, None] for g, bias in zip(by_layer, biases, strict=True))]
    for term, image in itertools.product(terms, range(2)):
        size = term[image].abs()
        size = (size - size.min()) / (size.max() - size.min())
        for channel in size:
            expected[image] += upsampled(channel[None], (16, 16))[0]
    actual = cs.cam(tower, x.detach(), method="fullgrad", targets=[1, 3])
    close(actual, expected, to=1e-12, table=("fullgrad", "Tower", "paper"))


NETS = {
    "tower": None,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=CLASSES),
    "vgg": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(True), nn.Flatten(), nn.Linear(4 * 31 * 31, CLASSES)),
    "convnext": lambda: timm.create_model(
        "convnext_atto", num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)
    ),
    "groups": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 4), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, affine=True),
        nn.Mish(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES), nn.Softplus(),
    ),
    "small vit": None,
    "torch vit": lambda: torchvision.models.VisionTransformer(64, 16, 1, 2, 16, 32, num_classes=CLASSES),
    "small swin": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_fullgrad_is_complete(name, tower, make_net, pictures, close, snapshot):
    """The score is the sum of all shares, whatever the layers: y = sum x dy/dx + sum b dy/db."""
    if name == "tower":
        net, size = tower, 16
    elif NETS[name] is None:
        net, size = make_net(name), 64
    else:
        torch.manual_seed(1)
        net, size = NETS[name]().double().eval(), 64
        with torch.no_grad():
            for parameter in net.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
    x = pictures(2, 3, size, size)
    shares = []
    before = snapshot(net)
    pixels = full_gradient(net, x, [category(1), category(3)], lambda _, share: shares.append(share.sum()))
    assert snapshot(net) == before
    assert len(shares) > 1
    y = net(x).detach()
    close(pixels.sum() + sum(shares), y[0, 1] + y[1, 3], to=1e-9, table=("fullgrad", name, "completeness"))


def test_fullgrad_differs_from_pytorch_grad_cam_in_its_scaling(tower, pictures):
    """The peer scales every channel to [0, 1] on its own, so that a dead channel weighs as much as a strong one."""
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x = pictures(1, 3, 16, 16, dtype=torch.float32)
    net = tower.float()
    with library.FullGrad(net, []) as peer:
        theirs = torch.from_numpy(peer(x, [ClassifierOutputTarget(1)])).double()[0]
    ours = cs.cam(net, x, method="fullgrad", targets=1)[0].double()
    together = torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1]
    assert 0.5 < together < 0.999


class Guided(torch.autograd.Function):
    """Springenberg's rule, written out."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        return g * (g > 0) * (z > 0)


class Small(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, CLASSES)
        self.act = act

    def forward(self, x):
        x = self.act(self.a(x))
        return self.c(self.act(self.b(x)).mean((2, 3)))


RELUS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda z: F.relu(z, inplace=True),
    "torch.relu": torch.relu,
    "relu_ alone": lambda z: [z.relu_(), z][1],
    "clamp": lambda z: z.clamp(min=0),
    "clamp_min": lambda z: torch.clamp_min(z, 0),
    "threshold": nn.Threshold(0, 0),
    "relu6": nn.ReLU6(),
}


def small(act):
    torch.manual_seed(2)
    return Small(act).double().eval()


@pytest.mark.parametrize("kind", RELUS)
def test_guided_backprop_of_a_relu_in_every_form(kind, pictures, close, snapshot):
    x = pictures(2, 3, 12, 12)
    leaf = x.clone().requires_grad_()
    scores = small(Guided.apply)(leaf)
    (expected,) = torch.autograd.grad(scores[0, 1] + scores[1, 2], leaf)
    (plain,) = torch.autograd.grad(small(F.relu)(leaf)[:, 1].sum(), leaf)
    net = small(RELUS[kind])
    before = snapshot(net)
    actual = guided_gradients(net, x, [category(1), category(2)])
    assert snapshot(net) == before
    close(actual, expected, to=1e-12, table=("guidedbackprop", kind, "paper"))
    assert not torch.allclose(actual[0], plain[0])
    close(cs.cam(net, x, method="guidedbackprop", targets=[1, 2]), expected.sum(1), to=1e-12)


OTHERS = {
    "Gelu": nn.GELU(), "Silu": nn.SiLU(), "Silu in place": nn.SiLU(inplace=True), "Hardswish": nn.Hardswish(),
    "LeakyRelu": nn.LeakyReLU(), "Elu": nn.ELU(), "Prelu": nn.PReLU(), "Mish": nn.Mish(), "Softplus": nn.Softplus(),
    "x * sigmoid(x)": lambda z: z * z.sigmoid(), "sigmoid(x) * x": lambda z: torch.sigmoid(z).mul(z),
    "own function": Guided.apply,
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("method", ["guidedbackprop", "guidedgradcam"])
def test_guided_backprop_refuses_what_is_no_relu(kind, method, pictures, snapshot):
    net = small(OTHERS[kind]).double()
    before = snapshot(net)
    with pytest.raises(MethodError, match=r"^guided backpropagation is defined for ReLU alone, and Small computes"):
        cs.cam(net, pictures(1, 3, 12, 12), method=method, targets=1)
    assert snapshot(net) == before
    with pytest.raises(MethodError, match="needs ReLUs, and Small has none"):
        cs.cam(small(nn.Identity()), pictures(1, 3, 12, 12), method=method, targets=1)


def test_a_gate_beside_relus_is_no_activation_function(pictures):
    net = small(lambda z: F.relu(z) * z.mean((2, 3), keepdim=True).sigmoid())
    assert cs.cam(net, pictures(1, 3, 12, 12), method="guidedbackprop", targets=1).any()


def test_guided_backprop_equals_captum_on_modules(make_net, pictures, close):
    captum = pytest.importorskip("captum.attr")
    x, net, other = pictures(2, 3, 24, 24), make_net("pooled"), make_net("pooled")
    for module in other.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = captum.GuidedBackprop(other).attribute(x.clone().requires_grad_(), target=2).sum(1)
    actual = cs.cam(net, x, method="guidedbackprop", targets=2)
    close(actual, expected, to=1e-12, table=("guidedbackprop", "pooled", "captum"))


def test_peers_give_a_plain_gradient_for_functional_relus(pictures):
    """captum and pytorch-grad-cam replace nn.ReLU modules: with F.relu they return the plain gradient, unwarned."""
    captum = pytest.importorskip("captum.attr")
    x, net = pictures(1, 3, 12, 12), small(F.relu)
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(net(leaf)[0, 1], leaf)
    theirs = captum.GuidedBackprop(net).attribute(leaf, target=1)
    assert torch.allclose(theirs, plain)
    assert not torch.allclose(guided_gradients(net, x, [category(1)]), plain)


def test_guided_gradcam_is_the_product(pictures, close):
    x, net = pictures(2, 3, 12, 12), small(nn.ReLU())
    guided = cs.cam(net, x, method="guidedbackprop", targets=1)
    heat = cs.cam(net, x, method="gradcam", layer="b", targets=1).relu()
    expected = guided * upsampled(heat, (12, 12))
    actual = cs.cam(net, x, method="guidedgradcam", layer="b", targets=1)
    close(actual, expected, to=1e-12, table=("guidedgradcam", "Small", "paper"))


def test_refinecam_and_fusion_from_their_formulas(tower, pictures, close):
    x, layers = pictures(2, 3, 16, 16), ["first", "norm", "max_pool2d()"]
    unit = []
    for layer in layers:
        heat = cs.cam(tower, x, method="layercam", layer=layer, targets=2).relu()
        heat = torch.stack([h / h.max() for h in heat])
        unit.append(upsampled(heat, (8, 8)))
    ways = {
        "mean": sum(unit) / 3,
        "max": torch.maximum(torch.maximum(unit[0], unit[1]), unit[2]),
        "tanh": torch.stack([torch.tanh(2 * u) for u in unit]).max(0).values,
        "product": unit[0] * unit[1] * unit[2],
    }
    for how, expected in ways.items():
        actual = cs.cam(tower, x, method="fused(layercam)", how=how, layers=layers, targets=2)
        close(actual, expected, to=1e-12, table=(f"fused {how}", "Tower", "paper"))
    refined = cs.cam(tower, x, method="refinecam", base="layercam", layers=layers, targets=2)
    close(refined, ways["product"], to=1e-12, table=("refinecam", "Tower", "paper"))
