"""ONNX files, run by onnxruntime: black boxes whose inputs, outputs and last node are read from the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camscope.errors import ModelError, SettingError, first_line, nearest, require
from camscope.models.black_box import Returns, black_box
from camscope.models.model import Model, Outcome, Recipe
from camscope.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from camscope.models.sources.registry import source
from camscope.models.weights import file_sha256

SUFFIX = ".onnx"

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
# Nodes that change the shape of scores, not their values.
_FORM = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_LINKS: dict[str, Outcome] = {"Softmax": "one", "LogSoftmax": "one", "Sigmoid": "any"}
_OPTIONS = ("output", "providers")
_AXES = 4


def names() -> list[str]:
    """Return no names: the source takes files."""
    return []


@source("onnx", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    labels: Sequence[str] | None = None,
) -> Model:
    """Load an ONNX file as a black box.

    Input size, channels, their order and the batch size are those of the graph. A softmax or sigmoid at its end is
    undone: the tensor before it becomes the output.

    Args:
        name: path of the file.
        weights: "default"; the file has its own.
        classes: number of outputs, which must be the graph's; None: as many as it has.
        input_size: (height, width), where the graph leaves it open.
        options: ``output``, the name of one of several outputs, and ``providers`` of onnxruntime.
        labels: class names.

    Raises:
        ModelError: for a file that onnxruntime cannot run, or that does not map images to scores.
    """
    runtime, onnx = (require(package, f"onnx:{name}", "onnx") for package in ("onnxruntime", "onnx"))
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"there is no ONNX file {name!r}; name it as onnx:FILE.onnx")
    if weights != "default":
        raise SettingError(f"{name} has weights of its own: leave weights={str(weights)!r} out")
    for option in options:
        if option not in _OPTIONS:
            raise SettingError(f"{nearest('option of onnx', option, _OPTIONS)}")
    providers = list(options.get("providers", ["CPUExecutionProvider"]))
    session = _session(runtime, str(path), providers, name=name)
    output = _output_of(session, options.get("output"), name=name)
    end = _end_of(onnx, path, output)
    returns: Returns = "probabilities" if end.link in ("Softmax", "Sigmoid") else "scores"
    if end.content is not None:
        session, output, returns = _session(runtime, end.content, providers, name=name), end.before, "scores"
    run = _Runner(session, output, size=input_size, name=name, last=end.channels_last)
    outputs = _shape(run, name=name)[1]
    if classes not in (None, outputs) and (len(labels or ()), outputs) != (2, 1):
        raise SettingError(f"{name} has {outputs} classes, and classes or labels ask for {classes}: leave classes out")
    outcome = _LINKS.get(end.link, "one")
    outcome = "any" if outputs == 1 and outcome == "one" else outcome
    sha256 = file_sha256(path)
    model = black_box(
        run,
        preprocess=run.preprocess,
        labels=labels or (),
        outcome=outcome,
        name=f"onnx:{name}",
        takes="torch",
        returns=returns,
        version=f"{sha256} {output}",
    )
    recipe = Recipe(f"onnx:{name}", classes=outputs, options=dict(options), weights="default", sha256=sha256)
    return dataclasses.replace(model, recipe=recipe, facts={"assumed": run.assumed} if run.assumed else {})


def _session(runtime: Any, content: str | bytes, providers: list[str], *, name: str) -> Any:
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    try:
        return runtime.InferenceSession(content, settings, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise ModelError(f"onnxruntime cannot load {name}: {first_line(error)}") from error


def _output_of(session: Any, choice: str | None, *, name: str) -> str:
    """Return the name of the output that holds the scores."""
    outputs = [output.name for output in session.get_outputs()]
    if choice is None and len(outputs) > 1:
        raise ModelError(f"{name} has several outputs, {', '.join(outputs)}: say which, options={{'output': NAME}}")
    if choice is not None and choice not in outputs:
        raise ModelError(nearest(f"output of {name}", choice, outputs))
    return choice or outputs[0]


class _End(NamedTuple):
    """The last function of a graph.

    Attributes:
        link: "Softmax", "LogSoftmax", "Sigmoid", or "".
        before: the input of the link.
        content: the graph with that tensor as an output; None where there is no link to undo.
        channels_last: whether the classes are on the last axis of a map.
    """

    link: str = ""
    before: str = ""
    content: bytes | None = None
    channels_last: bool = False


def _end_of(onnx: Any, path: Path, output: str) -> _End:
    """Find the last node that computes an output, past those that change its form alone."""
    model = onnx.load(str(path), load_external_data=False)
    makers = {tensor: node for node in model.graph.node for tensor in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _FORM:
        node = makers.get(node.input[0])
    if node is None or node.op_type not in _LINKS:
        return _End()
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    last = node.op_type != "Sigmoid" and axis in (-1, _AXES - 1)
    if node.op_type == "LogSoftmax":  # its output can be used as a logit
        return _End(node.op_type, channels_last=last)
    if any(onnx.external_data_helper.uses_external_data(weight) for weight in model.graph.initializer):
        return _End(node.op_type, channels_last=last)  # such a graph cannot be changed in memory
    model.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
    return _End(node.op_type, node.input[0], model.SerializeToString(), last)


class _Runner:
    """An onnxruntime session as a function of tensors (B, C, h, w).

    Attributes:
        preprocess: how images become its input.
        assumed: what had to be assumed about that; "" where nothing was.
    """

    def __init__(self, session: Any, output: str, *, size: tuple[int, int] | None, name: str, last: bool) -> None:
        self.session, self.output, self.name, self.classes_last = session, output, name, last
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != _AXES or inputs[0].type not in _DTYPES:
            listing = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
            raise ModelError(f"{name} takes {listing or 'nothing'}; expected one batch of images with 4 axes")
        self.input, self.dtype = inputs[0].name, _DTYPES[inputs[0].type]
        shape = [length if isinstance(length, int) and length > 0 else None for length in inputs[0].shape]
        self.channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
        channels = shape[3 if self.channels_last else 1] or 3
        if channels not in (1, 3):
            raise ModelError(f"{name} takes images of {channels} channels; expected 1 (grey) or 3 (RGB)")
        self.batch = shape[0]
        graph_size = tuple(shape[1:3] if self.channels_last else shape[2:4])
        self.preprocess, self.assumed = self._preprocess(channels, graph_size, size)

    def _preprocess(
        self, channels: int, graph_size: tuple[int | None, ...], size: tuple[int, int] | None
    ) -> tuple[Preprocess, str]:
        """Return the preprocessing from the graph, and the text of what was assumed."""
        if size is not None and any(have not in (None, want) for have, want in zip(graph_size, size, strict=True)):
            raise SettingError(
                f"{self.name} takes images of {graph_size[0]} x {graph_size[1]}, and input_size is {size}"
            )
        height, width = size or graph_size
        if height is None or width is None:
            raise SettingError(f"{self.name} leaves the size of images open: pass input_size=(height, width)")
        if self.dtype is np.uint8:
            return Preprocess(input_size=(height, width), mean=(0.0,) * channels, std=(1.0,) * channels), ""
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
        assumed = (
            f"{self.name} does not say how its input is normalised, so mean {mean} and std {std} are assumed; say "
            "otherwise with mean= and std="
        )
        return Preprocess(input_size=(height, width), mean=mean, std=std), assumed

    def __call__(self, pictures: Tensor) -> npt.NDArray[Any]:
        """Return the output (B, ...) for normalised images (B, C, h, w), in batches of the graph's size."""
        values = pictures.permute(0, 2, 3, 1) if self.channels_last else pictures
        values = (values * 255).round().clamp(0, 255) if self.dtype is np.uint8 else values
        array = np.ascontiguousarray(values.cpu().numpy().astype(self.dtype))
        size = self.batch or len(array)
        parts = []
        for first in range(0, len(array), size):
            part = array[first : first + size]
            missing = size - len(part)
            full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            parts.append(self._run(full)[: len(part)])
        return self._classes_first(np.concatenate(parts))

    def _run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            scores: npt.NDArray[Any] = self.session.run([self.output], {self.input: batch})[0]
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise ModelError(f"onnxruntime cannot run {self.name}: {first_line(error)}") from error
        if scores.ndim == 0 or len(scores) != len(batch):
            raise ModelError(
                f"{self.name} returned {scores.shape} for {len(batch)} images; expected scores (batch, classes)"
            )
        return scores

    def _classes_first(self, scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return scores (B, classes), or maps (B, classes, H, W)."""
        if scores.ndim == _AXES and scores.shape[2:] == (1, 1):
            return scores[:, :, 0, 0]
        if scores.ndim == _AXES and self.classes_last:
            return np.moveaxis(scores, -1, 1)
        return scores[:, None] if scores.ndim == 1 else scores


def _shape(run: _Runner, *, name: str) -> tuple[int, ...]:
    """Return the shape of the output for two images.

    Raises:
        ModelError: the output is no vector of scores and no map of scores per image.
    """
    shape = run(torch.zeros(2, run.preprocess.channels, *run.preprocess.input_size)).shape
    if len(shape) not in (2, _AXES):
        raise ModelError(
            f"{name} returns {tuple(shape[1:])} values per image; expected (classes,) or (classes, height, width): "
            "wrap what makes scores of it yourself with camscope.black_box"
        )
    return tuple(shape)
