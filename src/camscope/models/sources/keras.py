"""Keras: the networks of keras.applications, and models in .keras and .h5 files, on Keras' torch backend."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from camscope.errors import ModelError, SettingError, first_line, nearest
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import Order, Preprocess
from camscope.models.pretrained import out_of_reach
from camscope.models.sources.keras_files import FILES, read_model
from camscope.models.sources.keras_net import (
    KerasNet,
    architecture,
    from_architecture,
    input_shape,
    keras,
)
from camscope.models.sources.keras_pixels import Range, expected_range
from camscope.models.sources.keras_tf_ops import operation_layer
from camscope.models.sources.keras_weights import fill_from, with_classifier
from camscope.models.sources.registry import source
from camscope.models.untrained import NEW_HEAD
from camscope.models.weight_names import ALL, KeyFilter
from camscope.models.weights import file_sha256

# Options that would override the arguments of `load` for network, weights or preprocessing.
_RESERVED = ("weights", "classes", "input_shape", "input_tensor", "include_top", "include_preprocessing")
_OF_FILES = ("custom_objects", "preprocess", "architecture")
_SIZE = (224, 224)
# Range of pixels -> mean and std that scale pixels in [0, 1] to it.
_SCALES: dict[Range, tuple[float, float]] = {"[0, 1]": (0.0, 1.0), "[0, 255]": (0.0, 1 / 255), "[-1, 1]": (0.5, 0.5)}
# Layers and operations that do not change probabilities.
_TRANSPARENT = ("Activation", "Cast", "Dropout", "Flatten", "Identity", "Permute", "Reshape", "Squeeze", "Transpose")
_PATIENCE = 30.0  # seconds


def names() -> list[str]:
    """Return every network of keras.applications; none where Keras is not installed.

    They are read from the package's file, where it has one: importing Keras takes seconds.
    """
    spec = importlib.util.find_spec("keras")
    if spec is None or spec.origin is None:
        return []
    index = Path(spec.origin).with_name("applications") / "__init__.py"
    if index.is_file():
        return sorted(re.findall(r" as ([A-Z]\w*),?$", index.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return [name for name in dir(keras().applications) if name[0].isupper()]


@source("keras", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    keys: KeyFilter = ALL,
    outcome: str | None = None,
) -> Model:
    """Return a network of keras.applications with its family's preprocessing, or the model in a file that Keras wrote.

    Files have no preprocessing: images are squashed to the input size, and pixels are in the range that the
    arithmetic before the model's first weights expects, or in [0, 1] without such arithmetic.
    ``facts["assumed"]`` has the range, and whether it is a guess.
    ``options={"preprocess": "vgg16"}`` prepares images as ``keras.applications.vgg16.preprocess_input`` does, and
    ``options={"custom_objects": {...}}`` has the custom classes.
    """
    package = keras()
    operation_layer()  # registers layers before Keras copies a model that has them
    from_file = "architecture" in options or Path(name).suffix.lower() in FILES
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), package.device("cpu"):
        warnings.simplefilter("ignore")  # warnings about how a model was built
        build = _from_file if from_file else _application
        model = build(
            name, weights=weights, classes=classes, input_size=input_size, options=options, keys=keys, outcome=outcome
        )
    return (
        _with_assumption(model, "the file")
        if from_file and not {"architecture", "preprocess"} & options.keys()
        else model
    )


def of_model(keras_model: Any) -> Model:
    """Return a copy of a Keras model in memory, with pixels prepared as for a file.

    Raises:
        ModelError: it is not built, takes or returns several tensors, or has layers that Keras cannot copy.
    """
    keras(), operation_layer()
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = _size_of(keras_model)
        try:
            copy = from_architecture(architecture(keras_model), custom_objects={})
            copy.set_weights(keras_model.get_weights())
        except Exception as error:  # Keras raises exceptions of any type
            raise ModelError(
                f"the Keras model {keras_model.name!r} cannot be copied ({first_line(error)}): save it as a .keras "
                "file and load that, with options={'custom_objects': ...} for layers of your own"
            ) from error
        model = _as_model(str(keras_model.name), copy, KerasNet(copy), size=size)
    return _with_assumption(model, "the model")


def _as_model(
    name: str, keras_model: Any, net: KerasNet, *, size: tuple[int, int], family: str | None = None, **fields: Any
) -> Model:
    """Return a `Model` for a Keras model without further information.

    Args:
        name: name of the model.
        keras_model: the Keras model; its layers determine the range of pixels and the kind of output.
        net: the network, with the weights to use.
        size: (height, width) of the input.
        family: module of keras.applications that prepares the pixels; None: the range is determined from the layers.
        **fields: further fields of `Model`.
    """
    expected = expected_range(keras_model, size) if family is None else None
    return Model(
        name,
        net,
        preprocess=_prepared(keras_model, size, family, expected),
        outcome="any" if _ends_in(keras_model, "sigmoid") else "one",
        facts=fields.pop("facts", {}) | ({} if expected is None else {"pixels": expected}),
        **fields,
    )


def _with_assumption(model: Model, whole: str) -> Model:
    """Return a model with the fact of what was assumed of its images."""
    high, wide = model.preprocess.input_size
    scale = model.facts.get("pixels")
    expectation = f"{scale}, as the arithmetic before the first weights expects"
    guess = (
        "[0, 1], which is a guess: nothing in the model tells the range, so pass mean=0 and std=1 where this is "
        "right, or mean=0 and std=0.00392157 if it was trained on pixels in [0, 255]"
    )
    assumed = (
        f"{whole} does not say how its images were prepared; without mean and std they are squashed to "
        f"{high} x {wide}, with pixels in {expectation if scale else guess}"
    )
    return replace(model, facts={"assumed": assumed} | {k: fact for k, fact in model.facts.items() if k != "pixels"})


def _application(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    keys: KeyFilter,
    outcome: str | None,
) -> Model:
    package = keras()
    spec = f"keras:{name}"
    if name not in names():
        raise ModelError(nearest("Keras model", name, names()))
    reserved = [key for key in options if key in _RESERVED]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: weights=, classes= and input_size= set it")
    maker = getattr(package.applications, name)
    if classes is not None and outcome == "any":
        options = {"classifier_activation": "sigmoid", **options}
    keywords = dict(options)
    if classes is not None:
        keywords["classes"] = classes
    if input_size is not None:
        keywords["input_shape"] = (*input_size, 3)
    model = _published(spec, maker, keywords) if weights == "default" else _build(spec, maker, keywords)
    net, sha256 = KerasNet(model), None
    facts: dict[str, Any] = {}
    if isinstance(weights, Path):
        facts = fill_from(net, weights, keys)
        sha256 = file_sha256(weights)
    outputs = int(model.output_shape[-1])
    if weights == "default" and classes not in (None, len(_imagenet())):
        facts[NEW_HEAD] = True
    return Model(
        spec,
        net,
        preprocess=_family(maker.__module__, _size_of(model)),
        labels=_imagenet() if outputs == len(_imagenet()) else (),
        recipe=Recipe(spec, classes=outputs, options=dict(options), weights=str(weights), sha256=sha256),
        facts=facts,
    )


def _build(spec: str, maker: Callable[..., Any], keywords: Mapping[str, Any], *, weights: str | None = None) -> Any:
    from keras.src.utils import naming

    naming.reset_uids()  # otherwise the names of layers would depend on earlier models
    try:
        return maker(weights=weights, **keywords)
    except (TypeError, ValueError) as error:
        details = f" with {dict(keywords)}" if keywords else ""
        raise ModelError(f"Keras cannot build {spec}{details}: {first_line(error)}") from error


def _published(spec: str, maker: Callable[..., Any], keywords: Mapping[str, Any]) -> Any:
    """Build a network with the published weights; with other classes or another size, matching weights are used."""
    model_options = {key: value for key, value in keywords.items() if key not in ("classes", "input_shape")}
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # Keras would wait for the timeout of the system
    try:
        published = _build(spec, maker, model_options, weights="imagenet")
    except ModelError:
        raise
    except Exception as error:  # Keras has no exception type for failed downloads
        address = re.search(r"https?://\S+", str(error))
        if address is None:
            raise ModelError(f"the published weights of {spec} did not arrive: {first_line(error)}") from error
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
        raise out_of_reach(spec, Path(urlsplit(address[0].rstrip(":")).path).name, folder=folder) from error
    finally:
        socket.setdefaulttimeout(patience)
    if len(model_options) == len(keywords):
        return published
    model = _build(spec, maker, keywords)
    for target, weight in zip(model.weights, published.weights, strict=True):
        if target.shape == weight.shape:
            target.assign(weight)
        elif "classes" not in keywords or target.shape[:-1] != weight.shape[:-1]:
            raise SettingError(
                f"the published weights of {spec} are for {_size_of(published)} pixels only: leave input_size out"
            )
    return model


def _from_file(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    keys: KeyFilter,
    outcome: str | None,
) -> Model:
    """Return the model in a file, or the one that a bundle describes."""
    unknown = [key for key in options if key not in _OF_FILES]
    if unknown:
        raise SettingError(nearest("option for a Keras file", unknown[0], _OF_FILES[:2]))
    path, custom = Path(name), options.get("custom_objects") or {}
    whole = "architecture" not in options
    model = read_model(path, custom) if whole else from_architecture(options["architecture"], custom_objects=custom)
    described = architecture(model) if whole else options["architecture"]
    net, sha256 = KerasNet(model, custom_objects=custom), None
    facts: dict[str, Any] = {}
    if weights == "none":
        net = KerasNet(from_architecture(described, custom_objects=custom), custom_objects=custom)
    outputs = int(model.outputs[0].shape[-1])
    other_ending = _ends_in(model, "softmax" if outcome == "any" else "sigmoid")
    if keys.new_classes and (outputs != classes or (other_ending and outcome is not None)):
        activation = "sigmoid" if outcome == "any" else "softmax"
        net = with_classifier(net, keys.new_classes, activation, custom_objects=custom)
        note = f"the classifier of {path.name} with {outputs} outputs is left out, and that of the network is new"
        facts = {NEW_HEAD: True, "weights_note": note}
        model, outputs, described = net.keras_model, keys.new_classes, architecture(net.keras_model)
    if isinstance(weights, Path):
        facts |= fill_from(net, weights, keys)
    if weights != "none":
        weights_file = weights if isinstance(weights, Path) else path
        sha256 = file_sha256(weights_file)
    size = _size_of(model, input_size)
    if classes not in (None, outputs) and (classes, outputs) != (2, 1):
        raise SettingError(
            f"{path.name} has {outputs} outputs, not {classes}: pass one label per output, and leave classes out"
        )
    return _as_model(
        path.name,
        model,
        net,
        size=size,
        family=options.get("preprocess"),
        recipe=Recipe(
            f"keras:{name}",
            classes=outputs,
            options={**options, "architecture": described},
            weights=str(path if weights == "default" else weights),
            sha256=sha256,
        ),
        facts=facts,
    )


def _size_of(model: Any, input_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (height, width) of the images."""
    shape = input_shape(model)
    height, width = shape[:2] if shape[-1] in (1, 3) else shape[1:]
    if height is None or width is None:
        return input_size or (height or width or _SIZE[0], width or height or _SIZE[1])
    if input_size not in (None, (height, width)):
        raise SettingError(f"the Keras model {model.name!r} takes {height} x {width} pixels only: leave input_size out")
    return height, width


def _family(module: str, size: tuple[int, int]) -> Preprocess:
    """Return the preprocessing of a module of keras.applications, measured on four pixels.

    Per channel it is a x + b of a pixel x in [0, 255], possibly in the order BGR. Images are squashed to the size, as
    ``keras.utils.load_img`` does.
    """
    prepare = sys.modules[module].preprocess_input
    black, *primaries = np.asarray(prepare(np.vstack([np.zeros((1, 3)), 255 * np.eye(3)])), dtype=np.float64)
    gains = np.stack(primaries) - black
    order: Order = "rgb" if gains[0, 0] else "bgr"
    slopes = gains.diagonal() if order == "rgb" else gains[::-1].diagonal()
    return Preprocess(
        input_size=size,
        mean=tuple(round(float(number), 7) for number in -black / slopes),
        std=tuple(float(number) for number in 1 / slopes),
        fit="squash",
        interpolation="bilinear",
        order=order,
    )


def _prepared(model: Any, size: tuple[int, int], family: str | None, expected: Range | None) -> Preprocess:
    """Return the preprocessing of a file's model: a family's, or pixels in the range that its first layers expect."""
    if family is not None:
        modules = sorted({maker.__module__ for maker in _makers()})
        families = [module.rpartition(".")[2] for module in modules]
        if family not in families:
            raise SettingError(nearest("preprocess", family, families))
        return _family(modules[families.index(family)], size)
    shape = input_shape(model)
    channels = 3 if 3 in (shape[0], shape[-1]) else 1
    mean, std = _SCALES[expected or "[0, 1]"]
    return Preprocess(
        input_size=size, mean=(mean,) * channels, std=(std,) * channels, fit="squash", interpolation="bilinear"
    )


def _ends_in(model: Any, activation: str) -> bool:
    """Return whether the output is that of an activation; operations that only change shape or type are skipped."""
    output = model.outputs[0]
    while True:
        operation, index, _ = output._keras_history
        if getattr(operation, "outputs", None):  # a model as a layer
            return _ends_in(operation, activation)
        name = getattr(getattr(operation, "activation", None), "__name__", "linear")
        if activation in (name, type(operation).__name__.lower()):
            return True
        inputs = operation._inbound_nodes[index].input_tensors
        if type(operation).__name__ not in _TRANSPARENT or name != "linear" or len(inputs) != 1:
            return False
        output = inputs[0]


def _makers() -> list[Any]:
    applications = keras().applications
    return [getattr(applications, name) for name in names()]


def _imagenet() -> tuple[str, ...]:
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_descriptions())
