"""Load a model from a source, a bundle, or a weights file."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from camscope.arguments import checked
from camscope.errors import CamscopeError, ModelError, SettingError, nearest
from camscope.models import bundle
from camscope.models.from_module import AnyPreprocess, from_module
from camscope.models.labels import Labels, read_labels
from camscope.models.model import Model, Outcome
from camscope.models.preprocess import NOTHING_GIVEN, Fit, assumed_note
from camscope.models.sources import NAMES, SOURCES
from camscope.models.sources.keras_files import FILES as KERAS_FILES
from camscope.models.sources.onnx import SUFFIX as ONNX_FILE
from camscope.models.transform import Transform
from camscope.models.untrained import marked
from camscope.models.volume_preprocess import VolumePreprocess, assumed_volume_note, preprocess_from_dict
from camscope.models.weight_names import ALL, KeyFilter
from camscope.models.weights import SUFFIXES, read_weights

_FORMS = (
    "'timm:NAME', 'torchvision:NAME', 'hf:NAME or FOLDER', 'torchxrayvision:NAME', 'keras:NAME', 'ultralytics:NAME', "
    "'smp:NAME', a bundle folder, a .keras or .onnx file, or a weights file with arch='timm:NAME'"
)
# Suffixes of exported programs, by torch.export and others.
_PROGRAMS = (".pt2", ".tflite", ".pb", ".torchscript", ".mlmodel", ".mlpackage", ".engine")
_PLANE = 4
"""Axes of the weights of a 2-D convolution."""

# Default outcome by number of classes: without classes a value, with one class present or absent.
_OUTCOMES: dict[int, Outcome] = {0: "value", 1: "any"}


@checked
def load(
    spec: str | Path | nn.Module,
    *,
    weights: str | Path = "default",
    classes: int | None = None,
    labels: Labels | None = None,
    outcome: Outcome | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    input_size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    options: Mapping[str, Any] | None = None,
    arch: str | None = None,
    ignore: Sequence[str] | str | None = None,
    prefix: str | None = None,
    trust: bool = False,
    preprocess: AnyPreprocess | None = None,
    name: str | None = None,
    output: int | str | None = None,
    new_classifier: bool = False,
) -> Model:
    """Load a model, on the CPU, in eval mode and in channels-last memory format.

    Args:
        spec: "timm:NAME", "torchvision:NAME", "hf:NAME" or "hf:FOLDER" (Hugging Face), "torchxrayvision:NAME",
            "keras:NAME", "ultralytics:NAME" or "ultralytics:FILE.pt", "smp:ARCHITECTURE/ENCODER", a bundle folder, a
            ``.keras``, ``.h5`` or ``.onnx`` file, or a weights file (``arch`` names its network); or an ``nn.Module``.
        weights: "default" for the published ones, "none" for random ones, or a file (see ``read_weights``).
        classes: number of outputs; None: as many as there are labels, else the source's own number.
        labels: class names, a dict of them, or the path of a file (see ``read_labels``); None: those of the source.
            With ``classes=1``, two names are the classes 0 and 1. CLIP uses the names as texts.
        outcome: "one" class is right (softmax), "any" number of them (sigmoid), "value" or "boxes" (see ``Model``);
            None: the source's, or "any" for a single class, "value" for a network without a classifier, else "one".
        mean: subtracted from pixels in [0, 1], one number or one per channel; None: the source's.
        std: divisor of the pixels, in the same format as mean.
        input_size: (height, width), or one number for both; None: the source's.
        fit: "crop", "squash" or "pad" (see ``Preprocess``), which then crops no margin; None: the source's.
        options: further keywords of the source, such as ``{"pad_type": "same"}`` or ``{"in_chans": 1}``.
        arch: the source and name of the network that a weights file fills.
        ignore: patterns of names in the weights file to leave out, such as ``["criterion.*"]`` or ``"ema.*,loss.*"``.
        prefix: the beginning of the names of the network's weights in the file, such as "encoder"; None: detected.
        trust: read files that can run code: weights of ``torchxrayvision:``, files of ``ultralytics:``.
        preprocess: a Preprocess or a callable (see `Transform`), in place of mean, std, input_size and fit; None: the
            source's, or those that a module carries.
        name: name of the model in results; None: the spec, the name of a bundle's folder or of a module's class.
        output: index, key or attribute of the output with the scores; None: see `Model`.
        new_classifier: start with a random classifier where the weights file has one of another size; False: an error.

    A warning and ``Model.facts["weights_note"]`` list unused tensors of a weights file, such as those of a loss.

    Raises:
        ModelError: a model that cannot be found, built, or filled with its weights.
        SettingError: settings that contradict each other.

    >>> load("timm:resnet18", weights="none", labels=["Effusion"]).preprocess.resize
    (235, 235)
    """
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    _refuse_both(preprocess, (mean, std, size, fit))
    plain = not any(given is not None and len(given) for given in (options, arch, ignore, prefix))
    is_bare = weights == "default" and classes is None and plain
    names = None if labels is None else read_labels(labels)
    if not isinstance(spec, str | Path):
        keywords: dict[str, Any] = {"preprocess": preprocess, "labels": names, "name": name, "outcome": _known(outcome)}
        model = _of_module(spec, is_bare=is_bare, **keywords)
        return replace(_with_settings(model, input_size=size, mean=mean, std=std, fit=fit), output=output)
    is_folder = Path(spec).is_dir()
    if is_folder:
        model = _from_bundle(Path(spec), size, is_bare=is_bare)
    else:
        spec, weights = _network_and_weights(_with_source(spec), weights, arch)
        classes = len(names) if classes is None and names is not None else classes
        keys = KeyFilter.of(prefix, ignore, new_classes=classes or 0 if new_classifier else 0)
        extras = {"options": options or {}, "more": {"labels": names, "keys": keys, "trust": trust, "outcome": outcome}}
        model = _from_source(spec, weights=weights, classes=classes, input_size=size, **extras)
    model = _with_settings(model, preprocess=preprocess, mean=mean, std=std, fit=fit)
    for text in () if is_folder else model.assumptions:
        warnings.warn(text, stacklevel=3)
    class_names = _checked(names, model) if names is not None else model.labels
    outcome = _known(outcome) or model.outcome
    return replace(model, name=name or model.name, labels=class_names, outcome=outcome, output=output)


def _refuse_both(preprocess: Any, settings: Sequence[Any]) -> None:
    if preprocess is not None and any(value is not None for value in settings):
        raise SettingError("expected either preprocess or mean, std, input_size and fit, but got both")


def _of_module(net: Any, *, is_bare: bool, **settings: Any) -> Model:
    if not isinstance(net, nn.Module):
        raise ModelError(
            f"cannot load an object of type {type(net).__name__}: expected a spec such as 'timm:resnet18', the path "
            "of a file or folder, or an nn.Module"
        )
    if not is_bare:
        raise SettingError("a module has its own weights, classes, options and arch: leave them out")
    return from_module(net, **settings)


def _with_settings(
    model: Model,
    *,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
    fit: Fit | None,
    input_size: tuple[int, int] | None = None,
    preprocess: AnyPreprocess | None = None,
) -> Model:
    """Return a model with what the caller knows of its preprocessing, which is then no assumption any more."""
    base: Any = model.preprocess if preprocess is None else preprocess
    if input_size is not None:
        base = base.at(input_size)
    adapted = _adapted(base, mean=mean, std=std, fit=fit)
    facts = dict(model.facts)
    if preprocess is not None or (mean is not None and std is not None):
        facts.pop("assumed", None)
    elif str(facts.get("assumed", "")).startswith(NOTHING_GIVEN):
        names = {"mean": "mean" if mean is None else "", "std": "std" if std is None else ""}
        is_volume = isinstance(adapted, VolumePreprocess)
        facts["assumed"] = (
            assumed_volume_note(adapted.input_size) if is_volume else assumed_note(adapted.input_size, **names)
        )
    return replace(model, preprocess=adapted, facts=facts)


def _with_source(spec: str | Path) -> str | Path:
    """Return a spec; of an ONNX file that names no source with its source."""
    is_file = Path(spec).suffix.lower() == ONNX_FILE and str(spec).partition(":")[0] not in SOURCES
    return f"onnx:{spec}" if is_file else spec


def _network_and_weights(spec: str | Path, weights: str | Path, arch: str | None) -> tuple[str, str | Path]:
    """Return which network, and what fills it: "default", "none" or a Path."""
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
                read_weights(spec)  # distinguishes programs and code from weights
            raise ModelError(f"{spec} holds only weights: name their network, such as arch='timm:resnet18'")
        if weights != "default":
            raise SettingError(f"two files of weights, {spec} and {weights}: give one")
        spec, weights = arch, Path(spec)
    elif arch is not None:
        raise SettingError(f"arch={arch!r} needs a weights file, but {str(spec)!r} is not a weights file")
    if weights not in ("default", "none"):
        weights = Path(weights)
        if not weights.is_file():
            raise ModelError(f"there is no weights file {str(weights)!r}; weights is 'default', 'none' or a file")
    return str(spec), weights


def _suggestion(name: str) -> str:
    """Return the specs that a name without a source could mean; where there are none, all forms of a spec."""
    specs: list[str] = []
    for source, catalogue in NAMES.items():
        with contextlib.suppress(CamscopeError):
            matches = (n for n in catalogue() if n.lower() == name.lower() or n.lower().startswith(f"{name.lower()}/"))
            specs += [f"{source}:{n}" for n in itertools.islice(matches, 1)]
    if not specs:
        return f"possible: {_FORMS}"
    return f"did you mean {' or '.join(map(repr, specs))}?"


def _from_source(
    spec: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    more: Mapping[str, Any],
) -> Model:
    """Return a source's network; of ``more`` it takes the arguments that it has parameters for."""
    prefix, colon, name = spec.partition(":")
    if not colon:
        raise ModelError(f"there is no model {spec!r}; {_suggestion(spec)}")
    if prefix not in SOURCES:
        raise ModelError(f"{nearest('model source', prefix, SOURCES)}; possible: {_FORMS}")
    if classes is not None and classes < 1:
        raise SettingError(f"classes must be at least 1; given: {classes}")
    make = SOURCES[prefix]
    keys = more.get("keys", ALL)
    parameters = inspect.signature(make).parameters
    if keys.chooses_names and "keys" not in parameters:
        raise SettingError(f"{prefix}: takes neither ignore= nor prefix=, which choose names of a weights file")
    if keys.chooses_names and not isinstance(weights, Path):
        raise SettingError("ignore= and prefix= choose names of a weights file: give one with weights=FILE")
    arguments = {key: value for key, value in more.items() if key in parameters}
    model = make(name, weights=weights, classes=classes, input_size=input_size, options=options, **arguments)
    for weight in model.net.eval().parameters():
        if weight.ndim == _PLANE:  # `Module.to` raises an error for networks with 3-D convolutions
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    model = marked(model, weights=weights)
    return model if model.outcome != "one" else replace(model, outcome=_OUTCOMES.get(_outputs(model), "one"))


def _from_bundle(folder: Path, input_size: tuple[int, int] | None, *, is_bare: bool) -> Model:
    if (folder / "config.json").is_file() and not (folder / bundle.CARD).is_file():
        raise ModelError(f"{folder} is no bundle, but looks like a folder of transformers: load hf:{folder}")
    if not is_bare:
        raise SettingError(
            f"{folder} is a bundle and has its own weights, classes, options and arch: leave them out, like ignore and "
            "prefix"
        )
    card = bundle.read(folder)
    preprocess = preprocess_from_dict(card["preprocess"])
    if input_size is not None:
        preprocess = preprocess.at(input_size)
    model = _from_source(
        card["spec"],
        weights=folder / bundle.WEIGHTS,
        classes=card["classes"] or None,
        input_size=preprocess.input_size,
        options=card["options"],
        more={"labels": card["labels"] or None},
    )
    return replace(
        model,
        name=folder.resolve().name if card["name"] == card["spec"] else card["name"],
        preprocess=preprocess,
        labels=_checked(tuple(card["labels"]), model) if card["labels"] else (),
        outcome=_known(card["outcome"]) or model.outcome,
        layer=card["layer"],
        facts=card["facts"],
    )


def _checked(names: tuple[str, ...], model: Model) -> tuple[str, ...]:
    if len(names) != _outputs(model) and (len(names), _outputs(model)) != (2, 1):
        raise SettingError(f"{len(names)} labels for a network with {_outputs(model)} classes: give one each")
    return names


def _outputs(model: Model) -> int:
    """Return the number of classes of a model from a source."""
    if model.recipe is None:
        raise ModelError(f"the source of {model.name!r} left no recipe")
    return model.recipe.classes


def _known(outcome: str | None) -> Outcome | None:
    """Check an outcome that the caller gave."""
    if outcome is None:
        return None
    for option in get_args(Outcome):
        if outcome == option:
            return outcome  # type: ignore[return-value]
    raise SettingError(f"outcome cannot be {outcome!r}; possible: {', '.join(get_args(Outcome))}")


def _adapted(
    preprocess: Any, *, mean: Sequence[float] | float | None, std: Sequence[float] | float | None, fit: Fit | None
) -> Any:
    """Return the source's preprocessing, or the caller's callable, with what the caller knows better."""
    if isinstance(preprocess, Transform) and any(value is not None for value in (mean, std, fit)):
        preprocess.refuse("mean, std and fit")
    for key, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        numbers = tuple(float(number) for number in ([values] if isinstance(values, (int, float)) else values))
        numbers = numbers * preprocess.channels if len(numbers) == 1 else numbers
        if len(numbers) != preprocess.channels:
            raise SettingError(f"{key} has {len(numbers)} numbers and the network takes {preprocess.channels} channels")
        preprocess = replace(preprocess, **{key: numbers})
        if isinstance(preprocess, VolumePreprocess):
            preprocess = replace(preprocess, zscore=False)
    if fit is not None:
        margin = {} if isinstance(preprocess, VolumePreprocess) else {"resize": None}
        preprocess = replace(preprocess, fit=fit, **margin)
    return preprocess
