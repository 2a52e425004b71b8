"""Heads after pooling, on real architectures: one method under three names, and what a layer norm makes of it.

float64, to 1e-12 (XGrad-CAM on signed activations 1e-9).
"""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import camscope as cs

EXACT, SIGNED = 1e-12, 1e-9
INDEX = 3

POOLED = {  # maker, layer that the pooling consumes, signed activations
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), "layer4", False),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=5), "relu()", False),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=5), "features", True),
    "legacy_xception": (lambda: timm.create_model("legacy_xception", num_classes=5), "act4", False),
}
CONVNEXT = {
    "convnext_tiny": (
        lambda: torchvision.models.convnext_tiny(num_classes=5),
        "features",
        lambda net: (net.classifier[0], net.classifier[2]),
    ),
    "convnext_atto": (
        lambda: timm.create_model("convnext_atto", num_classes=5),
        "stages",
        lambda net: (net.head.norm, net.head.fc),
    ),
}


def made(make) -> nn.Module:
    """Random weights, and layer norms and biases that do something."""
    torch.manual_seed(0)
    net = make().double().eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(0.3 * torch.randn_like(module.weight))
                module.bias.add_(0.3 * torch.randn_like(module.bias))
            elif isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.add_(torch.randn_like(module.bias))
    return net


def pictures(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mapped(net: nn.Module, layer: str, x: Tensor, *methods: str, **settings: object) -> list[Tensor]:
    return [cs.cam(net, x, method=method, layer=layer, targets=INDEX, **settings) for method in methods]


class Tail(nn.Module):
    """A convolution, then the head that the test wants."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 7, 5, 4), nn.ReLU())
        self.head = nn.Sequential(*head)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class AttentionPooling(nn.Module):
    """A mean whose weights the activations choose."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(7, 1, 1)

    def forward(self, A: Tensor) -> Tensor:
        return (A * self.look(A).flatten(2).softmax(2).reshape(len(A), 1, *A.shape[2:])).flatten(2).sum(2)


@pytest.mark.parametrize("name", ["efficientnet_b0", "legacy_xception"])
def test_pooled_networks_have_one_method_under_three_names(name, close):
    make, layer, signed = POOLED[name]
    net, x = made(make), pictures()
    grad, hires, xgrad = mapped(net, layer, x, "gradcam", "hirescam", "xgradcam")
    close(hires, grad, to=EXACT)
    close(xgrad, grad, to=SIGNED if signed else EXACT)


def test_attention_pooling_tells_the_three_apart():
    net = Tail(AttentionPooling(), nn.Linear(7, 5))
    maps = mapped(net, "features", pictures(21), "gradcam", "hirescam", "xgradcam")
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (maps[one] - maps[other]).abs().max() > 0.01 * maps[one].abs().max()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "legacy_xception"])
def test_the_completeness_residual_of_one_linear_layer_is_nothing(name, close):
    make, layer, _ = POOLED[name]
    net, x = made(make), pictures()
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    for one in mapped(net, layer, x, "hirescam", "gradcam"):
        close(one.flatten(1).sum(1), net(x)[:, INDEX] - last.bias[INDEX], to=EXACT)


def test_finercam_of_several_classes_is_cam_of_their_difference(close):
    net, x = Tail(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5)), pictures(21)
    alpha, W, rows = 0.7, net.head[2].weight, []
    for A, y in zip(net.features(x), net(x), strict=True):
        others = sorted((d for d in range(5) if d != INDEX), key=lambda d, y=y: abs(float((y[d] - y[INDEX]).detach())))
        weights = y[others[:3]].softmax(0)[:, None]
        contrast = W[INDEX] - alpha * (weights * W[others[:3]]).sum(0)
        rows.append(torch.einsum("k,kij->ij", contrast, A) / 25)
    close(*mapped(net, "features", x, "finercam", alpha=alpha), torch.stack(rows), to=EXACT)


@pytest.fixture(scope="module", params=list(CONVNEXT))
def convnext(request):
    """A ConvNeXt, its layer, images, and what its formulas need."""
    make, layer, parts = CONVNEXT[request.param]
    net, x = made(make), pictures()
    norm, last = parts(net)
    forward = cs.record(net, x, layers=[layer])
    A = forward.records[layer].detach()
    F = A.flatten(2).mean(2)
    mu, variance = F.mean(1, keepdim=True), F.var(1, correction=0, keepdim=True)
    sigma = (variance + norm.eps).sqrt()
    level = (forward.outputs[:, INDEX] - last.bias[INDEX] - last.weight[INDEX] @ norm.bias).detach()
    v = (norm.weight * last.weight[INDEX]).detach()
    return net, layer, x, {"A": A, "Fh": (F - mu) / sigma, "sigma": sigma, "level": level, "eps": norm.eps, "v": v}


def test_weights_of_a_normed_head(convnext, close):
    net, layer, x, s = convnext
    trace = cs.record(net, x, layers=[layer]).trace(layer, [cs.targets.category(INDEX)] * 2)
    alpha, Z = trace.gradients.flatten(2).mean(2), s["A"][0, 0].numel()
    expected = (s["v"] - s["v"].mean() - s["Fh"] * (s["v"] * s["Fh"]).mean(1, keepdim=True)) / (Z * s["sigma"])
    close(alpha, expected, to=EXACT)
    assert float(alpha.sum(1).abs().max() / alpha.abs().sum(1).max()) < EXACT


def test_gradcams_map_of_a_normed_head_sums_to_nearly_nothing(convnext):
    """eps / sigma^2 of the score: all that is left of the level."""
    net, layer, x, s = convnext
    (grad,) = mapped(net, layer, x, "gradcam")
    total = grad.flatten(1).sum(1)
    expected = s["eps"] / s["sigma"].flatten() ** 2 * s["level"]
    assert float((total - expected).abs().max() / grad.abs().flatten(1).sum(1).max()) < EXACT
    assert float((total.abs() / s["level"].abs()).max()) < 1e-3


def test_the_sum_is_exact_where_eps_counts(close):
    """To twelve digits of the sum itself, and 0 without eps."""
    for eps in (0.5, 0.0):
        norm = nn.LayerNorm(7, eps=eps)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        net, x = Tail(nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.Linear(7, 5)), pictures(21)
        variance = net.features(x).flatten(2).mean(2).var(1, correction=0)
        level = net(x)[:, INDEX] - net.head[3].bias[INDEX] - net.head[3].weight[INDEX] @ norm.bias
        (grad,) = mapped(net, "features", x, "gradcam")
        if eps:
            close(grad.flatten(1).sum(1), eps / (variance + eps) * level, to=EXACT)
        else:
            assert float(grad.flatten(1).sum(1).abs().max()) < EXACT * float(grad.abs().sum())


def test_frozennormcam_keeps_the_level(convnext, close):
    net, layer, x, s = convnext
    (frozen,) = mapped(net, layer, x, "frozennormcam")
    close(frozen.flatten(1).mean(1), s["level"], to=EXACT)
    per_cell = torch.einsum("k,bkij->bij", s["v"], s["A"] - _mean(s["A"])) / s["sigma"][:, :, None]
    close(frozen, per_cell, to=EXACT)


def _mean(A: Tensor) -> Tensor:
    return A.flatten(2).mean(2).mean(1)[:, None, None, None]
