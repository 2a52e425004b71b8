"""load(): a model from a source, a bundle, or a file of weights."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from camscope.errors import ModelError, SettingError, nearest
from camscope.models import bundle
from camscope.models.labels import read_labels
from camscope.models.model import Model, Outcome
from camscope.models.preprocess import Fit, Preprocess
from camscope.models.sources import SOURCES
from camscope.models.sources.keras import FILES as KERAS_FILES
from camscope.models.sources.onnx import SUFFIX as ONNX_FILE
from camscope.models.weights import SUFFIXES, read_weights

_FORMS = (
    "'timm:NAME', 'torchvision:NAME', 'hf:NAME or FOLDER', 'torchxrayvision:NAME', 'keras:NAME', 'ultralytics:NAME', "
    "'smp:NAME', a bundle folder, a .keras or .onnx file, or a weights file with arch='timm:NAME'"
)
# What networks are exported to, by torch.export and others.
_PROGRAMS = (".pt2", ".tflite", ".pb", ".torchscript", ".mlmodel", ".mlpackage", ".engine")
_PLANE = 4
"""Axes of the weights of a convolution of pictures."""

# What the number of classes says, unless the caller does: none are values, one alone is there or not.
_OUTCOMES: dict[int, Outcome] = {0: "value", 1: "any"}


def load(
    spec: str | Path,
    *,
    weights: str | Path = "default",
    classes: int | None = None,
    labels: Sequence[str] | str | Path | None = None,
    outcome: Outcome | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    options: Mapping[str, Any] | None = None,
    arch: str | None = None,
    trust: bool = False,
) -> Model:
    """Make a model ready for pictures, on the CPU, in eval mode and in channels-last memory format.

    Args:
        spec: "timm:NAME", "torchvision:NAME", "hf:NAME" or "hf:FOLDER" (Hugging Face), "torchxrayvision:NAME",
            "keras:NAME", "ultralytics:NAME" or "ultralytics:FILE.pt", "smp:ARCHITECTURE/ENCODER", a bundle folder, a
            ``.keras``, ``.h5`` or ``.onnx`` file, or a weights file (then ``arch`` names the network).
        weights: "default" for the published ones, "none" for random ones, or a file (see ``read_weights``).
        classes: number of outputs; None: as many as there are labels, else the source's own number.
        labels: class names, or the path of a file with them (see ``read_labels``); None: those of the source. With
            ``classes=1`` two names are those of 0 and 1; a model of pictures and texts (CLIP) takes them for texts.
        outcome: "one" class is right (softmax), "any" number of them (sigmoid), "value" or "boxes" (see ``Model``);
            None: the source's, or "any" for a single class, "value" for a network without a classifier, else "one".
        mean: subtracted from pixels in [0, 1], one number for all channels or one each; None: the source's.
        std: divides them, as mean.
        input_size: (height, width), or one number for both; None: the source's.
        fit: "crop", "squash" or "pad" (see ``Preprocess``); None: the source's. Another than the source's uses as
            much of the picture as it can.
        options: further keywords for the maker, such as ``{"pad_type": "same"}`` or ``{"in_chans": 1}``.
        arch: the source and name of the network that a weights file fills.
        trust: read pickles where a source has nothing else (Ultralytics): reading one runs code that is stored in it.

    Raises:
        ModelError: for a model that cannot be found, built, or filled with its weights.
        SettingError: for settings that do not go together.

    Examples:
        >>> model = load("timm:resnet18", weights="none", labels=["Effusion"])
        >>> model.outcome, model.label(0), model.preprocess.resize
        ('any', 'Effusion', (235, 235))
    """
    names = None if labels is None else read_labels(labels)
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if Path(spec).is_dir():
        if (Path(spec) / "config.json").is_file() and not (Path(spec) / bundle.CARD).is_file():
            raise ModelError(f"{spec} is no bundle, but looks like a folder of transformers: load hf:{spec}")
        if weights != "default" or classes is not None or options or arch:
            raise SettingError(f"{spec} is a bundle and has its own weights, classes, options and arch: leave them out")
        model = _from_bundle(Path(spec), size)
    else:
        spec, weights = _network_and_weights(_with_source(spec), weights, arch)
        classes = len(names) if classes is None and names is not None else classes
        model = _from_source(
            spec, weights=weights, classes=classes, input_size=size, options=options or {}, labels=names, trust=trust
        )
    assumed = model.facts.get("assumed")
    if assumed is not None and not Path(spec).is_dir():
        if mean is None and std is None:
            warnings.warn(assumed, stacklevel=2)
        else:
            model = replace(model, facts={key: fact for key, fact in model.facts.items() if key != "assumed"})
    return replace(
        model,
        labels=_checked(names, model) if names is not None else model.labels,
        outcome=_outcome(outcome) if outcome is not None else model.outcome,
        preprocess=_adapted(model.preprocess, mean=mean, std=std, fit=fit),
    )


def _with_source(spec: str | Path) -> str | Path:
    """Return a spec; of an ONNX file that names no source with its source."""
    is_file = Path(spec).suffix.lower() == ONNX_FILE and str(spec).partition(":")[0] not in SOURCES
    return f"onnx:{spec}" if is_file else spec


def _network_and_weights(spec: str | Path, weights: str | Path, arch: str | None) -> tuple[str, str | Path]:
    """Which network, and what fills it: "default", "none" or a Path."""
    if Path(spec).suffix.lower() in KERAS_FILES and str(spec).partition(":")[0] not in SOURCES:
        spec, arch, weights = (f"keras:{spec}", None, weights) if arch is None else (arch, None, Path(spec))
    if Path(spec).suffix.lower() in _PROGRAMS and str(spec).partition(":")[0] not in SOURCES:
        raise ModelError(
            f"{spec} is an exported program, without modules to look into: save the weights of the network that it was "
            "made from, torch.save(net.state_dict(), 'weights.pth'), and name the network, arch='timm:NAME'"
        )
    if Path(spec).suffix.lower() in SUFFIXES and str(spec).partition(":")[0] not in SOURCES:
        if arch is None:
            if Path(spec).is_file():
                read_weights(spec)  # which tells a program, and code, from weights
            raise ModelError(f"{spec} holds weights alone: name their network, such as arch='timm:resnet18'")
        if weights != "default":
            raise SettingError(f"two files of weights, {spec} and {weights}: give one")
        spec, weights = arch, Path(spec)
    elif arch is not None:
        raise SettingError(f"arch={arch!r} goes with a weights file, and {str(spec)!r} is none")
    if weights not in ("default", "none"):
        weights = Path(weights)
        if not weights.is_file():
            raise ModelError(f"there is no weights file {str(weights)!r}; weights is 'default', 'none' or a file")
    return str(spec), weights


def _from_source(
    spec: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    labels: Sequence[str] | None,
    trust: bool = False,
) -> Model:
    prefix, colon, name = spec.partition(":")
    if not colon:
        raise ModelError(f"there is no model {spec!r}; possible: {_FORMS}")
    if prefix not in SOURCES:
        raise ModelError(f"{nearest('model source', prefix, SOURCES)}; possible: {_FORMS}")
    if classes is not None and classes < 1:
        raise SettingError(f"classes must be at least 1; given: {classes}")
    make = SOURCES[prefix]
    taken = inspect.signature(make).parameters
    more = {key: value for key, value in (("labels", labels), ("trust", trust)) if key in taken}
    model = make(name, weights=weights, classes=classes, input_size=input_size, options=options, **more)
    for weight in model.net.eval().parameters():
        if weight.ndim == _PLANE:  # `Module.to` would refuse a network with three-dimensional convolutions
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return model if model.outcome != "one" else replace(model, outcome=_OUTCOMES.get(_outputs(model), "one"))


def _from_bundle(folder: Path, input_size: tuple[int, int] | None) -> Model:
    card = bundle.read(folder)
    preprocess = Preprocess.from_dict(card["preprocess"])
    if input_size is not None:
        preprocess = preprocess.at(input_size)
    model = _from_source(
        card["spec"],
        weights=folder / bundle.WEIGHTS,
        classes=card["classes"] or None,
        input_size=preprocess.input_size,
        options=card["options"],
        labels=card["labels"] or None,
    )
    return replace(
        model,
        name=card["name"],
        preprocess=preprocess,
        labels=_checked(tuple(card["labels"]), model) if card["labels"] else (),
        outcome=_outcome(card["outcome"]),
        layer=card["layer"],
        facts=card["facts"],
    )


def _checked(names: tuple[str, ...], model: Model) -> tuple[str, ...]:
    if len(names) != _outputs(model) and (len(names), _outputs(model)) != (2, 1):
        raise SettingError(f"{len(names)} labels for a network with {_outputs(model)} classes: give one each")
    return names


def _outputs(model: Model) -> int:
    """Number of classes of a model that a source made."""
    if model.recipe is None:
        raise ModelError(f"the source of {model.name!r} left no recipe")
    return model.recipe.classes


def _outcome(outcome: str) -> Outcome:
    for known in get_args(Outcome):
        if outcome == known:
            return outcome  # type: ignore[return-value]
    raise SettingError(f"outcome cannot be {outcome!r}; possible: {', '.join(get_args(Outcome))}")


def _adapted(
    preprocess: Preprocess, *, mean: Sequence[float] | None, std: Sequence[float] | None, fit: Fit | None
) -> Preprocess:
    """The source's preprocessing with what the caller knows better."""
    for key, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        numbers = tuple(float(v) for v in values)
        numbers = numbers * preprocess.channels if len(numbers) == 1 else numbers
        if len(numbers) != preprocess.channels:
            raise SettingError(f"{key} has {len(numbers)} numbers and the network takes {preprocess.channels} channels")
        preprocess = replace(preprocess, **{key: numbers})  # type: ignore[arg-type]
    if fit is not None and fit != preprocess.fit:
        preprocess = replace(preprocess, fit=fit, resize=None)
    return preprocess
