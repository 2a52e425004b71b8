"""The same maps from other libraries, where they implement the same formula: pytorch-grad-cam and captum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camscope.explanation import cam

TARGETS = [3, 1]
METHODS = {"gradcam": "GradCAM", "hirescam": "HiResCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM"}
LAYERS = {
    "resnet18": "layer4",
    "vgg11": "features.19",
    "densenet121": "relu()",
    "convnext_tiny": "features",
    "vit_tiny": "blocks.11.norm1",
    "small swin": "norm",
}
RECTIFIED = ("resnet18", "vgg11", "densenet121")


class Opened(nn.Module):
    """A DenseNet whose last ReLU is a module, so that libraries with module hooks see what the pooling consumes."""

    def __init__(self, net):
        super().__init__()
        self.features, self.relu, self.classifier = net.features, nn.ReLU(), net.classifier

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.relu(self.features(x)), 1).flatten(1))


@pytest.fixture(scope="module")
def opened(shared_net):
    """A network and the module that a peer is to hook."""

    def find(name):
        net = shared_net(name)
        if name == "densenet121":
            net = Opened(net)
            return net, net.relu
        return net, net.get_submodule(LAYERS[name])

    return find


@pytest.fixture
def x(pictures):
    return pictures(2, 3, 64, 64)


def as_grid(name):
    if name == "vit_tiny":
        return lambda output: output[:, 1:].transpose(1, 2).reshape(len(output), -1, 4, 4)
    if name == "small swin":
        return lambda output: output.permute(0, 3, 1, 2)
    return None


def by_pytorch_grad_cam(method, net, module, x, *, reshape=None):
    """The library's map on the layer's grid, before its ReLU and before it is scaled."""
    library = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed: pip install grad-cam")
    targets = [library.utils.model_targets.ClassifierOutputTarget(t) for t in TARGETS]
    with getattr(library, METHODS[method])(net, [module], reshape_transform=reshape) as peer:
        peer(x.clone(), targets)
        seen = peer.activations_and_grads
        activations, gradients = seen.activations[0].numpy(), seen.gradients[0].numpy()
        L = peer.get_cam_image(x, module, targets, activations, gradients, eigen_smooth=False)
    net.zero_grad(set_to_none=True)
    return torch.as_tensor(L)


@pytest.mark.parametrize(
    ("name", "method"), [(n, m) for n in LAYERS for m in METHODS if m != "xgradcam" or n in RECTIFIED]
)
def test_pytorch_grad_cam(name, method, opened, shared_net, x, close):
    net, module = opened(name)
    expected = by_pytorch_grad_cam(method, net, module, x, reshape=as_grid(name))
    result = cam(shared_net(name), x, method=method, layer=LAYERS[name], targets=TARGETS)
    assert (result.flatten(1).amax(1) > result.flatten(1).amin(1)).all(), "a flat map proves nothing"
    # It adds 1e-7 to S_k: seen on rectified activations, and enough to spoil signed ones, whose sums may cancel.
    close(result, expected, to=1e-6 if method == "xgradcam" else 1e-10, table=(method, name, "pytorch-grad-cam"))


def test_pytorch_grad_cam_sees_the_wrong_tensor_of_densenet(shared_net, x):
    """Hooked at ``features`` it reads activations that a ReLU overwrote, with a gradient from before it."""
    net = shared_net("densenet121")
    theirs = {method: by_pytorch_grad_cam(method, net, net.features, x) for method in ("gradcam", "hirescam")}
    ours = {method: cam(net, x, method=method, layer="relu()", targets=TARGETS) for method in theirs}
    size = ours["gradcam"].abs().max()
    assert (theirs["gradcam"] - ours["gradcam"]).abs().max() > 0.05 * size
    # On a pooled network the two methods are one: theirs disagree there, ours do not.
    assert (theirs["gradcam"] - theirs["hirescam"]).abs().max() > 0.05 * size
    assert (ours["gradcam"] - ours["hirescam"]).abs().max() < 1e-12 * size


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121", "convnext_tiny"])
def test_captum(name, opened, shared_net, x, close):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed: pip install captum")
    net, module = opened(name)
    expected = attr.LayerGradCam(net, module).attribute(x.clone(), target=TARGETS, relu_attributions=False)[:, 0]
    result = cam(shared_net(name), x, layer=LAYERS[name], targets=TARGETS)
    net.zero_grad(set_to_none=True)
    close(result, expected, to=1e-10, table=("gradcam", name, "captum"))
