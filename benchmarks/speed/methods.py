"""Methods that cost many passes, or a decomposition, beside pytorch-grad-cam's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import AblationCAM, FullGrad, GradCAM, ScoreCAM
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from rounds import rounds

import camscope as cs
from camscope.heatmap import upsample
from camscope.targets import category
from camscope.trace import record

SIDE = 224


def quick(number: int) -> dict[str, Any]:
    """What takes seconds."""
    return _timed(["Eigen-CAM step", "EigenGrad-CAM step", "augmentation smoothing", "FullGrad"], number)


def slow(name: str) -> dict[str, Any]:
    """What takes the peer minutes: one round."""
    return _timed([name], 1)


def _timed(names: list[str], number: int) -> dict[str, Any]:
    """Each on resnet50, one image."""
    torch.manual_seed(0)
    net = cs.load("torchvision:resnet50", weights="none").net
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    x = torch.randn(1, 3, SIDE, SIDE)
    target = [ClassifierOutputTarget(3)]

    def ours(method: str, **settings: Any) -> Any:
        return lambda: upsample(cs.cam(net, x, method=method, targets=3, **settings).relu(), (SIDE, SIDE))

    def theirs(method: type, **settings: Any) -> Any:
        maker = method(copy.deepcopy(plain), [], **settings) if method is FullGrad else None
        own = copy.deepcopy(plain)
        maker = maker or method(own, [own.layer4], **settings)
        return lambda: maker(input_tensor=x, targets=target)

    smooth = copy.deepcopy(plain)
    grad_cam = GradCAM(smooth, [smooth.layer4])
    pairs = {
        "Ablation-CAM": (ours("ablationcam"), theirs(AblationCAM, ablation_layer=AblationLayer())),
        "Score-CAM": (ours("scorecam"), theirs(ScoreCAM)),
        "FullGrad": (ours("fullgrad"), theirs(FullGrad)),
        "augmentation smoothing": (
            ours("augmented(gradcam)"),
            lambda: grad_cam(input_tensor=x, targets=target, aug_smooth=True),
        ),
        **_decompositions(net, x),
    }
    found = {}
    for name in names:
        mine, other = pairs[name]
        contenders = {"camscope": mine, "pytorch-grad-cam": other}
        found[name] = rounds(contenders, base="camscope", number=number, warm_up=min(number - 1, 1))
        print(name, round(found[name]["pytorch-grad-cam"]["ratio"], 2), flush=True)
    return found


def _decompositions(net: torch.nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """The step after the pass alone: activations (times gradients) in, map out."""
    trace = record(net, x.repeat(8, 1, 1, 1), layers=["layer4"]).trace("layer4", [category(3)] * 8)
    values = trace.activations.numpy()
    weighted = (trace.activations * trace.gradients).numpy()
    return {
        "Eigen-CAM step": (lambda: cs.METHODS["eigencam"](trace), lambda: get_2d_projection(np.array(values))),
        "EigenGrad-CAM step": (
            lambda: cs.METHODS["eigengradcam"](trace),
            lambda: get_2d_projection(np.array(weighted)),
        ),
    }


def road(number: int) -> dict[str, Any]:
    """ROAD, both orders, the same shares of pixels."""
    torch.manual_seed(0)
    net = cs.load("torchvision:resnet50", weights="none").net
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    x = torch.randn(1, 3, SIDE, SIDE)
    maps = upsample(cs.cam(net, x, targets=3).relu(), (SIDE, SIDE))
    metric = ROADCombined(percentiles=[10, 20, 30, 40, 50, 60, 70, 80, 90])

    def score(inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return net(inputs).softmax(1)[:, 3]

    contenders = {
        "camscope": lambda: cs.METRICS["road"](maps, x, score),
        "pytorch-grad-cam": lambda: metric(x, maps.numpy(), [ClassifierOutputSoftmaxTarget(3)], plain),
    }
    return rounds(contenders, base="camscope", number=number)
