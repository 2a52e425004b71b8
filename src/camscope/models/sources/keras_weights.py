"""Fill Keras networks from files, and exchange their classifier."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from camscope.errors import ModelError, SettingError, first_line, require
from camscope.models.classifier import classifier_of
from camscope.models.sources.keras_files import FILES, check_file
from camscope.models.sources.keras_net import KerasNet, architecture, from_architecture
from camscope.models.sources.keras_tf_ops import layers_of
from camscope.models.untrained import NEW_HEAD
from camscope.models.weight_names import KeyFilter, shortened
from camscope.models.weights import SUFFIXES, fill, read_weights


def fill_from(net: KerasNet, path: Path, keys: KeyFilter) -> dict[str, Any]:
    """Fill in a file of weights, of PyTorch's kind or Keras', and return facts on it.

    With ``keys.new_classes``, a classifier of another size in the file is left out, and so is one that it lacks, as the
    published files without top do.

    Raises:
        ModelError: the file cannot be read, or does not fit.
        SettingError: names were chosen in a file of Keras.
    """
    if path.suffix.lower() in SUFFIXES:
        return fill(net, read_weights(path), origin=str(path), keys=keys)
    if keys.chooses_names:
        raise SettingError(
            f"ignore= and prefix= are for weights files of PyTorch, but {path} is not a weights file of PyTorch"
        )
    if path.suffix.lower() not in FILES:
        raise ModelError(f"{path} is not a weights file that can be read; possible: {', '.join((*FILES, *SUFFIXES))}")
    check_file(path)
    model, own = net.keras_model, {key: tensor.clone() for key, tensor in net.state_dict().items()}
    options = {"skip_mismatch": True, **({"by_name": True} if _is_by_name(path) else {})} if keys.new_classes else {}
    for tensor in net.state_dict().values() if keys.new_classes else ():
        tensor.fill_(torch.nan)  # what the file does not fill stays so
    try:
        model.load_weights(str(path), **options)
    except Exception as error:  # h5py and Keras raise exceptions of any type
        raise ModelError(f"{path} does not fit the network {model.name!r}: {first_line(error)}") from error
    gaps = [key for key, tensor in net.state_dict().items() if keys.new_classes and bool(tensor.isnan().all())]
    parts = tuple(f"{name}." for name in _top(net, keys.new_classes)) if gaps else ()
    if missing := [key for key in gaps if not key.startswith(parts)]:
        raise ModelError(
            f"{path} does not fit the network {model.name!r}: it lacks {shortened(missing, separator=', ')}"
        )
    for key in gaps:
        net.state_dict()[key].copy_(own[key])
    new = ", ".join(dict.fromkeys(repr(key.rpartition(".")[0]) for key in gaps))
    text = f"the classifier of {path.name} is left out; new in the network: {new}"
    return {"weights_note": text, NEW_HEAD: True} if gaps else {}


def _top(net: KerasNet, classes: int) -> list[str]:
    """Return the layers at the end that Keras calls the top: the classifier, and Dense layers directly before it."""
    layers = [name for name, module in net.named_modules() if module._parameters]
    top = classifier_of(net, classes)
    for name in reversed(layers[: layers.index(top[0])]):
        if type(net.get_submodule(name)).__name__ != "Dense":
            break
        top.append(name)
    return top


def _is_by_name(path: Path) -> bool:
    """Return whether a file is of Keras 1 or 2, in which layers have their names and not their numbers."""
    h5py = require("h5py", "a Keras file", "keras")
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return "layer_names" in file.attrs or "model_weights" in file


def with_classifier(net: KerasNet, classes: int, activation: str, *, custom_objects: Mapping[str, Any]) -> KerasNet:
    """Return a copy of a network whose last layer is new, with random weights.

    Args:
        net: the network; its last layer with weights is a Dense or convolution.
        classes: number of outputs.
        activation: of the outputs, "softmax" or "sigmoid".
        custom_objects: classes by name, for the copy.

    Raises:
        ModelError: the last layer with weights is of another kind.
    """
    described = copy.deepcopy(architecture(net.keras_model))
    layers: list[Any] = list(layers_of(described))
    dense = [number for number, layer in enumerate(layers) if layer["class_name"] in ("Dense", "Conv2D")]
    outputs = int(net.keras_model.outputs[0].shape[-1])
    last = layers[dense[-1]]["config"] if dense else {}
    size = next((key for key in ("units", "filters") if last.get(key) == outputs), None)
    if size is None:
        raise ModelError(
            f"the last layer of the Keras model {net.keras_model.name!r} is no Dense layer of its {outputs} outputs, "
            f"and cannot be replaced by one of {classes}: add it in Keras, outputs = keras.layers.Dense({classes}, "
            f"activation={activation!r})(features), and save keras.Model(inputs, outputs)"
        )
    last[size] = classes
    if last.get("activation", "linear") != "linear":
        last["activation"] = activation
    for layer in layers[dense[-1] + 1 :]:
        if layer["class_name"] in ("Activation", "Softmax"):
            layer["class_name"] = "Activation"
            layer["config"] = {"name": layer["config"]["name"], "activation": activation}
    for layer in layers:
        layer.pop("build_config", None)  # states the former shapes
    new = KerasNet(from_architecture(described, custom_objects=custom_objects), custom_objects=custom_objects)
    with torch.no_grad():
        for (key, tensor), value in zip(new.state_dict().items(), net.state_dict().values(), strict=True):
            if f".{last['name']}." not in f".{key}":
                tensor.copy_(value)
    return new
