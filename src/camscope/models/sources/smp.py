"""Segmentation networks of segmentation_models_pytorch: an architecture on an encoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from camscope.errors import ModelError, SettingError, nearest, require
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from camscope.models.sources.dense import class_maps
from camscope.models.sources.registry import source
from camscope.models.weight_names import ALL, KeyFilter
from camscope.models.weights import file_sha256, fill, read_weights

_ARCHITECTURES = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet"),
    *("segformer", "dpt"),
)
_ENCODERS = ("resnet34", "efficientnet-b0", "mobilenet_v2")
_SIDE = 512
_ASSUMED = (
    "weights of segmentation_models_pytorch do not say how images were normalised in training, so ImageNet's mean "
    "and std are assumed; set others with mean= and std="
)
_RESERVED = ("encoder_name", "encoder_weights", "classes", "activation", "aux_params")


def names() -> list[str]:
    """Return examples, three encoders per architecture: each architecture takes hundreds."""
    usual = [f"{architecture}/{encoder}" for architecture in _ARCHITECTURES[:-1] for encoder in _ENCODERS]
    return [*usual, "dpt/tu-vit_base_patch16_224"]


@source("smp", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    labels: Sequence[str] | None = None,
    keys: KeyFilter = ALL,
) -> Model:
    """Make a segmentation network, such as "unet/resnet34", with outputs (B, classes, h, w).

    One class is its logit: the network then has two maps, the background's and the class's.

    Args:
        name: architecture and encoder.
        weights: a file, or "none"; the package publishes none for whole networks.
        classes: number of maps; None: 1.
        input_size: (height, width), multiples of 32; None: 512 x 512.
        options: further keywords of the architecture, such as ``{"decoder_attention_type": "scse"}``.
        labels: class names; of one class both, the background first.
        keys: see ``fill``.

    Raises:
        ModelError: an unknown architecture or encoder, or no weights.
    """
    smp = require("segmentation_models_pytorch", f"smp:{name}", "smp")
    spec, (architecture, _, encoder) = f"smp:{name}", name.partition("/")
    if architecture not in _ARCHITECTURES or not encoder:
        problem = nearest("architecture of smp", architecture, _ARCHITECTURES)
        raise ModelError(f"{problem}; expected ARCHITECTURE/ENCODER, such as smp:unet/resnet34")
    if reserved := [key for key in options if key in _RESERVED]:
        raise SettingError(f"{reserved[0]} is not for options: the name, weights= and classes= set it")
    if weights == "default":
        raise ModelError(
            f"{spec} has no published weights: pass weights=FILE with those of your training, or weights='none' for "
            "random ones"
        )
    parameters = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture]).parameters
    if unknown := [
        key for key in options if key not in parameters or parameters[key].kind is inspect.Parameter.VAR_KEYWORD
    ]:
        raise SettingError(
            nearest(f"option of {architecture}", unknown[0], [key for key in parameters if key != "kwargs"])
        )
    count = classes or 1
    if count == 1 and labels is not None and len(labels) == 1:
        raise SettingError(f"{spec} with one class also has its background: give two labels, the background first")
    net = _built(smp, architecture, encoder, count, options)
    facts, sha256 = {}, None
    if isinstance(weights, Path):
        facts = {"assumed": _ASSUMED, **fill(net, read_weights(weights), origin=str(weights), keys=keys)}
        sha256 = file_sha256(weights)
    preprocess = _preprocess(int(options.get("in_channels", 3)))
    return Model(
        spec,
        SegmentationMaps(net),
        preprocess=preprocess if input_size is None else preprocess.at(input_size),
        labels=("background", "foreground") if count == 1 else (),
        facts=facts,
        recipe=Recipe(spec, classes=count, options=dict(options), weights=str(weights), sha256=sha256),
    )


class SegmentationMaps(nn.Module):
    """A segmentation network: (B, C, h, w) images -> logits (B, classes, h, w), for one class also the background.

    Args:
        model: of segmentation_models_pytorch.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, classes, h, w)."""
        height, width = pictures.shape[-2:]
        return class_maps(self.model(pictures), (height, width))


def _built(smp: Any, architecture: str, encoder: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Return a network with random weights."""
    try:
        net: nn.Module = smp.create_model(architecture, encoder, encoder_weights=None, classes=classes, **options)
    except KeyError as error:
        encoders = [*smp.encoders.get_encoder_names(), *_ENCODERS]
        raise ModelError(nearest("encoder of smp", encoder, encoders)) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"smp cannot build {architecture}/{encoder} with options {dict(options)}: {error}") from error
    return net


def _preprocess(channels: int) -> Preprocess:
    """Return ImageNet's normalisation, which most encoders were pretrained with, on the whole image."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return Preprocess(input_size=(_SIDE, _SIDE), mean=mean, std=std, fit="pad", interpolation="bilinear")
