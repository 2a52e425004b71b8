"""Detectors of torchvision as networks with one output tensor: boxes with scores."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from camscope.models.preprocess import Preprocess
from camscope.models.sources.dense import box_rows
from camscope.trace.boxes import NEVER
from camscope.trace.layer_path import JOINT


class TorchvisionDetector(nn.Module):
    """A detector: (B, 3, h, w) images -> (B, boxes, 6): left, top, right, bottom, log-odds of the score, class.

    The network is a copy of the detector without its preprocessing, which shares all other parts. The detector returns
    probabilities p, and the score is log p / (1 - p): the logit of a sigmoid, or for a softmax the class against all
    others. Probabilities are clamped to [1e-6, 1 - 1e-6]. Rows after an image's last box have the class -1 and the
    lowest score. Corners are in pixels of the input. Gradients of scores reach the backbone.

    Args:
        net: a detector of ``torchvision.models.detection``.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = copy.copy(net)  # with the same parts except for the changed one
        transform = copy.deepcopy(net.transform)
        transform.image_mean, transform.image_std = [0.0], [1.0]
        self.net._modules = {**net._modules, "transform": transform}

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (B, boxes, 6), the best box of each image first."""
        self._take_as_it_is(pictures)
        outputs = self.net(list(pictures))
        kind = pictures.dtype
        return box_rows(
            [
                (output["boxes"].to(kind), torch.logit(output["scores"], eps=NEVER).to(kind), output["labels"])
                for output in outputs
            ]
        )

    def _take_as_it_is(self, pictures: Tensor) -> None:
        """Set the detector's resizing to the size of the input."""
        height, width = pictures.shape[-2:]
        transform = self.net.transform
        transform.min_size, transform.max_size = (min(height, width),), max(height, width)
        if transform.fixed_size is not None:
            transform.fixed_size = (width, height)


def preprocess_of(net: Any) -> Preprocess:
    """Return what a detector of torchvision does to images, in its own square: the whole image, black beside it."""
    transform = net.transform
    mean, std = tuple(transform.image_mean), tuple(transform.image_std)
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return Preprocess(input_size=(height, width), mean=mean, std=std, fit="squash", interpolation="bilinear")
    side = transform.min_size[-1]
    return Preprocess(input_size=(side, side), mean=mean, std=std, fit="pad", interpolation="bilinear")


def layer_of(net: Any) -> str:
    """Return the levels of the pyramid that boxes come from, by their names in ``TorchvisionDetector``.

    What is computed from the coarsest level alone is left out, and all maps of an SSD come from its first.
    """
    pyramid = getattr(net.backbone, "fpn", None)
    if pyramid is None:
        several = isinstance(net.backbone.features[0], nn.Sequential)
        return "net.backbone.features.0" if several else "net.backbone.features"
    levels = [f"layer_blocks.{i}" for i in range(len(pyramid.layer_blocks))]
    if not getattr(pyramid.extra_blocks, "use_P5", True):
        levels.append("extra_blocks.p6")
    return JOINT.join(f"net.backbone.fpn.{level}" for level in levels)
