"""What Keras files say without words: ranges of pixels, operations of TensorFlow, bombs; run by test_keras.py."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import camscope as cs
from camscope.errors import ModelError
from camscope.models.sources.keras_net import keras
from camscope.models.weights import read_weights

K = keras()
L = K.layers
APPS = K.applications


@pytest.fixture(autouse=True)
def seeded() -> None:
    K.utils.set_random_seed(0)
    torch.set_num_threads(1)


def model_of(prepare: Any, *, channels: int = 3, dtype: str = "float32") -> Any:
    picture = K.Input((16, 16, channels), dtype=dtype)
    x = L.Conv2D(4, 3, activation="relu")(prepare(picture))
    return K.Model(picture, L.Dense(2, activation="softmax")(L.GlobalAveragePooling2D()(x)))


def load(path: Path, **options: Any) -> cs.Model:
    with pytest.warns(UserWarning, match="does not say how its images were prepared"):
        return cs.load(path, **options)


def nested(prepare: Any) -> Any:
    """The arithmetic in a model of its own, after augmentation."""
    picture = K.Input((16, 16, 3))
    augment = K.Sequential([L.RandomFlip(), L.RandomRotation(0.1), L.RandomBrightness(0.2)])
    inner = K.Input((16, 16, 3))
    return K.Sequential([augment, K.Model(inner, prepare(inner))])(picture), picture


def batch_norm(mean: float, variance: float) -> Any:
    def prepare(x: Any) -> Any:
        layer = L.BatchNormalization()
        y = layer(x)
        layer.set_weights([np.full(3, v) for v in (1.0, 0.0, mean, variance)])
        return y

    return prepare


EXPECTED = {
    "mobilenet": (APPS.mobilenet_v2.preprocess_input, "[0, 255]"),
    "torch": (APPS.densenet.preprocess_input, "[0, 255]"),
    "caffe": (APPS.vgg16.preprocess_input, "[0, 255]"),
    "division": (lambda x: x / 255.0, "[0, 255]"),
    "multiplication": (lambda x: K.ops.cast(x, "float32") * (1 / 255), "[0, 255]"),
    "rescaling": (L.Rescaling(1 / 127.5, offset=-1), "[0, 255]"),
    "per channel": (lambda x: (x - np.array([120.0, 115.0, 100.0], "float32")) / 60.0, "[0, 255]"),
    "normalization": (L.Normalization(mean=[0.48, 0.45, 0.4], variance=[0.05] * 3), "[0, 1]"),
    "unit to signed": (lambda x: x * 2.0 - 1.0, "[0, 1]"),
    "unit to caffe": (lambda x: APPS.vgg16.preprocess_input(x * 255.0), "[0, 1]"),
    "signed to bytes": (lambda x: (x + 1.0) * 127.5, "[-1, 1]"),
    "statistics of bytes": (batch_norm(120.0, 4000.0), "[0, 255]"),
    "statistics of units": (batch_norm(0.45, 0.08), "[0, 1]"),
    "nothing": (lambda x: x, None),
    "fresh statistics": (batch_norm(0.0, 1.0), None),
}
SCALES = {"[0, 1]": (0.0, 1.0), "[0, 255]": (0.0, 1 / 255), "[-1, 1]": (0.5, 0.5), None: (0.0, 1.0)}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_range_of_pixels_is_that_of_the_arithmetic_inside(tmp_path: Path, name: str) -> None:
    prepare, expected = EXPECTED[name]
    model_of(prepare).save(tmp_path / "m.keras")
    model = load(tmp_path / "m.keras")
    assert (model.preprocess.mean[0], model.preprocess.std[0]) == SCALES[expected]
    said = model.facts["assumed"]
    assert (f"pixels in {expected}, as the arithmetic" in said) if expected else ("[0, 1], which is a guess" in said)
    explained = cs.explain(model, np.full((16, 16, 3), 128, np.uint8))
    assert said in explained.notes


def test_arithmetic_in_nested_models_and_after_augmentation(tmp_path: Path) -> None:
    for prepare in (APPS.resnet.preprocess_input, APPS.xception.preprocess_input):
        x, picture = nested(prepare)
        x = L.GlobalAveragePooling2D()(L.Conv2D(2, 3)(x))
        K.Model(picture, L.Dense(2)(x)).save(tmp_path / "m.keras")
        assert load(tmp_path / "m.keras").preprocess.std == (1 / 255,) * 3


def test_inputs_of_integers_are_bytes(tmp_path: Path) -> None:
    model_of(lambda x: K.ops.cast(x, "float32"), dtype="uint8").save(tmp_path / "m.keras")
    assert load(tmp_path / "m.keras").preprocess.std == (1 / 255,) * 3


def test_grey_pictures(tmp_path: Path) -> None:
    model_of(lambda x: x / 255.0, channels=1).save(tmp_path / "m.keras")
    preprocess = load(tmp_path / "m.keras").preprocess
    assert (preprocess.mean, preprocess.std) == ((0.0,), (1 / 255,))


@pytest.mark.parametrize("end", ["operation", "reshaped", "nested", "none"])
def test_a_sigmoid_is_found_behind_what_changes_nothing(tmp_path: Path, end: str) -> None:
    picture = K.Input((16, 16, 3))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(picture))
    logits = L.Dense(3, activation=None if end in ("operation", "none") else "sigmoid")
    if end == "nested":
        y = K.Sequential([logits])(x)
    else:
        y = {"operation": K.ops.sigmoid, "reshaped": lambda v: L.Reshape((3,))(K.ops.cast(v, "float32"))}.get(
            end, lambda v: v
        )(logits(x))
    K.Model(picture, y).save(tmp_path / "m.keras")
    assert load(tmp_path / "m.keras").outcome == ("one" if end == "none" else "any")


def as_keras_2(model: Any, path: Path, layers: list[dict[str, Any]], last: str = "dense") -> Path:
    """A file of the model's weights with the configuration that Keras 2 would have written."""
    model.save(path)
    config = {"name": "m", "layers": layers, "input_layers": [["input_1", 0, 0]], "output_layers": [[last, 0, 0]]}
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        file.attrs["keras_version"], file.attrs["backend"] = "2.11.0", "tensorflow"
    return path


def layer(kind: str, name: str, nodes: list[Any], **config: Any) -> dict[str, Any]:
    config = {"name": name, "dtype": "float32", "trainable": True, **config}
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes}


def operation(function: str, name: str, node: Any) -> dict[str, Any]:
    kind = "SlicingOpLambda" if "getitem" in function else "TFOpLambda"
    return layer(kind, name, [node], function=function)


INPUT = layer("InputLayer", "input_1", [], batch_input_shape=[None, 16, 16, 3], sparse=False, ragged=False)
CONV = {"filters": 4, "kernel_size": [3, 3], "activation": "relu"}
WHOLE = {"start": None, "stop": None, "step": None}
DEPTH = {"start": None, "stop": None, "step": -1}
# What Keras 2 writes, and the same in Keras 3.
CHAINS: dict[str, tuple[list[tuple[str, Any]], Any]] = {
    "signed": (
        [
            ("math.truediv", ["input_1", 0, 0, {"y": 127.5, "name": None}]),
            ("math.subtract", ["a0", 0, 0, {"y": 1.0, "name": None}]),
        ],
        lambda x: x / 127.5 - 1.0,
    ),
    "caffe": (
        [
            (
                "__operators__.getitem",
                [
                    "input_1",
                    0,
                    0,
                    {"slice_spec": {"class_name": "__tuple__", "items": [{"class_name": "__ellipsis__"}, DEPTH]}},
                ],
            ),
            ("nn.bias_add", ["a0", 0, 0, {"bias": [-103.9, -116.8, -123.7], "name": None}]),
        ],
        lambda x: K.ops.flip(x, -1) - np.array([103.9, 116.8, 123.7], "float32"),
    ),
    "constant first": (
        [("math.subtract", ["_CONSTANT_VALUE", -1, 255.0, {"y": ["input_1", 0, 0], "name": None}])],
        lambda x: 255.0 - x,
    ),
    "two tensors": (
        [
            ("math.multiply", ["input_1", 0, 0, {"y": 0.5, "name": None}]),
            ("__operators__.add", ["a0", 0, 0, {"y": ["input_1", 0, 0], "name": None}]),
        ],
        lambda x: x * 1.5,
    ),
    "lists": (
        [
            ("__operators__.getitem", ["input_1", 0, 0, {"slice_spec": [WHOLE, WHOLE, WHOLE, 2]}]),
            ("__operators__.getitem", ["input_1", 0, 0, {"slice_spec": [WHOLE, WHOLE, WHOLE, 0]}]),
            ("stack", [["a0", 0, 0, {"axis": -1}], ["a1", 0, 0, {"axis": -1}], ["a1", 0, 0, {"axis": -1}]]),
            ("concat", [["a2", 0, 0, {"axis": 1}], ["a2", 0, 0, {"axis": 1}]]),
            ("cast", ["a3", 0, 0, {"dtype": "float32", "name": None}]),
            ("image.resize", ["a4", 0, 0, {"size": [16, 16], "method": "nearest"}]),
        ],
        lambda x: K.ops.image.resize(
            K.ops.concatenate([K.ops.take(x, np.array([2, 0, 0]), axis=-1)] * 2, axis=1),
            (16, 16),
            interpolation="nearest",
        ),
    ),
    "statistics": (
        [
            ("math.reduce_mean", ["input_1", 0, 0, {"axis": [1, 2], "keepdims": True, "name": None}]),
            ("math.subtract", ["input_1", 0, 0, {"y": ["a0", 0, 0], "name": None}]),
            ("nn.relu", ["a1", 0, 0, {"name": None}]),
        ],
        lambda x: K.ops.relu(x - K.ops.mean(x, axis=(1, 2), keepdims=True)),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_operations_of_tensorflow_are_rebuilt(tmp_path: Path, name: str) -> None:
    calls, same = CHAINS[name]
    picture = K.Input((16, 16, 3), name="input_1")
    x = L.GlobalAveragePooling2D(name="gap")(L.Conv2D(4, 3, activation="relu", name="conv")(same(picture)))
    own = K.Model(picture, L.Dense(3, activation="softmax", name="dense")(x))
    layers = [
        INPUT,
        *(operation(function, f"a{i}", node) for i, (function, node) in enumerate(calls)),
        layer("Conv2D", "conv", [[[f"a{len(calls) - 1}", 0, 0, {}]]], **CONV),
        layer("GlobalAveragePooling2D", "gap", [[["conv", 0, 0, {}]]], data_format="channels_last"),
        layer("Dense", "dense", [[["gap", 0, 0, {}]]], units=3, activation="softmax"),
    ]
    model = load(as_keras_2(own, tmp_path / "tf2.h5", layers))
    x = torch.rand(2, 3, 16, 16) * 255
    expected = own(x.movedim(1, -1).contiguous()).detach()
    torch.testing.assert_close(model.net(x).detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(model.net)(x).detach(), expected, rtol=1e-4, atol=1e-5)
    again = cs.load(model.save(tmp_path / "bundle"))
    torch.testing.assert_close(again.net(x).detach(), expected, rtol=1e-4, atol=1e-5)


def test_operations_that_cannot_be_rebuilt_are_named(tmp_path: Path) -> None:
    own = model_of(lambda x: x)
    for function, node, text in (
        ("math.betainc", ["input_1", 0, 0, {}], r"operation 'math\.betainc' \(layer 'a0'\)"),
        ("nn.relu", ["input_1", 0, 0, {"bounds": 3}], r"'nn\.relu' \(layer 'a0'\) with the setting 'bounds'"),
    ):
        layers = [INPUT, operation(function, "a0", node)]
        with pytest.raises(ModelError, match=text):
            cs.load(as_keras_2(own, tmp_path / "tf2.h5", layers, last="a0"))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_lambda_layer_is_refused_by_name(tmp_path: Path, ending: str) -> None:
    model_of(L.Lambda(lambda x: 2 * x, name="doubling")).save(tmp_path / f"m{ending}")
    with pytest.raises(ModelError, match="holds a Lambda layer, 'doubling', code that would run"):
        cs.load(tmp_path / f"m{ending}")


def test_files_that_declare_far_more_than_they_hold_are_not_read(tmp_path: Path) -> None:
    model_of(lambda x: x).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as own:
        parts = {name: own.read(name) for name in own.namelist()}
    with zipfile.ZipFile(tmp_path / "zeros.keras", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in parts.items():
            if not name.endswith(".h5"):
                bomb.writestr(name, content)
        with bomb.open("model.weights.h5", "w") as entry:
            for _ in range(300):
                entry.write(bytes(2**20))
    with h5py.File(tmp_path / "shape.weights.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", shape=(2**20, 2**10), dtype="float32", chunks=True)
    with zipfile.ZipFile(tmp_path / "shape.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, (tmp_path / "shape.weights.h5").read_bytes() if name.endswith(".h5") else content)
    with pytest.raises(ModelError, match=r"zeros\.keras has 0\.\d MiB and declares 300 MiB, more than 20 times"):
        cs.load(tmp_path / "zeros.keras")
    with pytest.raises(ModelError, match=r"shape\.keras has .* declares 4,096 MiB"):
        cs.load(tmp_path / "shape.keras")
    with pytest.raises(ModelError, match="declares 4,096 MiB"):
        cs.load("keras:MobileNet", weights=tmp_path / "shape.weights.h5", input_size=64)


def test_weights_that_lie_in_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        file.create_dataset("vars/0", shape=(4,), dtype="float32", external=[(str(tmp_path / "secret"), 0, 16)])
    with h5py.File(tmp_path / "link.weights.h5", "w") as file:
        file["vars"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    for name, text in (("w", "refers to other files for '/vars/0'"), ("link", "instead of holding it")):
        with pytest.raises(ModelError, match=text):
            cs.load("keras:MobileNet", weights=tmp_path / f"{name}.weights.h5", input_size=64)


def test_checkpoints_of_pytorch_fill_a_keras_model(tmp_path: Path) -> None:
    model_of(lambda x: x / 255.0).save(tmp_path / "m.keras")
    state = load(tmp_path / "m.keras").net.state_dict()
    torch.save({**{f"net.{k}": v + 1 for k, v in state.items()}, "loss.scale": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"left over in the weights file: loss\.scale|how its images were"):
        model = cs.load(tmp_path / "m.keras", weights=tmp_path / "w.pth")
    assert all(torch.equal(v, read_weights(tmp_path / "w.pth")[f"net.{k}"]) for k, v in model.net.state_dict().items())
