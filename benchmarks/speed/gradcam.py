"""Grad-CAM of a batch, from the tensor to maps of the image's size, beside a plain forward and the peers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rounds import rounds
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCam

import camscope as cs
from camscope.heatmap import upsample
from camscope.models.engines import prepare

# The peers must be told a layer; of DenseNet they can name none that has the last ReLU behind it.
CNNS = {
    "torchvision:resnet50": "layer4",
    "torchvision:vgg16": "features.29",
    "torchvision:densenet121": "features",
    "timm:convnext_base": "stages",
    "timm:legacy_xception": "act4",
}
VITS = ("timm:vit_small_patch16_224", "timm:swin_tiny_patch4_window7_224")
BACKENDS: dict[str, dict[str, str]] = {
    "eager": {"engine": "eager"},
    "openvino": {"engine": "openvino"},
    "eager, bfloat16": {"engine": "eager", "precision": "bfloat16"},
    "openvino, bfloat16": {"engine": "openvino", "precision": "bfloat16"},
}
BATCH, SIDE = 8, 224
Contender = Callable[[], Any]


def cnns(number: int) -> dict[str, Any]:
    """Every engine and peer on every network."""
    return {spec: one(spec, peer_layer=layer, number=number) for spec, layer in CNNS.items()}


def vits(number: int) -> dict[str, Any]:
    """Every engine on two transformers."""
    return {spec: one(spec, number=number) for spec in VITS}


def one(spec: str, *, peer_layer: str = "", number: int) -> dict[str, Any]:
    """One network: the ratio of everything to the plain forward, and the seconds that engines took to prepare."""
    model = cs.load(spec, weights="none")
    plain = copy.deepcopy(model.net).to(memory_format=torch.contiguous_format)
    x = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    classes = list(range(BATCH))
    layer = cs.default_layer(model.net, x)
    contenders: dict[str, Contender] = {"forward": lambda: forward(plain, x)}
    prepared = {}
    for name, options in BACKENDS.items():
        start = time.perf_counter()
        ready = prepare(model.net, x, layer=layer, **options)
        prepared[name] = {"seconds": time.perf_counter() - start, "note": ready.note}
        if ready.agreement is not None:
            prepared[name]["correlation"] = ready.agreement.correlation
        contenders[name] = lambda options=options: ours(plain, x, classes, **options)
    prepare(plain, x, layer=layer, engine="openvino")  # from the cache
    if peer_layer:
        contenders |= peers(plain, x, classes, layer=peer_layer)
    timed = rounds(contenders, base="forward", number=number)
    for name, figures in timed.items():
        figures |= {"prepared" if key == "seconds" else key: value for key, value in prepared.get(name, {}).items()}
    return {"layer": layer, **timed}


def forward(net: nn.Module, x: Tensor) -> Tensor:
    """What classifying costs."""
    with torch.inference_mode():
        return net(x)


def ours(net: nn.Module, x: Tensor, classes: list[int], **options: str) -> Tensor:
    """Maps (B, H, W) at the size of the input."""
    return upsample(cs.cam(net, x, targets=classes, **options).relu(), x.shape[2:])


def peers(net: nn.Module, x: Tensor, classes: list[int], *, layer: str) -> dict[str, Contender]:
    """The same maps by pytorch-grad-cam and torch-cam, each on a copy of the network, which they change."""
    first, second = copy.deepcopy(net), copy.deepcopy(net)
    grad_cam = GradCAM(first, [first.get_submodule(layer)])
    torch_cam = TorchCam(second, target_layer=layer)
    targets = [ClassifierOutputTarget(index) for index in classes]

    def by_torch_cam() -> Tensor:
        (maps,) = torch_cam(classes, second(x))
        return F.interpolate(maps[:, None], size=x.shape[2:], mode="bilinear", align_corners=False)

    return {"pytorch-grad-cam": lambda: grad_cam(input_tensor=x, targets=targets), "torch-cam": by_torch_cam}


def many_classes(number: int) -> dict[str, Any]:
    """14 classes from one forward beside one class (densenet121)."""
    model = cs.load("torchvision:densenet121", weights="none", classes=14)
    x = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    contenders = {
        "one class": lambda: upsample(cs.cams(model.net, x, targets=[[0]] * BATCH).relu(), (SIDE, SIDE)),
        "14 classes": lambda: upsample(cs.cams(model.net, x, targets=[[*range(14)]] * BATCH).relu(), (SIDE, SIDE)),
    }
    return rounds(contenders, base="one class", number=number)


def mean_ratio(results: dict[str, Any], contender: str, base: str = "forward") -> float:
    """Geometric mean over the networks of contender / base."""
    ratios = [figures[contender]["ratio"] / figures[base]["ratio"] for figures in results.values()]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
