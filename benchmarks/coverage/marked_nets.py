"""Networks of many kinds, small and untrained, and inputs with a planted mark to train and explain them on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import masks_to_boxes

import camscope as cs
from camscope.explanation.recorded_layer import record_layer
from camscope.models.sources.hf_dense import Detector, Segmenter
from camscope.models.sources.torchvision_boxes import TorchvisionDetector

Explained = tuple[Tensor, str]
"""Maps (B, *grid) and the layer."""


@dataclass(frozen=True)
class Kind:
    """A kind of network with the inputs it is trained and tested on.

    Attributes:
        name: as in the table.
        make: returns the untrained network.
        space: (h, w) or (d, h, w) of its input.
        channels: of its input.
        loss: (network, inputs, classes (B,), masks (B, *space)) -> loss.
        steps: of training.
        explain: (network, inputs, classes) -> maps and layer; by default of `cs.cam`.
    """

    name: str
    make: Callable[[], nn.Module]
    space: tuple[int, ...] = (64, 64)
    channels: int = 3
    loss: Callable[..., Tensor] = lambda net, x, classes, masks: nn.functional.cross_entropy(net(x), classes)
    steps: int = 200
    explain: Callable[[nn.Module, Any, Tensor], Explained] = lambda net, x, classes: by_cam(net, x)


def marked(kind: Kind, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with one mark each: inputs (B, C, *space), classes (B,), and masks (B, *space) of where the mark is."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(count, kind.channels, *kind.space, generator=generator)
    classes = torch.randint(2, (count,), generator=generator)
    masks = torch.zeros(count, *kind.space, dtype=torch.bool)
    for i, label in enumerate(classes.tolist()):
        sides = [max(2, n // 4) for n in kind.space]
        free = [n - side + 1 for n, side in zip(kind.space, sides, strict=True)]
        starts = [int(torch.randint(n, (1,), generator=generator)) for n in free]
        masks[(i, *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)))] = True
        if kind.channels > 1:
            x[i, -label][masks[i]] += 3
        else:
            x[i, 0][masks[i]] += 3 if label else -3
    return x, classes, masks


def kinds() -> Iterator[Kind]:
    """All kinds, in the order of the table."""
    yield Kind("classifier", lambda: convolutional(3))
    yield Kind("detector, YOLOv8", yolo, loss=cells, explain=by_boxes)
    yield Kind("detector, YOLOS", yolos, loss=matched, explain=by_boxes)
    yield Kind("detector, FCOS", fcos, (128, 128), loss=its_own, explain=by_boxes)
    yield Kind("segmentation, U-Net", unet, loss=per_pixel, explain=by_regions)
    yield Kind("segmentation, SegFormer", segformer, (128, 128), loss=per_pixel, explain=by_regions)
    yield Kind("video, r3d_18", video, (8, 64, 64), steps=60)
    yield Kind("CT, thick slices", volume, (8, 64, 64), 1)
    yield Kind("text line, CRNN", Lines, (32, 128), 1)
    yield Kind("spectrogram", spectrogram, (64, 200), 1)
    yield Kind("Siamese, second input", Siamese, loss=paired, explain=by_second)
    yield Kind("ensemble, mean of two", Ensemble)
    yield Kind("two backbones, joined", Joined)
    yield Kind("channels last", ChannelsLast)
    yield Kind("ONNX file, occlusion", lambda: convolutional(3), explain=by_onnx)


def convolutional(channels: int, *, classes: int = 2) -> nn.Sequential:
    """Four convolutions, pooling, a linear layer."""
    return nn.Sequential(body(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def body(channels: int) -> nn.Sequential:
    """(B, channels, h, w) -> (B, 32, h / 8, w / 8)."""
    layers: list[nn.Module] = []
    for before, after, stride in ((channels, 16, 2), (16, 16, 2), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def spectrogram() -> nn.Sequential:
    """Strides of 4 in frequency and 8 in time."""
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 16, (2, 2)), (16, 16, (2, 2)), (16, 32, (1, 2))):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))


def volume() -> nn.Sequential:
    """A stride of 1 over slices, of 8 within them."""
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv3d(before, after, 3, (1, 2, 2), 1), nn.BatchNorm3d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 2))


def video() -> nn.Module:
    from torchvision.models.video import r3d_18

    return r3d_18(weights=None, num_classes=2)


class Lines(nn.Module):
    """Convolutions that take the height away, an LSTM over the width, a class of the whole line."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((1, 16, (2, 2)), (16, 32, (2, 2)), (32, 32, (2, 1)), (32, 32, (2, 1))):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.lstm = nn.LSTM(64, 32, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.features(x).flatten(1, 2).movedim(1, 2)
        return self.head(self.lstm(columns)[0].mean(1))


class Siamese(nn.Module):
    """One body for two images; their difference decides."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body(3)
        self.head = nn.Linear(32, 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        one, other = (self.body(x).mean((2, 3)) for x in (first, second))
        return self.head(other - one)


class Ensemble(nn.Module):
    """The mean of two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([convolutional(3), convolutional(3)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class Joined(nn.Module):
    """Two bodies, one of the red channel, whose pooled channels are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = body(1), body(2)
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.first(x[:, :1]).mean((2, 3)), self.second(x[:, 1:]).mean((2, 3))]
        return self.head(torch.cat(pooled, 1))


class ChannelsLast(nn.Module):
    """Layers (B, h, w, K), as of Swin and Keras."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, 8)
        parts = (nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.blocks = nn.ModuleList([nn.Sequential(*parts)])
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).movedim(1, 3)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x).mean((1, 2)))


def yolo() -> nn.Module:
    return cs.load("ultralytics:yolov8n", weights="none", labels=["red", "blue"], input_size=64).net


def yolos() -> nn.Module:
    import transformers as hf

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = hf.YolosConfig(num_detection_tokens=5, image_size=[64, 64], patch_size=8, num_labels=2, **sizes)
    return Detector(hf.YolosForObjectDetection(config), 2)


def fcos() -> nn.Module:
    """Of torchvision, on a pyramid of three levels with strides of 4, 8 and 16."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.fcos import FCOS, FCOSHead

    sides = ((3, 16), (16, 32), (32, 32), (32, 64))
    stages = nn.Sequential(*(_halved(before, after) for before, after in sides))
    levels = {"1": "0", "2": "1", "3": "2"}
    backbone = BackboneWithFPN(stages, levels, [32, 32, 64], 32)
    backbone.fpn.extra_blocks = None
    anchors = AnchorGenerator(sizes=((16,), (32,), (64,)), aspect_ratios=((1.0,),) * 3)
    head = FCOSHead(32, 1, 3, num_convs=1)
    shape = {"min_size": 128, "max_size": 128, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return TorchvisionDetector(FCOS(backbone, 3, anchor_generator=anchors, head=head, score_thresh=0.0, **shape))


def _halved(before: int, after: int) -> nn.Sequential:
    """A convolution with a stride of 2, its norm and its ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())


def unet() -> nn.Module:
    options = {"encoder_depth": 3, "decoder_channels": [64, 32, 16]}
    return cs.load(
        "smp:unet/resnet18", weights="none", input_size=64, labels=["rest", "red", "blue"], options=options
    ).net


def segformer() -> nn.Module:
    import transformers as hf

    sizes = {"hidden_sizes": [16, 32, 40, 64], "depths": [1] * 4, "decoder_hidden_size": 32}
    return Segmenter(hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**sizes, num_labels=3)))


def cells(net: nn.Module, x: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
    """YOLO's scores: the class of the mark at the cell of 8 x 8 pixels in its middle; its boxes stay where they are."""
    scores = net.model(x)["scores"]
    rows, columns = (masks.any(axis).float().argmax(1) // 8 + 1 for axis in (2, 1))
    wanted = torch.zeros_like(scores)
    wanted[torch.arange(len(x)), classes, rows * (x.shape[3] // 8) + columns] = 1
    return nn.functional.binary_cross_entropy_with_logits(scores, wanted, pos_weight=torch.tensor(20.0))


def matched(net: nn.Module, x: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
    """DETR's loss for one object: the query that fits best has its class and box, the others have none."""
    found = net.model(pixel_values=x)
    down, right = (masks.any(axis).float() for axis in (2, 1))
    low = [axis.argmax(1) / axis.shape[1] for axis in (right, down)]
    wide = [axis.mean(1) for axis in (right, down)]
    boxes = torch.stack([*(a + w / 2 for a, w in zip(low, wide, strict=True)), *wide], 1)
    away = (found.pred_boxes - boxes[:, None]).abs().sum(2)
    likelihood = found.logits.log_softmax(2).gather(2, classes.view(-1, 1, 1).expand(-1, found.logits.shape[1], 1))
    best = (5 * away - likelihood[:, :, 0]).argmin(1)
    wanted = torch.full(away.shape, 2)
    wanted[torch.arange(len(x)), best] = classes
    weights = torch.tensor([1.0, 1.0, 0.2])
    return nn.functional.cross_entropy(found.logits.mT, wanted, weights) + 5 * away.gather(1, best[:, None]).mean()


def its_own(net: nn.Module, x: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
    """The loss that torchvision's detectors return."""
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1
    wanted = [{"boxes": box[None], "labels": 1 + label[None]} for box, label in zip(boxes, classes, strict=True)]
    return sum(net.net(list(x), wanted).values())


def per_pixel(net: nn.Module, x: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
    """The class of each pixel; 0 is the rest."""
    return nn.functional.cross_entropy(net(x), masks * (1 + classes).view(-1, 1, 1))


def paired(net: nn.Module, x: Tensor, classes: Tensor, masks: Tensor) -> Tensor:
    """Beside noise."""
    return nn.functional.cross_entropy(net(0.3 * torch.randn_like(x), x), classes)


def by_cam(net: nn.Module, x: Any, **options: Any) -> Explained:
    """Maps of `cs.cam`, and the layer that it takes."""
    picture = options.get("picture")
    return cs.cam(net, x, **options), " + ".join(record_layer(net, x, picture=picture)[1].layers)


def by_boxes(net: nn.Module, x: Tensor, classes: Tensor) -> Explained:
    """Of the best box of the mark's class."""
    first = 1 if isinstance(net, TorchvisionDetector) else 0  # torchvision's class 0 is the background
    return by_cam(net, x, targets=[cs.targets.box(first + label) for label in classes.tolist()])


def by_regions(net: nn.Module, x: Tensor, classes: Tensor) -> Explained:
    """Of the pixels that the network gives to the mark's class."""
    return by_cam(net, x, targets=[cs.targets.region(1 + label) for label in classes.tolist()])


def by_second(net: nn.Module, x: Tensor, classes: Tensor) -> Explained:
    """Of the second of two inputs, where the mark is."""
    return by_cam(net, (0.3 * torch.randn_like(x), x), picture=1)


def by_onnx(net: nn.Module, x: Tensor, classes: Tensor) -> Explained:
    """Of the network as a file; its inputs are images of which 8 grey levels are a tenth of the noise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net, (x[:1],), path, dynamic_shapes=[{0: torch.export.Dim("batch")}], verbose=False)
        model = cs.load(path, mean=[0.4], std=[0.1])
        pictures = (x.movedim(1, 3) * 0.1 + 0.4).clamp(0, 1).numpy()
        explained = list(cs.explain_all(model, list(pictures)))
    return torch.stack([torch.from_numpy(e.grid) for e in explained]), explained[0].method
