"""Image classifiers, segmentation networks and detectors of torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from camscope.errors import ModelError, SettingError, nearest
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import Preprocess
from camscope.models.published import out_of_reach, reachable, torch_cache
from camscope.models.sources import torchvision_boxes
from camscope.models.sources.registry import source
from camscope.models.weights import file_sha256, fill, read_weights

# The published weights of these two expect the input normalised once more inside the network. Their makers' other
# initialisation takes a minute and is overwritten anyway.
_DEFAULTS = {name: {"transform_input": True, "init_weights": False} for name in ("inception_v3", "googlenet")}
_SECOND = "aux_classifier."


def names() -> list[str]:
    """Every network of torchvision for single pictures."""
    from torchvision import models

    return [name for module in (models, *_dense()) for name in models.list_models(module=module)]


def _dense() -> tuple[Any, Any]:
    """The modules of networks with more than one score a class: maps and boxes."""
    from torchvision import models

    return models.segmentation, models.detection


@source("torchvision", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> Model:
    """A network of torchvision; ``resnet50.IMAGENET1K_V1`` names one of its published weights.

    Preprocessing and class names are those of the published weights. A segmentation network's outputs are maps of
    scores (B, classes, h, w), a detector's are boxes (see ``Boxes``); both see the whole picture, with a margin.
    """
    from torchvision import models

    spec = f"torchvision:{name}"
    architecture, _, tag = name.partition(".")
    if architecture not in names():
        raise ModelError(nearest("torchvision model", architecture, names()))
    reserved = [key for key in options if key in ("num_classes", "weights", "weights_backbone", "aux_loss")]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: load has weights= and classes= for that")
    choices = models.get_model_weights(architecture)
    if tag and tag not in choices.__members__:
        known = [f"{architecture}.{member}" for member in choices.__members__]
        raise ModelError(nearest("torchvision model", name, known))
    entry = choices[tag] if tag else choices.DEFAULT
    categories = tuple(entry.meta["categories"] or ())
    dense = [architecture in models.list_models(module=module) for module in _dense()]
    keywords = {**_DEFAULTS.get(architecture, {}), **({"weights_backbone": None} if any(dense) else {}), **options}
    if architecture.startswith("vit_"):  # their position embeddings are of one size, that of the weights
        keywords.setdefault("image_size", entry.meta["min_size"][0])
    if classes is not None:
        keywords["num_classes"] = classes
    try:
        net = models.get_model(architecture, weights=None, **keywords)
    except (TypeError, ValueError) as error:
        raise ModelError(f"torchvision cannot build {architecture} with options {dict(options)}: {error}") from error
    sha256 = None
    if weights == "default":
        fill(net, _with_own_head(_published(spec, entry), net), origin=str(entry))
    elif isinstance(weights, Path):
        fill(net, _modern(read_weights(weights)), origin=str(weights))
        sha256 = file_sha256(weights)
    outputs = classes or len(categories) or 1000
    recipe = Recipe(spec, classes=outputs, options=dict(options), weights=str(weights), sha256=sha256)
    is_detector = dense[1]
    preprocess = torchvision_boxes.preprocess_of(net) if is_detector else preprocess_of(entry.transforms())
    return Model(
        spec,
        torchvision_boxes.Boxes(net) if is_detector else net,
        preprocess=preprocess if input_size is None else preprocess.at(input_size),
        labels=categories if len(categories) == outputs else (),
        layer=torchvision_boxes.layer_of(net) if is_detector else None,
        outcome="boxes" if is_detector else "one",
        recipe=recipe,
    )


def _published(spec: str, entry: Any) -> dict[str, torch.Tensor]:
    """Download or read from the cache."""
    file = Path(urlsplit(entry.url).path).name
    absent = out_of_reach(spec, file)
    if not (torch_cache() / file).is_file() and not reachable(entry.url):
        raise absent
    try:
        return _modern(entry.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise absent from error
    except RuntimeError as error:
        raise ModelError(f"the published weights of {spec} arrived damaged: remove {torch_cache() / file}") from error


def _modern(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as networks have them now.

    DenseNet's published files have names with a dot ("norm.1") that modules cannot have any more ("norm1"). The second
    head of a segmentation network is of use in training alone.
    """
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    if not any(old.search(name) or name.startswith(_SECOND) for name in state):
        return state
    return {old.sub(r"\1\2", name): tensor for name, tensor in state.items() if not name.startswith(_SECOND)}


def _with_own_head(state: dict[str, torch.Tensor], net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """For another number of classes than the published one the head stays as the network was made."""
    own = net.state_dict()
    heads = [k for k, v in state.items() if k in own and v.shape != own[k].shape and v.shape[1:] == own[k].shape[1:]]
    return {**state, **{k: own[k] for k in heads}}


def preprocess_of(preset: Any) -> Preprocess:
    """Torchvision's evaluation preset as ours; one that cuts nothing, for segmentation, sees the whole picture."""
    mean, std, interpolation = tuple(preset.mean), tuple(preset.std), preset.interpolation.value
    resize = (preset.resize_size[0], preset.resize_size[-1])
    if not hasattr(preset, "crop_size"):
        return Preprocess(input_size=resize, mean=mean, std=std, fit="pad", interpolation=interpolation)
    size = (preset.crop_size[0], preset.crop_size[-1])
    return Preprocess(input_size=size, mean=mean, std=std, resize=resize, interpolation=interpolation)
