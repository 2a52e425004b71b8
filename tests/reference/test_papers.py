"""Each method written down naively from its paper: loops in float64 over plain arrays, and autograd all the way.

The networks are taken apart by hand, so that nothing of the library takes part on this side.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camscope.explanation import cam

TARGETS = [3, 1]


@dataclass(frozen=True)
class Split:
    """A network cut in two at its layer.

    Attributes:
        layer: the layer's name.
        before: (net, images) -> the layer's output, and what leads around it.
        after: (net, layer's output, what leads around it) -> scores.
        grid: the layer's output -> (B, K, h, w).
    """

    layer: str
    before: Callable[[Any, Tensor], tuple[Tensor, Any]]
    after: Callable[[Any, Tensor, Any], Tensor]
    grid: Callable[[Tensor], Tensor] = lambda output: output


def resnet_stem(net, x, last):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4)[:last]:
        x = stage(x)
    return x, None


def vit_before(net, x):
    x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
    for block in net.blocks[:-1]:
        x = block(x)
    return net.blocks[-1].norm1(x), x


def vit_after(net, A, x):
    block = net.blocks[-1]
    x = x + block.attn(A)
    x = x + block.mlp(block.norm2(x))
    return net.head(net.fc_norm(net.norm(x)[:, 0]))


def unfold_tokens(output):
    tokens = output[:, 1:]
    side = round(tokens.shape[1] ** 0.5)
    return torch.stack([tokens[:, i * side + j] for i in range(side) for j in range(side)], 2).reshape(
        len(output), -1, side, side
    )


SPLITS = {
    "resnet18": Split(
        "layer4",
        lambda net, x: resnet_stem(net, x, 4),
        lambda net, A, _: net.fc(A.mean((2, 3))),
    ),
    "vgg11": Split(
        "features.19",
        lambda net, x: (net.features[:20](x), None),
        lambda net, A, _: net.classifier(net.avgpool(F.max_pool2d(A, 2)).flatten(1)),
    ),
    "densenet121": Split(
        "relu()",
        lambda net, x: (net.features(x).clamp(min=0), None),
        lambda net, A, _: net.classifier(A.mean((2, 3))),
    ),
    "convnext_tiny": Split(
        "features",
        lambda net, x: (net.features(x), None),
        lambda net, A, _: net.classifier(A.mean((2, 3), keepdim=True)),
    ),
    "vit_tiny": Split("blocks.11.norm1", vit_before, vit_after, unfold_tokens),
    "small swin": Split(
        "norm",
        lambda net, x: (net.norm(net.features(x)), None),
        lambda net, A, _: net.head(A.mean((1, 2))),
        lambda output: output.permute(0, 3, 1, 2),
    ),
}
SCORED = {
    "small vit": Split("blocks.2.norm1", vit_before, vit_after, unfold_tokens),
    "small resnet": Split(
        "layer3",
        lambda net, x: (net.layer3(net.layer2(net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(x))))))), None),
        lambda net, A, _: net.fc(net.layer4(A).mean((2, 3))),
    ),
}


def two_pictures() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@dataclass
class Seen:
    """One image of one network: what the papers' formulas are made of."""

    A: np.ndarray  # (K, h, w)
    g: np.ndarray  # (K, h, w)
    y: float
    ablated: Callable[[int], float]
    masked: Callable[[int], float]


@pytest.fixture(scope="module")
def see(shared_net):
    """Look at one of the two images of a network, for its class; once for all methods."""

    @functools.cache
    def look(name: str, image: int) -> Seen:
        split, target = (SPLITS | SCORED)[name], TARGETS[image]
        x = two_pictures()[image]
        net = shared_net(name)
        picture = x[None].clone().requires_grad_()
        record, around = split.before(net, picture)
        record.retain_grad()
        scores = split.after(net, record, around)
        torch.testing.assert_close(scores, net(x[None]), rtol=1e-10, atol=1e-12)
        scores[0, target].backward()
        assert picture.grad.any(), "the graph reaches the image"
        A, g = (split.grid(t)[0].detach().numpy().copy() for t in (record, record.grad))
        net.zero_grad(set_to_none=True)

        @torch.no_grad()
        def ablated(k: int) -> float:
            changed = record.clone()
            split.grid(changed)  # The same shape of grid, but possibly a copy: the channel is found by its axis.
            axis = [i for i, n in enumerate(changed.shape) if i > 0 and n == len(A)][-1 if changed.ndim == 3 else 0]
            where = changed.movedim(axis, 1)
            (where[:, k, 1:] if changed.ndim == 3 else where[:, k])[...] = 0
            return float(split.after(net, changed, around)[0, target])

        @torch.no_grad()
        def masked(k: int) -> float:
            up = F.interpolate(torch.from_numpy(A[k])[None, None], size=x.shape[1:], mode="bilinear")[0, 0]
            spread = up.max() - up.min()
            up = (up - up.min()) / spread if spread > 0 else torch.zeros_like(up)
            return float(net((x * up)[None])[0, target])

        return Seen(A, g, float(scores[0, target].detach()), ablated, masked)

    return look


def weighted_sum(weights, A):
    L = np.zeros(A.shape[1:])
    for k in range(len(A)):
        L += weights[k] * A[k]
    return L


def cells(A):
    return itertools.product(range(A.shape[1]), range(A.shape[2]))


def gradcam(s: Seen) -> np.ndarray:
    """Eq. 1 and 2 without the ReLU."""
    Z = s.A.shape[1] * s.A.shape[2]
    return weighted_sum([sum(s.g[k, i, j] for i, j in cells(s.A)) / Z for k in range(len(s.A))], s.A)


def gradcampp(s: Seen) -> np.ndarray:
    """Eq. 19 for the coefficients, eq. 5 for the weights; 0 where the derivative is."""
    weights = []
    for k in range(len(s.A)):
        S = sum(s.A[k, i, j] for i, j in cells(s.A))
        w = 0.0
        for i, j in cells(s.A):
            g = s.g[k, i, j]
            denominator = 2 * g**2 + S * g**3
            if g != 0 and abs(denominator / g**2) >= 1e-6:
                w += g**2 / denominator * max(g, 0.0)
        weights.append(w)
    return weighted_sum(weights, s.A)


def hirescam(s: Seen) -> np.ndarray:
    L = np.zeros(s.A.shape[1:])
    for k in range(len(s.A)):
        for i, j in cells(s.A):
            L[i, j] += s.g[k, i, j] * s.A[k, i, j]
    return L


def layercam(s: Seen) -> np.ndarray:
    """Eq. 6 to 8 without the last ReLU."""
    L = np.zeros(s.A.shape[1:])
    for k in range(len(s.A)):
        for i, j in cells(s.A):
            L[i, j] += max(s.g[k, i, j], 0.0) * s.A[k, i, j]
    return L


def xgradcam(s: Seen) -> np.ndarray:
    """Eq. 8; a channel without any activation has no weight."""
    weights = []
    for k in range(len(s.A)):
        S = sum(s.A[k, i, j] for i, j in cells(s.A))
        weights.append(sum(s.A[k, i, j] / S * s.g[k, i, j] for i, j in cells(s.A)) if S != 0 else 0.0)
    return weighted_sum(weights, s.A)


def eigencam(s: Seen) -> np.ndarray:
    """The first right singular vector of the cells x channels matrix, by a full decomposition."""
    X = np.array([[s.A[k, i, j] for k in range(len(s.A))] for i, j in cells(s.A)])
    _, _, Vt = np.linalg.svd(X, full_matrices=True)
    L = (X @ Vt[0]).reshape(s.A.shape[1:])
    return -L if L.sum() < 0 else L


def ablationcam(s: Seen) -> np.ndarray:
    return weighted_sum([(s.y - s.ablated(k)) / abs(s.y) for k in range(len(s.A))], s.A)


def scorecam(s: Seen) -> np.ndarray:
    """Eq. 5 to 8: the increase over a baseline that is the same for all channels, and so cancels in the softmax."""
    increase = np.array([s.masked(k) - s.y for k in range(len(s.A))])
    e = np.exp(increase - increase.max())
    return weighted_sum(e / e.sum(), s.A)


PAPERS = {f.__name__: f for f in (gradcam, gradcampp, hirescam, layercam, xgradcam, eigencam, ablationcam)}


def check(method, paper, name, split, shared_net, see, close, *, to):
    expected = np.stack([paper(see(name, image)) for image in range(2)])
    assert all(np.ptp(L) > 1e-3 * np.abs(L).max() for L in expected), "a flat map proves nothing"
    result = cam(shared_net(name), two_pictures(), method=method, layer=split.layer, targets=TARGETS)
    assert result.dtype == torch.float64
    close(result, expected, to=to, table=(method, name, "paper"))


@pytest.mark.parametrize("method", PAPERS)
@pytest.mark.parametrize("name", SPLITS)
def test_against_the_paper(name, method, shared_net, see, close):
    # Where activations are signed, S_k may nearly cancel, and one over it makes rounding visible.
    to = 1e-8 if method == "xgradcam" else 1e-10
    check(method, PAPERS[method], name, SPLITS[name], shared_net, see, close, to=to)


@pytest.mark.parametrize("name", SCORED)
def test_scorecam_against_the_paper(name, shared_net, see, close):
    check("scorecam", scorecam, name, SCORED[name], shared_net, see, close, to=1e-10)


def test_a_network_whose_right_map_is_known():
    """The class counts bright pixels of the left half twice, those of the right half not: shown to the digit."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 1, bias=False))
    net.double()
    weight = torch.zeros(2, 4, 4, dtype=torch.float64)
    weight[0, :, :2] = 2.0
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        net[3].weight.copy_(weight.reshape(1, -1))
    x = torch.arange(-8.0, 8.0, dtype=torch.float64).reshape(1, 1, 4, 4)
    right = torch.zeros(1, 4, 4, dtype=torch.float64)
    right[:, :, :2] = 2 * x[:, 0, :, :2].relu()
    assert torch.equal(cam(net, x, layer="1", method="hirescam"), right)
    assert torch.equal(cam(net, x, layer="1", method="layercam"), right)
    assert float(right.sum()) == float(net(x).detach())
    assert torch.equal(cam(net, x, layer="1", method="gradcam"), x[:, 0].relu())
