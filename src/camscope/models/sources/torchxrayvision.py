"""Chest X-ray classifiers of TorchXRayVision (Cohen et al. 2022), without their output scaling.

The package's own output is not the logit: a sigmoid is moved by ``op_norm``, piecewise linear, so that each class's
operating point lies at 0.5. That changes gradients by a factor which jumps at the operating point, and cuts them off
where a class has none. So the networks are made without it: their outputs are the logits, probabilities are the
plain sigmoid, and the operating points are in ``Model.facts["operating_points"]``.

Reference:
    Cohen et al. TorchXRayVision: A library of chest X-ray datasets and models. MIDL 2022. arXiv:2111.00595
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import nn

from camscope.errors import ModelError, SettingError, nearest, require
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import Preprocess
from camscope.models.pretrained import out_of_reach, reachable
from camscope.models.sources.registry import source
from camscope.models.untrained import NEW_HEAD
from camscope.models.weight_names import ALL, KeyFilter, State, match
from camscope.models.weights import file_sha256, fill, read_weights

_NAMES = (
    *("densenet121-res224-all", "densenet121-res224-chex", "densenet121-res224-mimic_ch"),
    *("densenet121-res224-mimic_nb", "densenet121-res224-nih", "densenet121-res224-pc", "densenet121-res224-rsna"),
    "resnet50-res512-all",
)
_RESERVED = ("weights", "num_classes", "op_threshs", "apply_sigmoid", "cache_dir")


def names() -> list[str]:
    """Return the published models, without importing the package, which takes seconds."""
    return list(_NAMES)


@source("torchxrayvision", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    keys: KeyFilter = ALL,
    trust: bool = False,
) -> Model:
    """Return a model of TorchXRayVision with logits as outputs, only those that its weights were trained for.

    The input is grey on the package's scale, -1024 for black to 1024 for white, of the largest square in the middle.
    The published weights are pickles of whole modules, which can run code when they are read; ``trust`` allows it.
    """
    xrv = require("torchxrayvision", f"torchxrayvision:{name}", "xray")
    spec = f"torchxrayvision:{name}"
    if name not in _NAMES or name not in xrv.models.model_urls:
        raise ModelError(nearest("torchxrayvision model", name, _NAMES))
    if reserved := [key for key in options if key in _RESERVED]:
        raise SettingError(f"{reserved[0]} is not for options: weights= and classes= set it")
    entry = xrv.models.model_urls[name]
    trained = [i for i, label in enumerate(entry["labels"]) if label]
    net = _build(name, len(entry["labels"]), options)
    head = "classifier" if hasattr(net, "classifier") else "fc"
    state = read_weights(weights) if isinstance(weights, Path) else None
    facts: dict[str, str] = {}
    if weights == "default":
        facts = fill(net, _published(spec, entry["weights_url"], trust=trust), origin=spec)
    elif (
        state is not None
        and classes is None
        and not match(state, own_state := net.state_dict(), keys=keys).problems(own_state)
    ):
        facts = fill(net, state, origin=str(weights), keys=keys)
        state = None
    setattr(net, head, _cut(getattr(net, head), trained, classes))
    if state is not None:
        facts = fill(net, state, origin=str(weights), keys=keys)
    sha256 = file_sha256(weights) if isinstance(weights, Path) else None
    its_classes = classes is None or classes == len(trained)
    points = [float(entry["op_threshs"][i]) for i in trained]
    size = (entry["input_resolution"],) * 2
    return Model(
        spec,
        net,
        preprocess=Preprocess(
            input_size=input_size or size, mean=(0.5,), std=(1 / 2048,), fit="crop", interpolation="bilinear"
        ),
        labels=tuple(entry["labels"][i] for i in trained) if its_classes else (),
        outcome="any",
        recipe=Recipe(
            spec, classes=classes or len(trained), options=dict(options), weights=str(weights), sha256=sha256
        ),
        facts=({NEW_HEAD: True} if weights == "default" and not its_classes else {})
        | ({"operating_points": [None if math.isnan(p) else p for p in points]} if its_classes else {})
        | facts,
    )


def _build(name: str, outputs: int, options: Mapping[str, Any]) -> Any:
    """Return the network inside, without the sigmoid and ``op_norm`` around it, and without a download."""
    import torchvision
    import torchxrayvision as xrv

    try:
        if name.startswith("densenet"):
            return xrv.models.DenseNet(num_classes=outputs, **{"in_channels": 1, **options})
        net = torchvision.models.get_model(name.partition("-")[0], weights=None, num_classes=outputs, **options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"torchxrayvision cannot build {name} with options {dict(options)}: {error}") from error
    net.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return net


def _cut(head: nn.Linear, trained: list[int], classes: int | None) -> nn.Linear:
    """Return the last layer with the outputs that were trained, or a new one for another number of classes."""
    new = nn.Linear(head.in_features, classes or len(trained))
    if new.out_features == len(trained):
        new.load_state_dict({"weight": head.weight[trained], "bias": head.bias[trained]})
    return new


def _published(spec: str, url: str, *, trust: bool) -> State:
    """Return the published weights, which the package reads and downloads: pickles of its own modules.

    Raises:
        ModelError: out of reach, damaged, or the caller does not trust them.
    """
    import torchxrayvision as xrv

    file, folder = Path(urlsplit(url).path).name, Path(xrv.utils.get_cache_dir())
    absent = out_of_reach(spec, file, folder=folder)
    if not trust:
        raise ModelError(
            f"the published weights of {spec} are a Python pickle, {file}, which can run code when it is read: if you "
            "trust its source, pass trust=True, best once to save a bundle, which holds only tensors; weights='none' "
            "makes random ones"
        )
    if not (folder / file).is_file() and not reachable(url):
        raise absent
    try:
        with contextlib.redirect_stdout(None):
            model = xrv.models.get_model(spec.partition(":")[2])
    except OSError as error:
        raise absent from error
    except Exception as error:
        raise ModelError(f"the published weights of {spec} arrived damaged: remove {folder / file}") from error
    state = getattr(model, "model", model).state_dict()
    return {key: tensor for key, tensor in state.items() if key != "op_threshs"}
