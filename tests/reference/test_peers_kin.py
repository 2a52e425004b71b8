"""More methods of other libraries, where they have the paper right: pytorch-grad-cam, torch-cam, captum.

Their maps are rectified, so ours are too; pytorch-grad-cam's upsampling and scaling to [0, 1] are taken off.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import camscope as cs
from camscope.methods.noise import content_seeds, normal

grad_cam = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed: pip install grad-cam")
torchcam = pytest.importorskip("torchcam.methods", reason="torch-cam is not installed: pip install torchcam")

INDEX = 2


def network(*, same_size: bool = False) -> tuple[nn.Module, Tensor]:
    """A head that bends and weighs every cell differently; layer '1', as large as the image if wanted."""
    torch.manual_seed(3)
    first, size = (nn.Conv2d(3, 6, 3, padding=1), 10) if same_size else (nn.Conv2d(3, 6, 3, 2), 21)
    net = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(600, 12), nn.Tanh(), nn.Linear(12, 5))
    return net.double().eval(), torch.randn(1, 3, size, size, dtype=torch.float64)


def ours(net: nn.Module, x: Tensor, method: str, **settings: object) -> Tensor:
    return cs.cam(net, x, method=method, layer="1", targets=INDEX, **settings).relu()


@pytest.fixture
def theirs(monkeypatch):
    """A map of pytorch-grad-cam as it is before scaling."""
    monkeypatch.setattr(grad_cam.base_cam, "scale_cam_image", lambda cam, target_size=None: cam)

    def make(name: str, net: nn.Module, x: Tensor, **settings: object) -> Tensor:
        cam = getattr(grad_cam, name)(net, [net[1]], **settings)
        target = grad_cam.utils.model_targets.ClassifierOutputTarget(INDEX)
        maps = torch.from_numpy(cam(x, [target]))
        cam.activations_and_grads.gradients = []  # or its destructor warns
        return maps

    return make


@pytest.mark.parametrize(
    ("method", "name"), [("gradcamelementwise", "GradCAMElementWise"), ("shapleycam", "ShapleyCAM")]
)
def test_pytorch_grad_cam(method, name, theirs, close):
    net, x = network()
    close(ours(net, x, method), theirs(name, net, x), to=1e-9, table=(method, "bent head", "pytorch-grad-cam"))


def test_pytorch_grad_cams_kernel_pca(theirs, close):
    """Its sign is scikit-learn's, and the largest value of either is positive; single precision."""
    net, x = network()
    settings = {"kernel": "rbf", "gamma": 0.1}
    reference = theirs("KPCA_CAM", net, x, **settings)
    table = ("kpcacam", "bent head", "pytorch-grad-cam")
    close(ours(net, x, "kpcacam", **settings), reference, to=1e-6, table=table)


def test_pytorch_grad_cams_factorisation(close):
    """One concept: the best approximation of rank 1, which both must find, near enough."""
    from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff

    net, x = network()
    with torch.no_grad():
        A = net[:2](x)
    A[:, :, 0, 0] = 0  # the offset that it takes off is then 0
    _, maps = dff(A.numpy().copy(), n_components=1)
    trace = cs.record(net, x, layers=["1"], edits={"1": lambda _: A}).trace("1", [cs.targets.category(0)])
    mine, reference = cs.METHODS["dff"](trace, concepts=1), torch.from_numpy(maps[:, 0])
    table = ("dff", "bent head", "pytorch-grad-cam")
    close(mine / mine.max(), reference / reference.max(), to=1e-3, table=table)


def torch_cam(name: str, net: nn.Module, x: Tensor, **settings: object) -> Tensor:
    with getattr(torchcam, name)(net, "1", input_shape=tuple(x.shape[1:]), **settings) as extractor:
        return extractor(INDEX, net(x), normalized=False)[0].relu().detach()


@pytest.mark.parametrize(
    ("method", "name", "to"),
    [
        ("gradcam", "GradCAM", 1e-9),
        ("layercam", "LayerCAM", 1e-9),
        ("xgradcam", "XGradCAM", 1e-6),  # it adds 1e-8 to S_k
    ],
)
def test_torch_cam(method, name, to, close):
    net, x = network()
    close(ours(net, x, method), torch_cam(name, net, x), to=to, table=(method, "bent head", "torch-cam"))


def test_torch_cams_cam(close):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).double()
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    close(ours(net, x, "cam"), torch_cam("CAM", net, x, fc_layer="4"), to=1e-12, table=("cam", "pooled", "torch-cam"))


def test_torch_cams_scorecam(close):
    """On a layer as large as the picture: torch-cam scales masks before upsampling, the paper after it."""
    net, x = network(same_size=True)
    table = ("scorecam", "bent head", "torch-cam")
    close(ours(net, x, "scorecam"), torch_cam("ScoreCAM", net, x), to=1e-6, table=table)


def test_torch_cams_sscam(close, monkeypatch):
    """With the same noise."""
    net, x = network(same_size=True)
    seed, samples, deviation = content_seeds(x)[0], 3, 0.5
    drawn = iter(range(samples))

    def sample(shape: torch.Size) -> Tensor:
        n = next(drawn)
        return deviation * normal([seed + n * 6 + k for k in range(6)], shape[2:], like=x)[None]

    with torchcam.SSCAM(net, "1", input_shape=(3, 10, 10), num_samples=samples, std=deviation) as extractor:
        monkeypatch.setattr(extractor._distrib, "sample", sample)
        reference = extractor(INDEX, net(x), normalized=False)[0].relu()
    mine = ours(net, x, "sscam", samples=samples, noise=deviation)
    close(mine, reference, to=1e-6, table=("sscam", "bent head", "torch-cam"))


def test_captums_gradient_times_activation(close):
    """Summed over the channels it is HiResCAM."""
    attr = pytest.importorskip("captum.attr", reason="captum is not installed: pip install captum")
    net, x = network()
    reference = attr.LayerGradientXActivation(net, net[1]).attribute(x, target=INDEX)
    mine = cs.cam(net, x, method="hirescam", layer="1", targets=INDEX)
    close(mine, reference.sum(1), to=1e-9, table=("hirescam", "bent head", "captum"))
