"""Read Keras files without running code from them or reading other files; the size is checked first."""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camscope.errors import ModelError, require
from camscope.models.sources import keras_tf_ops
from camscope.models.sources.keras_net import keras

# Layers of Keras 2 -> settings in their files that Keras 3 does not accept.
_CHANGED = ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv2DTranspose")
_DROPPED = {"groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"}
# Weights hardly compress: a small file that declares far more is malicious.
_LARGEST_RATIO = 20
_ALWAYS_ALLOWED = 256 * 2**20
_CONFIG = "config.json"

FILES = (".keras", ".h5", ".hdf5")
"""Suffixes of Keras files: whole models, or weights only."""


def read_model(path: Path, custom: Mapping[str, Any]) -> Any:
    """Return the whole model in a .keras or .h5 file.

    Args:
        path: the file.
        custom: classes that Keras does not know, by name.

    Raises:
        ModelError: the file is missing or damaged, would run code, declares too much, or holds unknown layers.
    """
    if not path.is_file():
        raise ModelError(f"there is no Keras model {str(path)!r}")
    try:
        check_file(path)
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                _refuse_code(json.loads(archive.read(_CONFIG)), path)
            return keras().saving.load_model(path, custom_objects=dict(custom), compile=False, safe_mode=True)
        return _read_h5(path, custom)
    except ModelError:
        raise
    except Exception as error:  # zipfile, h5py and Keras raise exceptions of any type
        raise _unreadable(path, str(error)) from error


def check_file(path: Path) -> None:
    """Refuse a file that declares far more than it holds, or that refers to other files.

    Raises:
        ModelError: it does.
    """
    h5py = require("h5py", "a Keras file", "keras")
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                _check_h5(file, size, path)
        return
    with zipfile.ZipFile(path) as archive:
        _check_size(sum(entry.file_size for entry in archive.infolist()), size, path)
        for entry in archive.infolist():
            if entry.filename.endswith(".h5"):
                with archive.open(entry) as content, h5py.File(content) as file:
                    _check_h5(file, size, path)


def _check_h5(group: Any, size: int, path: Path) -> None:
    h5py = require("h5py", "a Keras file", "keras")
    declared = 0

    def visit(folder: Any) -> None:
        nonlocal declared
        for name in folder:
            link = folder.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
                raise ModelError(f"{path} refers to {link.path!r} instead of holding it: save the model again")
            part = folder[name]
            if isinstance(part, h5py.Group):
                visit(part)
            elif part.external or part.is_virtual:
                raise ModelError(f"{path} refers to other files for {part.name!r}: save the model again")
            else:
                declared += part.nbytes

    visit(group)
    _check_size(declared, size, path)


def _check_size(declared: int, size: int, path: Path) -> None:
    if declared > max(_ALWAYS_ALLOWED, _LARGEST_RATIO * size):
        raise ModelError(
            f"{path} has {size / 2**20:.1f} MiB and declares {declared / 2**20:,.0f} MiB, more than {_LARGEST_RATIO} "
            "times as much, as no model does: it is not read"
        )


def _read_h5(path: Path, custom: Mapping[str, Any]) -> Any:
    """Return a model from HDF5; a configuration with operations of TensorFlow is converted in memory."""
    h5py = require("h5py", "a Keras file", "keras")
    from keras.src.legacy.saving import legacy_h5_format

    objects = {name: _of_keras_2(name) for name in _CHANGED} | keras_tf_ops.custom_objects() | dict(custom)
    with h5py.File(path, "r") as file:
        stated = file.attrs.get("model_config")
    if stated is None:
        raise ModelError(f"{path} holds only weights: name their network, such as arch='keras:VGG16'")
    config = json.loads(stated)
    kinds = _refuse_code(config, path)
    if kinds.isdisjoint(keras_tf_ops.KINDS):
        return keras().saving.load_model(path, custom_objects=objects, compile=False, safe_mode=True)
    with h5py.File(path, "r+", driver="core", backing_store=False) as copy:  # in memory alone
        copy.attrs["model_config"] = json.dumps(keras_tf_ops.converted(config, str(path)))
        return legacy_h5_format.load_model_from_hdf5(copy, custom_objects=objects, compile=False, safe_mode=True)


def _refuse_code(config: Any, path: Path) -> set[str]:
    """Return the class names in a configuration, none of which is a layer of code."""
    parts = list(keras_tf_ops.layers_of(config))
    for part in parts:
        if part["class_name"] == "Lambda":
            name = part.get("name") or (part.get("config") or {}).get("name")
            raise ModelError(
                f"{path} holds a Lambda layer, {name!r}, code that would run from the file, and camscope never runs "
                "it: build the model in Keras with a layer class in its place and save it again"
            )
    return {str(part["class_name"]) for part in parts}


def _of_keras_2(name: str) -> type:
    """Create a layer of a Keras 2 file without the settings that Keras 3 rejects."""

    def from_config(config: dict[str, Any]) -> Any:
        layer = getattr(keras().layers, name)
        refused = _DROPPED - inspect.signature(layer).parameters.keys()
        return layer.from_config({key: value for key, value in config.items() if key not in refused})

    return type(name, (), {"from_config": staticmethod(from_config)})


def _unreadable(path: Path, message: str) -> ModelError:
    unknown = re.search(r"(?:Could not locate|Unknown) [\w ]+:? '([^']+)'", message)
    registered = re.search(r"'registered_name': '([^']+)'", message) or unknown
    if unknown and registered:
        name = unknown[1].rpartition(">")[2]
        return ModelError(
            f"{path} needs {name!r}, which Keras does not know: in Python pass options={{'custom_objects': "
            f"{{{registered[1]!r}: {name}}}}}, and for the command save the model with layers of Keras only"
        )
    return ModelError(f"{path} cannot be read as a Keras model: {message.strip().partition(chr(10))[0]}")
