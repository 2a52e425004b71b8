"""Image classifiers of torchvision."""

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
from camscope.models.sources.registry import source
from camscope.models.weights import file_sha256, fill, read_weights

# The published weights of these two expect the input normalised once more inside the network. Their makers' other
# initialisation takes a minute and is overwritten anyway.
_DEFAULTS = {name: {"transform_input": True, "init_weights": False} for name in ("inception_v3", "googlenet")}


def names() -> list[str]:
    """Every image classifier of torchvision."""
    from torchvision import models

    return list(models.list_models(module=models))


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

    Preprocessing and class names are those of the published weights.
    """
    from torchvision import models

    spec = f"torchvision:{name}"
    architecture, _, tag = name.partition(".")
    if architecture not in names():
        raise ModelError(nearest("torchvision model", architecture, names()))
    reserved = [key for key in options if key in ("num_classes", "weights", "weights_backbone")]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: load has weights= and classes= for that")
    choices = models.get_model_weights(architecture)
    if tag and tag not in choices.__members__:
        known = [f"{architecture}.{member}" for member in choices.__members__]
        raise ModelError(nearest("torchvision model", name, known))
    entry = choices[tag] if tag else choices.DEFAULT
    categories = tuple(entry.meta["categories"] or ())
    keywords = {**_DEFAULTS.get(architecture, {}), **options}
    if classes is not None:
        keywords["num_classes"] = classes
    try:
        net = models.get_model(architecture, weights=None, **keywords)
    except (TypeError, ValueError) as error:
        raise ModelError(f"torchvision cannot build {architecture} with options {dict(options)}: {error}") from error
    sha256 = None
    if weights == "default":
        fill(net, _with_own_head(_published(spec, entry), net, len(categories), classes), origin=str(entry))
    elif isinstance(weights, Path):
        fill(net, _modern(read_weights(weights)), origin=str(weights))
        sha256 = file_sha256(weights)
    outputs = classes or len(categories) or 1000
    recipe = Recipe(spec, classes=outputs, options=dict(options), weights=str(weights), sha256=sha256)
    preprocess = _preprocess(entry.transforms())
    return Model(
        spec,
        net,
        preprocess=preprocess if input_size is None else preprocess.at(input_size),
        labels=categories if len(categories) == outputs else (),
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
    """DenseNet's published files have names with a dot ("norm.1") that modules cannot have any more ("norm1")."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    if not any(old.search(name) for name in state):
        return state
    return {old.sub(r"\1\2", name): tensor for name, tensor in state.items()}


def _with_own_head(
    state: dict[str, torch.Tensor], net: torch.nn.Module, published: int, classes: int | None
) -> dict[str, torch.Tensor]:
    """For another number of classes than the published one the head stays as the network was made."""
    if classes is None or classes == published:
        return state
    own = net.state_dict()
    heads = [k for k, v in state.items() if v.shape[:1] == (published,) and own[k].shape[:1] == (classes,)]
    return {**state, **{k: own[k] for k in heads}}


def _preprocess(preset: Any) -> Preprocess:
    """Torchvision's evaluation preset as ours."""
    return Preprocess(
        input_size=(preset.crop_size[0], preset.crop_size[-1]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=(preset.resize_size[0], preset.resize_size[-1]),
        interpolation=preset.interpolation.value,
    )
