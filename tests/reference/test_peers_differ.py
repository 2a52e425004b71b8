"""Where other libraries differ from the paper, measured: each test holds their formula against the paper's.

A test that fails because a library has been put right is good news: move it to test_peers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import camscope as cs

grad_cam = pytest.importorskip("pytorch_grad_cam")
torchcam = pytest.importorskip("torchcam.methods")

INDEX = 2


def network(*, scale: float = 1.0, bend: nn.Module | None = None, same_size: bool = False) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    first, size = (nn.Conv2d(3, 6, 3, padding=1), 10) if same_size else (nn.Conv2d(3, 6, 3, 2), 21)
    net = nn.Sequential(first, bend or nn.ReLU(), nn.Flatten(), nn.Linear(600, 12), nn.Tanh(), nn.Linear(12, 5))
    with torch.no_grad():
        net[5].weight.mul_(scale)
    return net.double().eval(), torch.randn(1, 3, size, size, dtype=torch.float64)


def ours(net: nn.Module, x: Tensor, method: str, **settings: object) -> Tensor:
    return cs.cam(net, x, method=method, layer="1", targets=INDEX, **settings).relu()


def traced(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    trace = cs.record(net, x, layers=["1"]).trace("1", [cs.targets.category(INDEX)] * len(x))
    return trace.activations, trace.gradients


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference of two maps that are each scaled to a largest value of 1."""
    return float((one / one.max() - other / other.max()).abs().max())


def combine(weights: Tensor, A: Tensor) -> Tensor:
    return torch.einsum("bk,bkij->bij", weights, A).relu()


@pytest.fixture
def theirs(monkeypatch):
    monkeypatch.setattr(grad_cam.base_cam, "scale_cam_image", lambda cam, target_size=None: cam)

    def make(name: str, net: nn.Module, x: Tensor, **settings: object) -> Tensor:
        target = grad_cam.utils.model_targets.ClassifierOutputTarget(INDEX)
        return torch.from_numpy(getattr(grad_cam, name)(net, [net[1]], **settings)(x, [target]))

    return make


def torch_cam(name: str, net: nn.Module, x: Tensor, **settings: object) -> Tensor:
    with getattr(torchcam, name)(net, "1", input_shape=tuple(x.shape[1:]), **settings) as extractor:
        return extractor(INDEX, net(x), normalized=False)[0].relu().detach()


def test_torch_cams_gradcampp_does_not_divide(close):
    """Its division acts on a copy: what it computes is sum g^2 R(g)."""
    net, x = network()
    A, g = traced(net, x)
    close(torch_cam("GradCAMpp", net, x), combine((g**2 * g.relu()).sum((2, 3)), A), to=1e-9)
    assert distance(torch_cam("GradCAMpp", net, x), ours(net, x, "gradcampp")) > 0.01


def test_pytorch_grad_cams_gradcampp_adds_what_swamps_the_gradient(theirs, close):
    """1e-6 in a denominator of the order of g^2: right for large gradients, wrong for small ones."""
    net, x = network(scale=100)
    close(theirs("GradCAMPlusPlus", net, x), ours(net, x, "gradcampp"), to=1e-4)
    net, x = network(scale=1e-3)
    A, g = traced(net, x)
    al = g**2 / (2 * g**2 + A.sum((2, 3), keepdim=True) * g**3 + 1e-6)
    close(theirs("GradCAMPlusPlus", net, x), combine((al * g.relu()).sum((2, 3)), A), to=1e-9)
    assert distance(theirs("GradCAMPlusPlus", net, x), ours(net, x, "gradcampp")) > 0.01


def test_torch_cams_smooth_gradcampp_ends_with_the_last_sample(close):
    """Averages over all copies, but the last copy's gradient and activations in the sum; and S_k inside the mean."""
    net, x = network()
    samples, deviation = 4, 0.3
    torch.manual_seed(0)
    noise = [deviation * torch.randn_like(x) for _ in range(samples)]
    A, _ = traced(net, x)
    copies = [traced(net, x + one) for one in noise]
    g = torch.stack([gradient for _, gradient in copies])
    D2, D3 = (g**2).mean(0), (g**3).mean(0)
    drawn = iter(noise)
    with torchcam.SmoothGradCAMpp(net, "1", input_shape=(3, 21, 21), num_samples=samples, std=deviation) as extractor:
        extractor._distrib = type("Given", (), {"sample": lambda _, __: next(drawn)})()
        net(x)
        theirs = extractor(INDEX, normalized=False)[0].relu().detach()
    al = D2 / (2 * D2 + (D3 * A).sum((2, 3), keepdim=True) + 1e-8)
    close(theirs, combine((al * g[-1].relu()).sum((2, 3)), copies[-1][0]), to=1e-9)
    al = D2 / (2 * D2 + A.sum((2, 3), keepdim=True) * D3)
    assert distance(theirs, combine((al * g.mean(0).relu()).sum((2, 3)), A)) > 0.1


def test_torch_cams_iscam_adds_up_its_coefficient(close):
    """0.1, 0.3, 0.6 ... 5.5 where the paper has 0.1, 0.2 ... 1."""
    net, x = network(scale=20, same_size=True)
    A, _ = traced(net, x)
    low, high = A.amin((2, 3), keepdim=True), A.amax((2, 3), keepdim=True)
    masked = x * ((A - low) / (high - low))[0][:, None]
    coefficients = np.cumsum(np.arange(1, 11) / 10)
    assert coefficients[-1] == pytest.approx(5.5)
    with torch.no_grad():
        scores = sum(net(c * masked)[:, INDEX] for c in coefficients) / 10
    theirs = torch_cam("ISCAM", net, x)
    close(theirs, combine(scores.softmax(0)[None], A), to=1e-6)
    assert distance(theirs, ours(net, x, "iscam")) > 0.01


def test_pytorch_grad_cams_ablation_overwrites_with_a_number_of_its_own(close):
    """It sets a channel to min - 1e7 where activations are negative: far from any image."""
    net, x = network(bend=nn.GELU())
    layer = grad_cam.ablation_layer.AblationLayer()
    A, _ = traced(net, x)
    assert A.min() < 0
    layer.set_next_batch(0, A.float(), 1)
    layer.indices = [4]
    assert float(layer(None)[0, 4].max()) < -9e6
    ablated = []
    for k in range(6):
        changed = A.clone()
        changed[:, k] = 0
        ablated.append(net[2:](changed)[0, INDEX])
    y = net(x)[0, INDEX]
    weights = ((y - torch.stack(ablated)) / y.abs()).detach()[None]
    close(ours(net, x, "ablationcam"), combine(weights, A), to=1e-9)


def test_pytorch_grad_cams_fem_weights_by_the_share_of_strong_cells(theirs, close):
    """sum mean(B_k) A_k, where the authors of FEM have sum mean(A_k) B_k."""
    net, x = network()
    A, _ = traced(net, x)
    B = A.gt(A.mean((2, 3), keepdim=True) + 2 * A.std((2, 3), correction=0, keepdim=True)).double()
    close(theirs("FEM", net, x), combine(B.mean((2, 3)), A), to=1e-9)
    close(ours(net, x, "fem"), combine(A.mean((2, 3)), B), to=1e-9)
    assert distance(theirs("FEM", net, x), ours(net, x, "fem")) > 0.1


@pytest.mark.parametrize(("method", "name"), [("eigengradcam", "EigenGradCAM"), ("segeigencam", "SegEigenCAM")])
def test_pytorch_grad_cams_eigen_methods_centre(method, name, theirs, close):
    """Eigen-CAM's paper does not centre; a centred map adds up to 0 and is half negative by construction."""
    net, x = network()
    A, g = traced(net, x)
    X = ((g if method == "eigengradcam" else g.abs()) * A)[0].flatten(1).T
    X = X - X.mean(0)
    row = X @ torch.linalg.svd(X)[2][0]
    reference = theirs(name, net, x).double()
    centred = [one.reshape(1, 10, 10).relu() for one in (row, -row)]
    close(min(centred, key=lambda one: float((one - reference).abs().max())), reference, to=1e-5)
    assert distance(reference, ours(net, x, method)) > 0.01


def test_pytorch_grad_cams_finercam_differentiates_its_weights(close):
    """The softmax weights of the other classes get a gradient of their own; held constant, CAM's identity is kept."""
    net, x = network()
    reference = torch.from_numpy(_finer(net, x))
    y = net(x)[0]
    index = int(y.argmax())
    others = (y - y[index]).abs().argsort()[1:4].tolist()

    def moving(output: Tensor) -> Tensor:
        weights = output[others].softmax(0)
        return output[index] - (weights * output[others]).sum()

    close(cs.cam(net, x, layer="1", targets=moving).relu(), reference, to=1e-6)
    held = cs.cam(net, x, method="finercam", layer="1").relu()
    assert distance(held, reference) > 0.01


def _finer(net: nn.Module, x: Tensor) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grad_cam.base_cam, "scale_cam_image", lambda cam, target_size=None: cam)
        return grad_cam.FinerCAM(net, [net[1]])(x)
