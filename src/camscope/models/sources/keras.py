"""Keras: the networks of keras.applications, and models in .keras and .h5 files, on Keras' torch backend."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from camscope.errors import ModelError, SettingError, nearest
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import Order, Preprocess
from camscope.models.published import out_of_reach
from camscope.models.sources.keras_net import (
    KerasNet,
    architecture,
    from_architecture,
    input_shape,
    keras,
    sublayers,
)
from camscope.models.sources.registry import source
from camscope.models.weights import SUFFIXES, file_sha256, fill, read_weights

FILES = (".keras", ".h5", ".hdf5")
"""Endings of files that Keras writes: whole models, or weights alone."""

# What decides behind load's back which network, weights or preprocessing it is.
_RESERVED = ("weights", "classes", "input_shape", "input_tensor", "include_top", "include_preprocessing")
_OF_FILES = ("custom_objects", "preprocess", "architecture")
# Layers of Keras 2 whose files state settings that Keras 3 does not take from them, and those settings.
_CHANGED = ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv2DTranspose")
_DROPPED = {"groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"}
_SIZE = (224, 224)
_PATIENCE = 30.0  # seconds


def names() -> list[str]:
    """Every network of keras.applications; none where Keras is not installed.

    They are read from the package's file, where it has one: importing Keras takes seconds.
    """
    found = importlib.util.find_spec("keras")
    if found is None or found.origin is None:
        return []
    index = Path(found.origin).with_name("applications") / "__init__.py"
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
) -> Model:
    """A network of keras.applications with its family's preprocessing, or the model in a file that Keras wrote.

    A file says nothing of how its pictures were prepared: they are squashed to the input size, and pixels are in
    [0, 1], or in [0, 255] where the model itself rescales or normalises them; ``facts["assumed"]`` says which.
    ``options={"preprocess": "vgg16"}`` prepares them as ``keras.applications.vgg16.preprocess_input`` does, and
    ``options={"custom_objects": {...}}`` holds the classes that Keras does not know.
    """
    package = keras()
    from_file = "architecture" in options or Path(name).suffix.lower() in FILES
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), package.device("cpu"):
        warnings.simplefilter("ignore")  # Keras' own concern how a model was built
        build = _from_file if from_file else _application
        model = build(name, weights=weights, classes=classes, input_size=input_size, options=options)
    if from_file and not {"architecture", "preprocess"} & options.keys():
        high, wide = model.preprocess.input_size
        scale = "[0, 1]" if model.preprocess.std[0] == 1 else "[0, 255], which the model's first layers rescale"
        assumed = (
            "the file does not say how its pictures were prepared; without mean and std they are squashed to "
            f"{high} x {wide}, with pixels in {scale}"
        )
        return replace(model, facts={"assumed": assumed})
    return model


def _application(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> Model:
    package = keras()
    spec = f"keras:{name}"
    if name not in names():
        raise ModelError(nearest("Keras model", name, names()))
    reserved = [key for key in options if key in _RESERVED]
    if reserved:
        raise SettingError(f"{reserved[0]} is not for options: load has weights=, classes= and input_size= for that")
    maker = getattr(package.applications, name)
    keywords = dict(options)
    if classes is not None:
        keywords["classes"] = classes
    if input_size is not None:
        keywords["input_shape"] = (*input_size, 3)
    model = _published(spec, maker, keywords) if weights == "default" else _build(spec, maker, keywords)
    net, sha256 = KerasNet(model), None
    if isinstance(weights, Path):
        _fill_from(net, weights)
        sha256 = file_sha256(weights)
    outputs = int(model.output_shape[-1])
    return Model(
        spec,
        net,
        preprocess=_family(maker.__module__, _size_of(model)),
        labels=_imagenet() if outputs == len(_imagenet()) else (),
        recipe=Recipe(spec, classes=outputs, options=dict(options), weights=str(weights), sha256=sha256),
    )


def _build(spec: str, maker: Callable[..., Any], keywords: Mapping[str, Any], *, weights: str | None = None) -> Any:
    from keras.src.utils import naming

    naming.reset_uids()  # or the names of layers would depend on what was built before
    try:
        return maker(weights=weights, **keywords)
    except (TypeError, ValueError) as error:
        given = f" with {dict(keywords)}" if keywords else ""
        raise ModelError(f"Keras cannot build {spec}{given}: {_first_line(error)}") from error


def _published(spec: str, maker: Callable[..., Any], keywords: Mapping[str, Any]) -> Any:
    """With the published weights; of those a network of other classes or another size takes what fits."""
    model_options = {key: value for key, value in keywords.items() if key not in ("classes", "input_shape")}
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # Keras would wait for a server as long as the system does
    try:
        published = _build(spec, maker, model_options, weights="imagenet")
    except ModelError:
        raise
    except Exception as error:  # Keras raises no class of its own for a download that failed
        address = re.search(r"https?://\S+", str(error))
        if address is None:
            raise ModelError(f"the published weights of {spec} did not arrive: {_first_line(error)}") from error
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
        raise out_of_reach(spec, Path(urlsplit(address[0].rstrip(":")).path).name, folder=folder) from error
    finally:
        socket.setdefaulttimeout(patience)
    if len(model_options) == len(keywords):
        return published
    model = _build(spec, maker, keywords)
    for own, given in zip(model.weights, published.weights, strict=True):
        if own.shape == given.shape:
            own.assign(given)
        elif "classes" not in keywords or own.shape[:-1] != given.shape[:-1]:
            raise SettingError(
                f"the published weights of {spec} are for {_size_of(published)} pixels alone: leave input_size out"
            )
    return model


def _fill_from(net: KerasNet, path: Path) -> None:
    """Fill in a file of weights: one of PyTorch's kind under this network's names, or one that Keras wrote."""
    if path.suffix.lower() in SUFFIXES:
        fill(net, read_weights(path), origin=str(path))
        return
    if path.suffix.lower() not in FILES:
        raise ModelError(f"{path} is no weights file that can be read; possible: {', '.join((*FILES, *SUFFIXES))}")
    try:
        net.keras_model.load_weights(str(path))
    except Exception as error:  # h5py's and Keras' own, of every class
        raise ModelError(f"{path} does not fit the network {net.keras_model.name!r}: {_first_line(error)}") from error


def _from_file(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> Model:
    """The model in a file, or the one that a bundle describes."""
    unknown = [key for key in options if key not in _OF_FILES]
    if unknown:
        raise SettingError(nearest("option for a Keras file", unknown[0], _OF_FILES[:2]))
    path, custom = Path(name), options.get("custom_objects") or {}
    whole = "architecture" not in options
    model = _read(path, custom) if whole else from_architecture(options["architecture"], custom_objects=custom)
    described = architecture(model) if whole else options["architecture"]
    net, sha256 = KerasNet(model, custom_objects=custom), None
    if weights == "none":
        net = KerasNet(from_architecture(described, custom_objects=custom), custom_objects=custom)
    elif isinstance(weights, Path):
        _fill_from(net, weights)
    if weights != "none":
        read = weights if isinstance(weights, Path) else path
        sha256 = file_sha256(read)
    outputs = int(model.outputs[0].shape[-1])
    if classes not in (None, outputs):
        raise SettingError(
            f"{path.name} has {outputs} classes, not {classes}: give as many labels, and leave classes out"
        )
    return Model(
        path.name,
        net,
        preprocess=_prepared(model, _size_of(model, input_size), options.get("preprocess")),
        outcome="any" if _ends_in(model, "sigmoid") else "one",
        recipe=Recipe(
            f"keras:{name}",
            classes=outputs,
            options={**options, "architecture": described},
            weights=str(path if weights == "default" else weights),
            sha256=sha256,
        ),
    )


def _read(path: Path, custom: Mapping[str, Any]) -> Any:
    """A whole model, with safe mode on: no code of the file runs."""
    if not path.is_file():
        raise ModelError(f"there is no Keras model {str(path)!r}")
    old = {} if path.suffix.lower() == ".keras" else {name: _of_keras_2(name) for name in _CHANGED}
    try:
        return keras().saving.load_model(path, custom_objects={**old, **custom}, compile=False, safe_mode=True)
    except Exception as error:  # zipfile's, h5py's and Keras' own, of every class
        raise _unreadable(path, str(error)) from error


def _of_keras_2(name: str) -> type:
    """Stands for a layer while a file of Keras 2 is read, without the settings that Keras 3 refuses."""

    def from_config(config: dict[str, Any]) -> Any:
        layer = getattr(keras().layers, name)
        refused = _DROPPED - inspect.signature(layer).parameters.keys()
        return layer.from_config({key: value for key, value in config.items() if key not in refused})

    return type(name, (), {"from_config": staticmethod(from_config)})


def _unreadable(path: Path, said: str) -> ModelError:
    unknown = re.search(r"(?:Could not locate|Unknown) [\w ]+:? '([^']+)'", said)
    registered = re.search(r"'registered_name': '([^']+)'", said) or unknown
    if "ambda" in said:
        return ModelError(
            f"{path} holds a Lambda layer, code that would run from the file, and camscope never runs it: build the "
            "model in Keras with a layer class in its place and save it again"
        )
    if unknown and registered:
        name = unknown[1].rpartition(">")[2]
        return ModelError(
            f"{path} needs {name!r}, which Keras does not know: in Python pass options={{'custom_objects': "
            f"{{{registered[1]!r}: {name}}}}}, and for the command save the model with layers of Keras alone"
        )
    if "model config" in said:
        return ModelError(f"{path} holds weights alone: name their network, such as arch='keras:VGG16'")
    return ModelError(f"{path} cannot be read as a Keras model: {_first_line(said)}")


def _size_of(model: Any, wanted: tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) of the pictures."""
    shape = input_shape(model)
    height, width = shape[:2] if shape[-1] in (1, 3) else shape[1:]
    if height is None or width is None:
        return wanted or (height or width or _SIZE[0], width or height or _SIZE[1])
    if wanted not in (None, (height, width)):
        raise SettingError(
            f"the Keras model {model.name!r} takes {height} x {width} pixels alone: leave input_size out"
        )
    return height, width


def _family(module: str, size: tuple[int, int]) -> Preprocess:
    """Preprocessing of a module of keras.applications, read off what its preprocess_input makes of four pixels.

    Per channel it is a x + b of a pixel x in [0, 255], perhaps in the order BGR. Pictures are squashed to the size, as
    ``keras.utils.load_img`` does.
    """
    prepare = sys.modules[module].preprocess_input
    black, *primaries = np.asarray(prepare(np.vstack([np.zeros((1, 3)), 255 * np.eye(3)])), dtype=np.float64)
    gains = np.stack(primaries) - black
    order: Order = "rgb" if gains[0, 0] else "bgr"
    slopes = gains.diagonal() if order == "rgb" else gains[::-1].diagonal()
    return Preprocess(
        input_size=size,
        mean=tuple(round(float(v), 7) for v in -black / slopes),
        std=tuple(float(v) for v in 1 / slopes),
        fit="squash",
        interpolation="bilinear",
        order=order,
    )


def _prepared(model: Any, size: tuple[int, int], family: str | None) -> Preprocess:
    """Preprocessing of a file's model: as a family's, or as its first layers tell."""
    if family is not None:
        modules = sorted({maker.__module__ for maker in _makers()})
        known = [module.rpartition(".")[2] for module in modules]
        if family not in known:
            raise SettingError(nearest("preprocess", family, known))
        return _family(modules[known.index(family)], size)
    shape = input_shape(model)
    channels = 3 if 3 in (shape[0], shape[-1]) else 1
    std = (1 / 255 if _scales_bytes(model) else 1.0,) * channels
    return Preprocess(input_size=size, mean=(0.0,) * channels, std=std, fit="squash", interpolation="bilinear")


def _scales_bytes(model: Any) -> bool:
    """Whether a layer before the first learned one brings pixels down from [0, 255]."""
    for layer in _leaves(model):
        if layer._trainable_variables:
            return False
        kind = type(layer).__name__
        if kind == "Rescaling":
            return bool(np.max(layer.scale) < 1)
        if kind == "Normalization":
            return bool(np.max(np.abs(keras().ops.convert_to_numpy(layer.mean))) > 1)
    return False


def _leaves(layer: Any) -> Iterator[Any]:
    within = sublayers(layer)
    if not within:
        yield layer
    for child in within:
        yield from _leaves(child)


def _ends_in(model: Any, activation: str) -> bool:
    *_, last = _leaves(model)
    return getattr(getattr(last, "activation", None), "__name__", "") == activation


def _makers() -> list[Any]:
    applications = keras().applications
    return [getattr(applications, name) for name in names()]


def _imagenet() -> tuple[str, ...]:
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_descriptions())


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]
