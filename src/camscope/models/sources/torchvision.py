"""Image classifiers, segmentation networks, detectors and video classifiers of torchvision."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch

from camscope.errors import ModelError, SettingError, nearest
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import Preprocess
from camscope.models.pretrained import out_of_reach, reachable, torch_cache
from camscope.models.sources import torchvision_boxes
from camscope.models.sources.registry import source
from camscope.models.untrained import NEW_HEAD
from camscope.models.volume_preprocess import VolumePreprocess
from camscope.models.weight_names import ALL, KeyFilter, match
from camscope.models.weights import file_sha256, fill, read_weights

# The published weights of these two expect the input normalised once more inside the network. Their makers' other
# initialisation takes a minute and is overwritten anyway.
_DEFAULTS = {name: {"transform_input": True, "init_weights": False} for name in ("inception_v3", "googlenet")}
_FRAMES = 16  # of the clips that video networks were trained on
_OF_VIDEOS = (
    "the network is one of videos: slices are taken for frames, scaled as a whole to its input size, and normalised by "
    "their own mean and standard deviation, which is an assumption; pass preprocess=VolumePreprocess(...) as in the "
    "training"
)
_SECOND = "aux_classifier."
_POSITIONS = "encoder.pos_embedding"


def names() -> list[str]:
    """Return every network of torchvision for images and videos, but optical flow."""
    from torchvision import models

    return [name for module in (models, *_dense(), models.video) for name in models.list_models(module=module)]


def _dense() -> tuple[Any, Any]:
    """Return the modules of networks with more than one score per class: maps and boxes."""
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
    keys: KeyFilter = ALL,
) -> Model:
    """Return a network of torchvision; ``resnet50.IMAGENET1K_V1`` names one of its published weights.

    Preprocessing and class names are those of the published weights. A segmentation network's outputs are maps of
    scores (B, classes, h, w), a detector's are boxes (see ``Boxes``); both see the whole image, with a margin. A video
    network takes volumes, whose slices are its frames.
    """
    from torchvision import models

    spec = f"torchvision:{name}"
    architecture, entry = _entry(name)
    reserved = [key for key in options if key in ("num_classes", "weights", "weights_backbone", "aux_loss")]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: weights= and classes= set it")
    categories = tuple(entry.meta["categories"] or ())
    dense = [architecture in models.list_models(module=module) for module in _dense()]
    keywords = {**_DEFAULTS.get(architecture, {}), **({"weights_backbone": None} if any(dense) else {}), **options}
    if classes is not None:
        keywords["num_classes"] = classes
    image_size = _chosen_side(architecture, input_size, options)
    if architecture.startswith("vit_"):  # their tables of positions are of one size, that of the weights
        keywords["image_size"] = image_size or entry.meta["min_size"][0]

    def build(**extras: Any) -> Any:
        try:
            return models.get_model(architecture, weights=None, **{**keywords, **extras})
        except (TypeError, ValueError) as error:
            text = f"torchvision cannot build {architecture} with options {dict(options)}: {error}"
            raise ModelError(text) from error

    net, side = build(), None
    facts: dict[str, Any] = {}
    if weights != "none":
        state = _published(spec, entry) if weights == "default" else _without_second(read_weights(weights))
        side, state, notes = _positions(net, state, keys=keys, chosen=image_size)
        net = net if side is None else build(image_size=side)
        has_new_head = False
        if weights == "default":
            state, has_new_head = _with_own_head(state, net)
        facts = {**fill(net, state, origin=str(entry if weights == "default" else weights), keys=keys, said=notes)}
        facts |= {NEW_HEAD: True} if has_new_head else {}
    outputs = classes or len(categories) or 1000
    sha256 = file_sha256(weights) if isinstance(weights, Path) else None
    recipe = Recipe(spec, classes=outputs, options=dict(options), weights=str(weights), sha256=sha256)
    is_detector = dense[1]
    preprocess = torchvision_boxes.preprocess_of(net) if is_detector else preprocess_of(entry.transforms())
    size = input_size if side is None else (side, side)
    if isinstance(preprocess, VolumePreprocess):
        facts["assumed"] = _OF_VIDEOS
    return Model(
        spec,
        torchvision_boxes.TorchvisionDetector(net) if is_detector else net,
        preprocess=preprocess if size is None else preprocess.at(size),
        labels=categories if len(categories) == outputs else (),
        layer=torchvision_boxes.layer_of(net) if is_detector else None,
        outcome="boxes" if is_detector else "one",
        recipe=recipe,
        facts=facts,
    )


def _entry(name: str) -> tuple[str, Any]:
    """Return the architecture of a name, and the entry of its published weights.

    Raises:
        ModelError: there is no such network, or no such weights of it.
    """
    from torchvision import models

    architecture, _, tag = name.partition(".")
    if architecture not in names():
        raise ModelError(nearest("torchvision model", architecture, names()))
    choices = models.get_model_weights(architecture)
    if tag and tag not in choices.__members__:
        entries = [f"{architecture}.{member}" for member in choices.__members__]
        raise ModelError(nearest("torchvision model", name, entries))
    return architecture, choices[tag] if tag else choices.DEFAULT


def _chosen_side(architecture: str, input_size: tuple[int, int] | None, options: Mapping[str, Any]) -> int | None:
    """Return the side of the input that the caller chose for a vision transformer, which takes squares."""
    if not architecture.startswith("vit_"):
        return None
    if input_size is not None and input_size[0] != input_size[1]:
        raise SettingError(f"{architecture} takes square inputs, not {input_size[0]} x {input_size[1]}")
    side: int | None = options.get("image_size", input_size[0] if input_size else None)
    return side


def _positions(
    net: Any, state: dict[str, torch.Tensor], *, keys: KeyFilter, chosen: int | None
) -> tuple[int | None, dict[str, torch.Tensor], list[str]]:
    """Compare a vision transformer's table of positions with that of its weights.

    Returns:
        The side of the input that the weights are for, where the caller chose none and it is another than the
        network's; the weights, with the table interpolated where the caller chose a side; what to note.
    """
    from torchvision.models.vision_transformer import interpolate_embeddings

    own_state = net.state_dict()
    table = match(state, own_state, keys=keys).state.get(_POSITIONS) if _POSITIONS in own_state else None
    cells = 0 if table is None or table.ndim != own_state[_POSITIONS].ndim else table.shape[1] - 1
    side = math.isqrt(max(cells, 0)) * getattr(net, "patch_size", 1)
    if table is None or side * side != cells * net.patch_size**2 or table.shape == own_state[_POSITIONS].shape:
        return None, state, []
    if chosen is None:
        return side, state, [f"the weights are for {side} x {side} pixels, which is used as the input size"]
    name = next(name for name, tensor in state.items() if tensor is table)
    resized = interpolate_embeddings(chosen, net.patch_size, {_POSITIONS: table})[_POSITIONS]
    text = f"the weights are for {side} x {side} pixels; the table of positions was interpolated"
    return None, {**state, name: resized}, [text]


def _published(spec: str, entry: Any) -> dict[str, torch.Tensor]:
    """Download the published weights or read them from the cache; only tensors are read, no code is run.

    Raises:
        ModelError: out of reach, or not the file whose hash its name states.
    """
    file = Path(urlsplit(entry.url).path).name
    path, absent = torch_cache() / file, out_of_reach(spec, file)
    if not path.is_file() and not reachable(entry.url):
        raise absent
    damaged = f"the published weights of {spec} in {path} are damaged or not the published file: remove it"
    stated = re.search(r"-([0-9a-f]{8,})\.", file)
    try:
        if path.is_file() and stated and not file_sha256(path).startswith(stated[1]):
            raise ModelError(damaged)
        return _without_second(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as error:
        raise absent from error
    except (RuntimeError, UnpicklingError) as error:
        raise ModelError(damaged) from error


def _without_second(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights without the second head of a segmentation network, which is of use in training alone."""
    if not any(name.startswith(_SECOND) for name in state):
        return state
    return {name: tensor for name, tensor in state.items() if not name.startswith(_SECOND)}


def _with_own_head(state: dict[str, torch.Tensor], net: torch.nn.Module) -> tuple[dict[str, torch.Tensor], bool]:
    """Return the weights, with the head of the network if it has another number of classes; and whether it has."""
    own_state = net.state_dict()
    heads = [
        key
        for key, tensor in state.items()
        if key in own_state and tensor.shape != own_state[key].shape and tensor.shape[1:] == own_state[key].shape[1:]
    ]
    return {**state, **{key: own_state[key] for key in heads}}, bool(heads)


def preprocess_of(preset: Any) -> Preprocess:
    """Convert torchvision's evaluation preset; presets without a crop (segmentation) use the whole image.

    Volumes have no colours whose mean and standard deviation were known; video networks get z-scores.
    """
    mean, std, interpolation = tuple(preset.mean), tuple(preset.std), preset.interpolation.value
    resize = (preset.resize_size[0], preset.resize_size[-1])
    if type(preset).__name__ == "VideoClassification":
        clip, channels = (_FRAMES, preset.crop_size[0], preset.crop_size[-1]), len(mean)
        options: dict[str, Any] = {"fit": "squash", "orientation": "SPL", "zscore": True}
        return VolumePreprocess(clip, (0.0,) * channels, (1.0,) * channels, **options)
    if not hasattr(preset, "crop_size"):
        return Preprocess(input_size=resize, mean=mean, std=std, fit="pad", interpolation=interpolation)
    size = (preset.crop_size[0], preset.crop_size[-1])
    return Preprocess(input_size=size, mean=mean, std=std, resize=resize, interpolation=interpolation)
