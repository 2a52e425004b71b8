"""Keras models as PyTorch networks: channels first, layers and weights under the names that Keras gives them.

On its torch backend a Keras layer is a torch module, but a model does not list its layers among its children, and each
level repeats the weights of all levels below. Here they become what a network of PyTorch has: children, parameters
and buffers, once each; and what stands there is what the model computes with.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camscope.errors import ModelError, require


def keras() -> Any:
    """Return the package, on its torch backend.

    ``KERAS_BACKEND`` is set where Keras has not been imported yet; afterwards its backend cannot be changed.

    Raises:
        MissingExtraError: it is not installed.
        ModelError: it was imported with another backend.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    package: Any = require("keras", "a Keras model", "keras")
    backend = package.config.backend()
    if backend != "torch":
        raise ModelError(
            f"Keras was imported with its {backend} backend, and camscope needs torch: set KERAS_BACKEND=torch before "
            "the first import of Keras, or load the model with camscope before Keras is imported"
        )
    return package


class _State(NamedTuple):
    """A weight of a layer: Keras uses the variable, PyTorch the entry ``name`` of the table."""

    variable: Any
    table: dict[str, Any]
    name: str


class KerasNet(nn.Module):
    """A Keras model that takes (B, C, H, W) images, with its layers as modules under their Keras names.

    Layers of a model that is itself a layer are below its name, ``vgg16.block5_conv3``. Their outputs keep Keras'
    order of axes. A model whose output has places, (B, H, W, classes), returns (B, classes, H, W).

    Args:
        model: a built Keras model of one image and one output; from here on it shares its weights with this
            network. Either order of axes will do.
        custom_objects: classes by name, for copies of the model.

    Raises:
        ModelError: the model takes or returns several tensors, or no images.
    """

    keras_model: Any

    def __init__(self, model: Any, *, custom_objects: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.channels_last = input_shape(model)[-1] in (1, 3)
        self._custom_objects = dict(custom_objects or {})
        # Not a submodule, otherwise every name would begin with it.
        object.__setattr__(self, "keras_model", model)
        self._states = list(_adopt(model, set()))
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self.eval()  # Keras' own default

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute scores (B, classes) or (B, classes, H, W) of images (B, C, H, W).

        Each layer is in its own mode of training, as modules of PyTorch are: a layer with ``training`` set drops units,
        or normalises by the batch and updates its statistics. Random numbers follow from PyTorch's seed.
        """
        package = keras()
        state = [(s.variable, s.table[s.name]) for s in self._states]
        inputs = pictures.movedim(1, -1) if self.channels_last else pictures
        training = any(module.training for module in self.modules())
        with contextlib.ExitStack() as stack:
            stack.enter_context(package.device(str(pictures.device)))
            layers = self.keras_model._flatten_layers(include_self=False) if training else []
            for layer in layers:
                stack.callback(layer.register_forward_pre_hook(_in_own_mode, with_kwargs=True).remove)
            scope = stack.enter_context(package.StatelessScope(state_mapping=state + _seeds(layers, pictures.device)))
            scores: Tensor = self.keras_model(inputs, training=training)
        for variable, value in state if training else ():
            after = scope.get_current_value(variable)
            if after is not value:
                value.data.copy_(after.detach())
        return scores.movedim(-1, 1) if scores.ndim == 4 and self.channels_last else scores

    def keras_file(self) -> bytes:
        """Return the content of a .keras file with the weights of this network."""
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            path = Path(folder) / "model.keras"
            copy.deepcopy(self).cpu().keras_model.save(path)
            return path.read_bytes()

    def __deepcopy__(self, memo: Any) -> KerasNet:
        """Return an independent copy, built from the configuration."""
        twin = KerasNet(
            from_architecture(architecture(self.keras_model), custom_objects=self._custom_objects),
            custom_objects=self._custom_objects,
        )
        for state, copied in zip(self._states, twin._states, strict=True):
            value = copied.table.pop(copied.name)
            value.data.copy_(state.table[state.name])
            copied.table[state.name] = value
        twin._states = [new._replace(name=state.name) for state, new in zip(self._states, twin._states, strict=True)]
        for module, copied_module in zip(self.modules(), twin.modules(), strict=True):
            children = dict(zip(module._modules, list(copied_module._modules.values()), strict=True))
            copied_module._modules.clear()
            copied_module._modules.update(children)
            copied_module.training = module.training
        device = next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))
        twin.to(device)
        memo[id(self)] = twin
        return twin


def _in_own_mode(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace the mode that a Keras model hands on to its layers by the layer's own."""
    return args, {**kwargs, "training": layer.training} if "training" in kwargs else kwargs


def _seeds(layers: Sequence[Any], device: torch.device) -> list[tuple[Any, Tensor]]:
    """Return a new state, from PyTorch's seed, for each random generator of some layers."""
    states = {id(g.state): g.state for layer in layers for g in getattr(layer, "_seed_generators", ())}
    draws = torch.randint(2**31 - 1, (len(states), 2))
    return [
        (state, draw.to(device=device, dtype=state.value.dtype))
        for state, draw in zip(states.values(), draws, strict=True)
    ]


def architecture(model: Any) -> dict[str, Any]:
    """Return a model without its weights, as plain JSON values."""
    described: dict[str, Any] = keras().saving.serialize_keras_object(model)
    described.pop("compile_config", None)
    return described


def from_architecture(described: Mapping[str, Any], *, custom_objects: Mapping[str, Any]) -> Any:
    """Return the Keras model that `architecture` described, with random weights on the CPU; no code is read."""
    package = keras()
    with package.device("cpu"):
        return package.saving.deserialize_keras_object(
            dict(described), custom_objects=dict(custom_objects), safe_mode=True
        )


def input_shape(model: Any) -> tuple[int | None, ...]:
    """Return the shape of a model's input image without the batch: (H, W, C) or (C, H, W).

    Raises:
        ModelError: it is not built, or takes or returns anything else than one tensor.
    """
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"the Keras model {model.name!r} has {len(inputs)} inputs and {len(outputs)} outputs, and camscope "
            "explains models of one image and one output: save a keras.Model(inputs=..., outputs=...) of those two"
        )
    shape = tuple(inputs[0].shape[1:])
    if len(shape) != 3 or not {shape[0], shape[-1]} & {1, 3}:
        raise ModelError(f"the Keras model {model.name!r} takes {shape}, but expected an image of 1 or 3 channels")
    return shape


def sublayers(layer: Any) -> list[Any]:
    """Return the layers that a Keras layer or model consists of, in order."""
    layers: list[Any] = layer._flatten_layers(include_self=False, recursive=False)
    return layers


def _adopt(layer: Any, ids: set[int]) -> Iterator[_State]:
    """Make sublayers the children of a layer and its own weights its parameters and buffers; all the way down."""
    if id(layer) in ids:
        return
    ids.add(id(layer))
    within = sublayers(layer)
    # Keras also stores there every weight below once more, and the inner model of a Sequential, which never runs
    # as a module. As plain attributes they still answer to their names.
    for name in [name for name, module in layer._modules.items() if module not in within]:
        if not _is_foreign(layer, name):
            layer.__dict__[name] = layer._modules.pop(name)
    layer.__dict__["_torch_params"] = {}
    names = _names_in_containers(layer)
    for child in within:
        if child not in layer._modules.values():
            layer._modules[_free(names.get(id(child), child.name), layer._modules)] = child
    if "module" not in layer._modules:
        yield from _own(layer)
    for child in within:
        yield from _adopt(child, ids)


def _own(layer: Any) -> Iterator[_State]:
    """Yield a layer's weights, those that are never trained as buffers; frozen ones are parameters all the same."""
    learned = (layer._parameters, layer._trainable_variables)
    for table, variables in (learned, (layer._buffers, layer._non_trainable_variables)):
        for variable in variables:
            name = re.sub(r"^variable_\d+$", "variable", variable.name)  # numbered anew in a copy
            name = _free(name, {**layer._parameters, **layer._buffers})
            table[name] = variable.value
            yield _State(variable, table, name)
    if layer._parameters:
        layer.__dict__["reset_parameters"] = functools.partial(_reset, layer)


def _names_in_containers(layer: Any) -> dict[int, str]:
    """Return names of the layers in a layer's lists and dicts, "blocks_0", by id: Keras numbers them anew in a copy."""
    names: dict[int, str] = {}
    for attribute, value in vars(layer).items():
        if isinstance(value, (dict, list, tuple)) and not attribute.startswith("_"):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            names |= {id(child): f"{attribute}_{key}" for key, child in pairs}
    return names


def _is_foreign(layer: Any, name: str) -> bool:
    """Return whether it is a module of PyTorch that Keras wrapped: its weights are its own."""
    return name == "module" and type(layer).__name__ == "TorchModuleWrapper"


def _free(name: str, modules: Mapping[str, Any]) -> str:
    """Return a name without dots that is not taken yet."""
    plain = name.replace(".", "_")
    number = sum(key == plain or key.startswith(f"{plain}_again") for key in modules)
    return plain if plain not in modules else f"{plain}_again{number}"


def _reset(layer: Any) -> None:
    """Reinitialise weights as Keras does; shuffle parameters without an initialiser."""
    with torch.no_grad():
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            initializer = getattr(layer, f"{name}_initializer", None)
            if name == "kernel" and initializer is None:
                initializer = getattr(layer, "depthwise_initializer", None)
            if initializer is not None:
                settings = initializer.get_config()
                if "seed" in settings:
                    settings["seed"] = int(torch.randint(2**31, ()))
                tensor.copy_(type(initializer).from_config(settings)(tuple(tensor.shape), dtype="float32"))
            elif name in layer._parameters:
                tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel()).to(tensor.device)].view_as(tensor))
