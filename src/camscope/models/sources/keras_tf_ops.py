"""Operations of TensorFlow in .h5 files of Keras 2, rebuilt from their names and numbers.

In the functional API of Keras 2, ``x / 127.5`` becomes a layer ``TFOpLambda`` that names the function "math.truediv",
and ``x[..., ::-1]`` a ``SlicingOpLambda``. No code is in the file: each is computed by an operation of Keras 3 here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from camscope.errors import ModelError
from camscope.models.sources.keras_net import keras

KINDS = ("TFOpLambda", "SlicingOpLambda")
_CONSTANT = "_CONSTANT_VALUE"
_REFERENCE_LENGTH = 3
_ELLIPSIS = "..."


def _resize(images: Any, size: Any, method: Any = "bilinear", antialias: Any = None) -> Any:
    if method not in ("bilinear", "nearest"):
        raise ModelError(f"image.resize with the method {method!r} cannot be rebuilt; possible: bilinear, nearest")
    return keras().ops.image.resize(images, tuple(size), interpolation=method, antialias=bool(antialias))


def _getitem(tensor: Any, slice_spec: Any) -> Any:
    """Index a tensor as Python does; negative steps, which PyTorch does not support, use explicit indices."""
    parts = list(slice_spec) if isinstance(slice_spec, list | tuple) else [slice_spec]
    ellipsis = parts.index(_ELLIPSIS) if _ELLIPSIS in parts else len(parts)
    for position, part in enumerate(parts):
        if isinstance(part, Mapping):
            parts[position] = slice(part.get("start"), part.get("stop"), part.get("step"))
            if (part.get("step") or 1) < 0:
                axis = position if position < ellipsis else position - len(parts) + len(tensor.shape)
                places = range(tensor.shape[axis])[parts[position]]
                tensor, parts[position] = keras().ops.take(tensor, list(places), axis=axis), slice(None)
    return tensor[tuple(Ellipsis if part == _ELLIPSIS else part for part in parts)]


def _operations() -> dict[str, Callable[..., Any]]:
    """Return functions by the last part of TensorFlow's name; parameters have TensorFlow's names and order."""
    ops = keras().ops
    return {
        "add": lambda x, y: ops.add(x, y),
        "subtract": lambda x, y: ops.subtract(x, y),
        "multiply": lambda x, y: ops.multiply(x, y),
        "truediv": lambda x, y: ops.true_divide(x, y),
        "divide": lambda x, y: ops.true_divide(x, y),
        "pow": lambda x, y: ops.power(x, y),
        "maximum": lambda x, y: ops.maximum(x, y),
        "minimum": lambda x, y: ops.minimum(x, y),
        "sqrt": lambda x: ops.sqrt(x),
        "square": lambda x: ops.square(x),
        "exp": lambda x: ops.exp(x),
        "log": lambda x: ops.log(x),
        "abs": lambda x: ops.abs(x),
        "negative": lambda x: ops.negative(x),
        "tanh": lambda x: ops.tanh(x),
        "sigmoid": lambda x: ops.sigmoid(x),
        "identity": lambda input: input,  # noqa: A006
        "softmax": lambda logits, axis=-1: ops.softmax(logits, axis=-1 if axis is None else axis),
        "relu": lambda features: ops.relu(features),
        "relu6": lambda features: ops.relu6(features),
        "elu": lambda features: ops.elu(features),
        "gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
        "silu": lambda features, beta=1.0: features * ops.sigmoid(beta * features),
        "swish": lambda features, beta=1.0: features * ops.sigmoid(beta * features),
        "softplus": lambda features: ops.softplus(features),
        "leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, negative_slope=alpha),
        "bias_add": lambda value, bias, data_format=None: _bias_add(value, bias, data_format),
        "reduce_mean": lambda input_tensor, axis=None, keepdims=False: ops.mean(input_tensor, axis, keepdims=keepdims),
        "reduce_sum": lambda input_tensor, axis=None, keepdims=False: ops.sum(input_tensor, axis, keepdims=keepdims),
        "reduce_max": lambda input_tensor, axis=None, keepdims=False: ops.max(input_tensor, axis, keepdims=keepdims),
        "reduce_min": lambda input_tensor, axis=None, keepdims=False: ops.min(input_tensor, axis, keepdims=keepdims),
        "cast": lambda x, dtype: ops.cast(x, dtype),
        "reshape": lambda tensor, shape: ops.reshape(tensor, tuple(shape)),
        "transpose": lambda a, perm=None: ops.transpose(a, perm),
        "concat": lambda values, axis: ops.concatenate(values, axis=axis),
        "stack": lambda values, axis=0: ops.stack(values, axis=axis),
        "squeeze": lambda input, axis=None: ops.squeeze(input, axis=tuple(axis) if axis else None),  # noqa: A006
        "expand_dims": lambda input, axis: ops.expand_dims(input, axis),  # noqa: A006
        "reverse": lambda tensor, axis: ops.flip(tensor, axis=tuple(axis)),
        "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
        "resize": _resize,
        "getitem": _getitem,
    }


def _bias_add(value: Any, bias: Any, data_format: str | None) -> Any:
    if data_format and not data_format.endswith("C"):
        bias = keras().ops.reshape(bias, (-1, 1, 1))
    return keras().ops.add(value, bias)


@functools.cache
def operation_layer() -> Any:
    """Return the class of layers that compute such an operation; it is registered with Keras, for copies of models."""
    package = keras()
    operations = _operations()

    class TensorFlowOperation(package.layers.Layer):  # type: ignore[misc,name-defined]
        """Layer that computes one TensorFlow operation by its name."""

        def __init__(self, function: str, **settings: Any) -> None:
            super().__init__(**settings)
            self.function = function

        def call(self, tensor: Any, **settings: Any) -> Any:
            """Return the operation of a tensor or a list of them; ``constant`` stands before it, for ``1 - x``."""
            settings = {key: value for key, value in settings.items() if key not in ("name", "training")}
            if "constant" in settings:
                return operations[_short(self.function)](settings.pop("constant"), tensor, **settings)
            return operations[_short(self.function)](tensor, **settings)

        def get_config(self) -> dict[str, Any]:
            """Return what makes the layer again."""
            return {**super().get_config(), "function": self.function}

    return package.saving.register_keras_serializable(package="camscope")(TensorFlowOperation)


def custom_objects() -> dict[str, Any]:
    """Return the layers of Keras 2 that name operations, by class name."""
    layer = operation_layer()

    def from_config(config: Mapping[str, Any]) -> Any:
        function = config.get("function", "__operators__.getitem")
        return layer(function, name=config["name"], trainable=config.get("trainable", True))

    return {kind: type(kind, (), {"from_config": staticmethod(from_config)}) for kind in KINDS}


def converted(config: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return the configuration of a model in which the calls of operations are written as Keras 3 reads them.

    Args:
        config: of a model of Keras 2, from JSON.
        origin: name of the file, for errors.

    Raises:
        ModelError: an operation or one of its settings cannot be rebuilt.
    """
    inner = config.get("config")
    if not isinstance(inner, dict) or not isinstance(inner.get("layers"), list):
        return config
    names = {layer.get("name") or layer.get("config", {}).get("name") for layer in inner["layers"]}
    layers = [
        {**layer, "inbound_nodes": [_node(part, names, layer, origin) for part in layer.get("inbound_nodes", [])]}
        if layer.get("class_name") in KINDS
        else converted(layer, origin)
        for layer in inner["layers"]
    ]
    return {**config, "config": {**inner, "layers": layers}}


def _short(function: str) -> str:
    return function.rpartition(".")[2]


def _node(node: Any, names: set[str], layer: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return one call of an operation: its tensors as positional arguments, its numbers by name."""
    function = layer["config"].get("function", "__operators__.getitem")
    operation = _operations().get(_short(function))
    if operation is None:
        raise ModelError(
            f"{origin} holds the TensorFlow operation {function!r} (layer {layer['name']!r}), which cannot be rebuilt: "
            "save the model with a Keras layer in its place"
        )
    calls = node if node and isinstance(node[0], list) else [node]
    settings = dict(calls[0][3]) if len(calls[0]) > _REFERENCE_LENGTH else {}
    settings = {key: _argument(value, names) for key, value in settings.items() if key != "name" and value is not None}
    inputs: Any = [call[2] if call[0] == _CONSTANT else _reference(call) for call in calls]
    if calls is not node:
        first = inputs[0]
        if calls[0][0] == _CONSTANT:
            tensors = [key for key, value in settings.items() if _is_tensor(value)]
            settings["constant"], first = first, settings.pop(tensors[0])
        inputs = first
    accepted = (*operation.__code__.co_varnames[: operation.__code__.co_argcount], "constant")
    if unknown := [key for key in settings if key not in accepted]:
        raise ModelError(
            f"{origin} holds the TensorFlow operation {function!r} (layer {layer['name']!r}) with the setting "
            f"{unknown[0]!r}, which cannot be rebuilt: save the model with a Keras layer in its place"
        )
    return {"args": [inputs], "kwargs": settings}


def _argument(value: Any, names: set[str]) -> Any:
    """Return a setting of a call; tensors are written as [layer, node, number], tuples and ... as objects."""
    if isinstance(value, Mapping) and "class_name" in value:
        value = _ELLIPSIS if value["class_name"] == "__ellipsis__" else value.get("items", value)
    if isinstance(value, list) and len(value) == _REFERENCE_LENGTH and value[0] in names and isinstance(value[1], int):
        return _reference(value)
    return [_argument(part, names) for part in value] if isinstance(value, list | tuple) else value


def _reference(call: list[Any]) -> dict[str, Any]:
    history = {"shape": [None], "dtype": "float32", "keras_history": call[:_REFERENCE_LENGTH]}
    return {"class_name": "__keras_tensor__", "config": history}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__"


def layers_of(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every part of a configuration that names a class, at any depth."""
    if isinstance(config, Mapping):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from layers_of(value)
    elif isinstance(config, list):
        for value in config:
            yield from layers_of(value)
