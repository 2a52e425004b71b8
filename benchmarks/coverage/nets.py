"""The networks of the coverage benchmark: where they come from, and how each is made with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
_VIT = {**_SMALL, "image_size": 96, "patch_size": 16}
_VISION = {"vision_config": {**_VIT, "projection_dim": 32}}
_KEEP_OWN = 260
"""Pixels a side up to which a network gets images of its own size."""

HUGGING_FACE: dict[str, dict[str, Any]] = {
    "beit": {**_VIT, "use_relative_position_bias": True},
    "bit": {"depths": [2, 2, 2, 2]},
    "clip": _VISION,
    "convnext": {"hidden_sizes": [24, 48, 96, 192], "depths": [1, 1, 2, 1]},
    "convnextv2": {"hidden_sizes": [24, 48, 96, 192], "depths": [1, 1, 2, 1]},
    "cvt": {"embed_dim": [32, 64, 96], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "dinov2": {**_SMALL, "image_size": 98, "patch_size": 14},
    "dinov2_with_registers": {**_SMALL, "image_size": 98, "patch_size": 14},
    "donut-swin": {"image_size": 224, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "efficientnet": {"image_size": 224, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "focalnet": {"embed_dim": 24, "depths": [1, 1, 2, 1]},
    "hgnet_v2": {},
    "hiera": {"embed_dim": 24, "depths": [1, 2, 3, 1], "num_heads": [1, 2, 4, 8]},
    "ijepa": _VIT,
    "levit": {},
    "metaclip_2": _VISION,
    "mobilenet_v1": {"depth_multiplier": 0.5},
    "mobilenet_v2": {"depth_multiplier": 0.5},
    "mobilevit": {},
    "mobilevitv2": {"image_size": 224},
    "poolformer": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "pp_lcnet": {},
    "pvt": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "num_attention_heads": [1, 2, 3, 4]},
    "pvt_v2": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "num_attention_heads": [1, 2, 3, 4]},
    "regnet": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "groups_width": 16},
    "resnet": {"hidden_sizes": [64, 128, 192, 256], "depths": [1, 1, 2, 1]},
    "segformer": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "siglip": _VISION,
    "swiftformer": {},
    "swin": {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "swinv2": {"image_size": 256, "window_size": 8, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "textnet": {"image_size": 224},
    "vit": _VIT,
    "vit_msn": _VIT,
}
"""Family of Hugging Face's image classifiers -> a small configuration of it."""

KERAS = [
    "ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2", "InceptionV3",
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetLarge", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16",
    "Xception",
]  # fmt: skip
"""The smallest member of each family of keras.applications, and the larger NASNet: Keras refuses the smaller."""


@dataclass(frozen=True)
class Case:
    """A network to try.

    Attributes:
        group: the source: "timm", "torchvision", "segmentation", "detection", "hf" or "keras".
        family: what it is a member of.
        name: of the architecture.
        make: makes the network, in eval mode, and one image (1, C, H, W) for it.
    """

    group: str
    family: str
    name: str
    make: Callable[[], tuple[nn.Module, Tensor]]


def picture(channels: int, size: tuple[int, int]) -> Tensor:
    """Smooth shapes and noise, about as bright and as varied as a normalised photograph."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, channels, max(2, size[0] // 16), max(2, size[1] // 16), generator=draw)
    smooth = nn.functional.interpolate(coarse, size, mode="bilinear")
    return smooth + 0.2 * torch.randn(1, channels, *size, generator=draw)


def timm_parameters() -> dict[str, int]:
    """Every architecture of timm -> its number of parameters, counted without making them."""
    import timm

    counted = {}
    for name in timm.list_models():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counted[name] = sum(p.numel() for p in timm.create_model(name).parameters())
    return counted


def timm_family(name: str) -> str:
    """The module of timm that makes an architecture."""
    import timm

    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def timm_models(parameters: dict[str, int], *, whole: bool, largest: int) -> Iterator[Case]:
    """One architecture of each family, the smallest; or all, the smallest first."""
    seen = set()
    for name in sorted(parameters, key=lambda one: (parameters[one], one)):
        family = timm_family(name)
        if parameters[name] <= largest and (whole or family not in seen):
            yield Case("timm", family, name, lambda name=name: _timm(name))  # type: ignore[misc]
        seen.add(family)


def _timm(name: str) -> tuple[nn.Module, Tensor]:
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = timm.create_model(name).eval()
    cfg = net.pretrained_cfg
    channels, height, width = cfg["input_size"]
    if not cfg.get("fixed_input_size") and max(height, width) > _KEEP_OWN:
        smallest = cfg.get("min_input_size") or (channels, 224, 224)
        height, width = (max(224, side) for side in smallest[1:])
    return net, picture(channels, (height, width))


def torchvision_models(module: str) -> Iterator[Case]:
    """Every model of a module of torchvision, the smallest first: "models", "segmentation" or "detection"."""
    from torchvision import models

    def parameters(name: str) -> int:
        return int(next(iter(models.get_model_weights(name))).meta["num_params"])

    group = "torchvision" if module == "models" else module
    listed = models.list_models(module=models if module == "models" else getattr(models, module))
    for name in sorted(listed, key=parameters):
        yield Case(group, name, name, lambda name=name: _torchvision(name, group))  # type: ignore[misc]


def _torchvision(name: str, group: str) -> tuple[nn.Module, Tensor]:
    from torchvision import models

    options: dict[str, Any] = {} if group == "torchvision" else {"weights_backbone": None}
    if name in ("inception_v3", "googlenet"):
        options = {"init_weights": False}
    if name.startswith("vit_"):  # made for one size of pictures: the smallest that there are weights for
        options["image_size"] = min(entry.meta["min_size"][0] for entry in models.get_model_weights(name))
    net = models.get_model(name, weights=None, **options).eval()
    size = 224
    if group == "detection":
        size = (net.transform.fixed_size or (size,))[0]
        net = _finding(net)
    if group == "torchvision":
        crop = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        # Attention over a fixed number of places takes images of its own size alone.
        size = crop if crop <= _KEEP_OWN or name.startswith(("maxvit", "inception")) else 224
        size = options.get("image_size", size)
    return net, picture(3, (size, size))


def _finding(net: Any) -> nn.Module:
    """A detector that finds boxes with random weights too, whose scores are below its threshold."""
    from camscope.models.sources.torchvision_boxes import TorchvisionDetector

    for part in (net, getattr(net, "roi_heads", None)):
        if hasattr(part, "score_thresh"):
            part.score_thresh = 0.0
    return TorchvisionDetector(net).eval()


def hugging_face_models() -> Iterator[Case]:
    """A small network of each family of Hugging Face."""
    for family in HUGGING_FACE:
        yield Case("hf", family, family, lambda family=family: _hugging_face(family))  # type: ignore[misc]


def _hugging_face(family: str) -> tuple[nn.Module, Tensor]:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    config = transformers.AutoConfig.for_model(family, **HUGGING_FACE[family])
    config.num_labels = 10
    classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[family]
    net = getattr(transformers, classes if isinstance(classes, str) else classes[0])(config).eval()
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", 224)
    size = size if isinstance(size, int) else size[0]
    return net, picture(getattr(config, "num_channels", 3) or 3, (size, size))


def keras_models() -> Iterator[Case]:
    """The smallest network of each family of keras.applications."""
    for name in KERAS:
        yield Case("keras", name, name, lambda name=name: _keras(name))  # type: ignore[misc]


def _keras(name: str) -> tuple[nn.Module, Tensor]:
    import camscope as cs

    # Of its own 331 pixels a side NASNetLarge keeps 16 GB.
    model = cs.load(f"keras:{name}", weights="none", input_size=224 if name == "NASNetLarge" else None)
    pixels = picture(3, model.preprocess.input_size).sigmoid()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.preprocess.mean, model.preprocess.std))
    return model.net, (pixels - mean) / std
