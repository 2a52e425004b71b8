"""Initial models of a training: a network for the labels of the data, with published, custom or random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from camscope.errors import ModelError, SettingError
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.models.weights import file_sha256
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
        spec: "timm:NAME", "torchvision:NAME", "keras:NAME" or any other source of networks with a classifier; a Keras
            file; or a bundle of a network with as many outputs as the data have labels.
        dataset: gives the labels.
        weights: "default" for the published weights; if they are not available, as offline, a message says so and
            training starts from random weights. "none" for random weights. Or a weights file. A
            classifier of another size is left out, with a warning that says so, and a new one is trained.
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
        keywords = {"labels": dataset.labels, "outcome": dataset.outcome, **options}
        model = load(spec, weights=weights, new_classifier=True, **keywords)
        file = Path(spec if weights == "default" else weights)
        origin = "random weights" if weights == "none" else "published weights"
        if file.is_file():
            origin = f"{file.name}, sha256 {file_sha256(file)}"
        return Start(_named(model, dataset, spec), learnt=weights != "none", origin=origin)

    if weights != "default":
        return made(str(weights))
    try:
        return made("default")
    except ModelError as error:
        model_start = made("none")  # an unknown name raises an error here too
        say(f"{error}; training starts from random weights, which takes more images and more epochs")
        return model_start


def _named(model: Model, dataset: Dataset, spec: str | Path) -> Model:
    """Return a model named after its architecture and data."""
    path = Path(spec)
    base = str(spec).partition(":")[2] or (path.stem if path.is_file() else path.name)
    name = f"{base}-{'-'.join(dataset.labels[:3]).lower()}"
    return dataclasses.replace(model, name=name, labels=dataset.labels, outcome=dataset.outcome, facts={})
