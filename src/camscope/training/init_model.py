"""Initial models of a training: a network for the labels of the data, with published, custom or random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camscope.errors import ModelError, SettingError
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.models.weight_names import match
from camscope.models.weights import describe, file_sha256, read_weights
from camscope.training.dataset import Dataset


@dataclass(frozen=True)
class Start:
    """A model before training.

    Attributes:
        model: model with the labels of the data.
        learnt: whether its backbone is pretrained.
        origin: where its weights came from, in words.
    """

    model: Model
    learnt: bool
    origin: str


def start(
    spec: str | Path,
    dataset: Dataset,
    *,
    weights: str | Path = "default",
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Start:
    """Create the network to train.

    Args:
        spec: "timm:NAME", "torchvision:NAME", or a bundle of a network with as many outputs as the data have labels.
        dataset: gives the labels.
        weights: "default" for the published weights; if they are not available, as offline, a message says so and
            training starts from random weights. "none" for random weights. Or a weights file, whose classifier is left
            out if its shape differs.
        seed: random seed of the weights.
        say: called with each message for the user, one line each.
        **options: options of `camscope.load`: ``input_size``, (height, width) or one number for both; ``fit``, "crop",
            "squash" or "pad"; ``mean`` and ``std`` of pixels in [0, 1]; ``options``, keywords for the network's maker.

    Raises:
        ModelError: an unknown network, or weights that do not fit it.
        SettingError: a bundle with another number of labels.
    """
    torch.manual_seed(seed)
    if Path(spec).is_dir():
        model = load(spec, **options)
        if len(model.labels) != len(dataset.labels):
            raise SettingError(
                f"{spec} has {len(model.labels)} classes and the data {len(dataset.labels)}: "
                f"give its architecture as --model, and its weights.safetensors as --weights"
            )
        return Start(_named(model, dataset, spec), learnt=True, origin=f"the bundle {spec}")

    def made(weights: str) -> Start:
        model = load(spec, weights=weights, labels=dataset.labels, outcome=dataset.outcome, **options)
        origin = "random weights" if weights == "none" else "published weights"
        return Start(_named(model, dataset, spec), learnt=weights != "none", origin=origin)

    if weights in ("default", "none"):
        try:
            return made(str(weights))
        except ModelError as error:
            if weights == "none":
                raise
            model_start = made("none")  # an unknown name raises an error here too
            say(f"{error}; training starts from random weights, which takes more images and more epochs")
            return model_start
    model_start = made("none")
    path = Path(weights)
    _fill_backbone(model_start.model.net, path, classes=len(dataset.labels))
    recipe = (
        None if model_start.model.recipe is None else dataclasses.replace(model_start.model.recipe, weights=str(path))
    )
    model = dataclasses.replace(model_start.model, recipe=recipe)
    return Start(model, learnt=True, origin=f"{path.name}, sha256 {file_sha256(path)}")


def _named(model: Model, dataset: Dataset, spec: str | Path) -> Model:
    """Return a model named after its architecture and data."""
    name = f"{str(spec).partition(':')[2] or Path(spec).name}-{'-'.join(dataset.labels[:3]).lower()}"
    return dataclasses.replace(model, name=name, labels=dataset.labels, outcome=dataset.outcome, facts={})


def _fill_backbone(net: nn.Module, path: Path, *, classes: int) -> None:
    net_state = net.state_dict()
    state = read_weights(path)
    result = match(state, net_state, origin=str(path))
    heads = tuple(f"{name}." for name in head_of(net, classes))
    new_state = {k: v for k, v in result.state.items() if not (k.startswith(heads) and v.shape != net_state[k].shape)}
    backbone = {k: v for k, v in net_state.items() if not k.startswith(heads)}
    foreign = [name for name in result.foreign if not name.removeprefix(result.prefix).startswith(heads)]
    missing = [k for k in result.missing if k in backbone]
    remainder = dataclasses.replace(result, state=new_state, missing=missing, foreign=foreign)
    if remainder.problems(net_state):
        raise ModelError(f"{path} does not fit the network: {describe(remainder, state, net_state)}")
    net.load_state_dict(new_state, strict=False)


def head_of(net: nn.Module, classes: int) -> list[str]:
    """Return the names of the modules that turn features into class scores.

    timm names them. In other networks it is the last layer with as many outputs as there are classes.

    Raises:
        ModelError: there is no such layer.

    >>> head_of(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8, 2)), 2)
    ['2']
    """
    if hasattr(net, "get_classifier"):
        head: Any = net.get_classifier()  # type: ignore[operator]
        parts = head if isinstance(head, tuple) else (head,)
        names = [name for name, module in net.named_modules() if name and any(module is part for part in parts)]
        if names:
            return names
    outputs = {
        name: getattr(module, "out_features", getattr(module, "out_channels", None))
        for name, module in net.named_modules()
        if name
    }
    last = [name for name, count in outputs.items() if count == classes]
    if not last:
        raise ModelError(f"no layer of {type(net).__name__} gives {classes} scores, so that its classifier is unknown")
    return last[-1:]
