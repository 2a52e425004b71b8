"""What methods must agree on for certain heads: exact in theory, so 1e-12 in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from camscope.explanation import cam
from camscope.methods import METHODS
from camscope.targets import contrast

TARGETS = [3, 1]
POOLED = {
    "resnet18": "layer4",
    "densenet121": "relu()",
    "convnext_tiny": "features",
    "small swin": "norm",
    "pooled": "5",
    "pooled, then any function": "0",
}
SIGNED = ("convnext_tiny", "small swin", "pooled, then any function")


@pytest.fixture
def find(shared_net):
    def make(name):
        if name != "pooled, then any function":
            return shared_net(name)
        torch.manual_seed(0)
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 5)]
        return nn.Sequential(nn.Conv2d(3, 6, 3, 4), *head).double()

    return make


@pytest.mark.parametrize("name", POOLED)
def test_after_pooling_three_methods_are_one(name, find, pictures, close):
    """a. Tail = h(GAP(A)) for any h."""
    net, x = find(name), pictures(2, 3, 64, 64)
    gradcam, hirescam, xgradcam = (
        cam(net, x, method=m, layer=POOLED[name], targets=TARGETS) for m in ("gradcam", "hirescam", "xgradcam")
    )
    assert (gradcam.flatten(1).amax(1) > gradcam.flatten(1).amin(1)).all()
    close(hirescam, gradcam, to=1e-12)
    close(xgradcam, gradcam, to=1e-9 if name in SIGNED else 1e-12)


@pytest.mark.parametrize(("name", "layer"), [("vgg11", "features.19"), ("plain", "3"), ("vit_tiny", "blocks.11.norm1")])
def test_without_pooling_they_differ(name, layer, shared_net, pictures):
    """Otherwise the test above would prove nothing."""
    x = pictures(2, 2, 12, 12) if name == "plain" else pictures(2, 3, 64, 64)
    gradcam, hirescam, xgradcam = (
        cam(shared_net(name), x, method=m, layer=layer, targets=TARGETS) for m in ("gradcam", "hirescam", "xgradcam")
    )
    for one, other in ((gradcam, hirescam), (gradcam, xgradcam), (hirescam, xgradcam)):
        assert (one - other).abs().max() > 0.01 * one.abs().max()


@pytest.fixture
def linear(shared_net, pictures):
    """b. Tail = GAP + Linear(W, b): two networks with their parts, (net, layer, x, A, W, b, y)."""

    def parts(name):
        net = shared_net(name)
        layer, head = {"pooled": ("5", 8), "resnet18": ("layer4", None)}[name]
        x = pictures(2, 3, 64, 64)
        seen = []
        handle = net.get_submodule(layer).register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
        y = net(x).detach()
        handle.remove()
        fc = net.fc if head is None else net[head]
        return net, layer, x, seen[0], fc.weight.detach(), fc.bias.detach(), y

    return parts


@pytest.mark.parametrize("name", ["pooled", "resnet18"])
def test_after_pooling_and_one_linear_layer(name, linear, close):
    net, layer, x, A, W, b, y = linear(name)
    B, K, h, w = A.shape
    Z = h * w

    def run(method, **options):
        return cam(net, x, **{"method": method, "layer": layer, "targets": TARGETS, **options})

    the_cam = torch.stack([sum(W[c, k] * A[i, k] for k in range(K)) for i, c in enumerate(TARGETS)])
    close(Z * run("gradcam"), the_cam, to=1e-12)
    explained = torch.stack([y[i, c] - b[c] for i, c in enumerate(TARGETS)])
    close(run("gradcam").sum((1, 2)), explained, to=1e-12)
    positive = torch.stack([sum(W[c, k].relu() * A[i, k] / Z for k in range(K)) for i, c in enumerate(TARGETS)])
    close(run("layercam"), positive, to=1e-12)
    weights = torch.stack([W[c] * A[i].mean((1, 2)) / y[i, c].abs() for i, c in enumerate(TARGETS)])
    close(run("ablationcam"), torch.einsum("bk,bkij->bij", weights, A), to=1e-10)
    difference = torch.stack([sum((W[c, k] - W[0, k]) * A[i, k] for k in range(K)) for i, c in enumerate(TARGETS)])
    close(Z * run("gradcam", targets=[contrast(c, 0) for c in TARGETS]), difference, to=1e-12)
    if "cam" in METHODS:
        close(run("cam"), the_cam, to=1e-12)
    if "reciprocam" in METHODS:
        biases = b[TARGETS].reshape(B, 1, 1)
        close(run("reciprocam"), the_cam / Z + biases, to=1e-10)
    if "shapleycam" in METHODS:
        close(run("shapleycam"), run("gradcam"), to=1e-12)
    if "finercam" in METHODS:
        for alpha in (0.0, 0.7):
            finer = run("finercam", alpha=alpha, comparisons=1)
            rows = []
            for i, c in enumerate(TARGETS):
                others = [d for d in range(W.shape[0]) if d != c]
                d = min(others, key=lambda d, i=i, c=c: abs(float(y[i, d] - y[i, c])))
                rows.append(torch.einsum("k,kij->ij", (W[c] - alpha * W[d]) / Z, A[i]))
            close(finer, torch.stack(rows), to=1e-12)


def test_flatten_and_linear_hirescam_is_complete_and_gradcam_is_not(shared_net, pictures, close):
    """d. Tail = flatten + Linear."""
    net, x = shared_net("plain"), pictures(2, 2, 12, 12)
    y, b = net(x).detach(), net[5].bias.detach()
    explained = torch.stack([y[i, c] - b[c] for i, c in enumerate(TARGETS)])
    total = cam(net, x, method="hirescam", layer="3", targets=TARGETS).sum((1, 2))
    close(total, explained, to=1e-12)
    other = cam(net, x, method="gradcam", layer="3", targets=TARGETS).sum((1, 2))
    assert ((other - explained).abs() > 0.01 * explained.abs()).all()
    A = net[:4](x).detach()
    W = net[5].weight.detach().reshape(5, *A.shape[1:])
    expected = torch.stack([(W[c] * A[i]).sum(0) for i, c in enumerate(TARGETS)])
    close(cam(net, x, method="hirescam", layer="3", targets=TARGETS), expected, to=1e-12)


def test_layer_norm_after_pooling_gradcam_adds_up_to_eps(pictures, close):
    """c. Tail = GAP + LayerNorm(gamma, beta) + Linear: the map's sum is eps / sigma^2 (y - b - W beta)."""
    torch.manual_seed(0)
    x = pictures(2, 3, 32, 32)
    for eps in (1e-2, 1e-12):
        norm, fc = nn.LayerNorm(8, eps=eps), nn.Linear(8, 5)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, fc).double()
        L = cam(net, x, layer="0", targets=TARGETS)
        F = net[:3](x).detach()
        sigma2 = F.var(1, correction=0) + eps
        mu, sigma = F.mean(1, keepdim=True), sigma2.sqrt()[:, None]
        Fh = (F - mu) / sigma
        y = net(x).detach()
        rows, sums = [], []
        for i, c in enumerate(TARGETS):
            v = (norm.weight * fc.weight[c]).detach()
            A = net[0](x).detach()[i]
            alpha = (v - v.mean() - Fh[i] * (v * Fh[i]).mean()) / (A[0].numel() * sigma[i])
            rows.append(torch.einsum("k,kij->ij", alpha, A))
            level = y[i, c] - fc.bias[c].detach() - (fc.weight[c] * norm.bias).sum().detach()
            sums.append(eps / sigma2[i] * level)
        close(L, torch.stack(rows), to=1e-12)
        if eps > 1e-6:
            close(L.sum((1, 2)), torch.stack(sums), to=1e-10)
        else:
            assert (L.sum((1, 2)).abs() < 1e-9 * L.abs().sum((1, 2))).all()
