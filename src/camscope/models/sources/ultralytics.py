"""YOLO and RT-DETR of Ultralytics: detectors, segmentation networks as detectors of boxes, and classifiers."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch._tensor_str import PRINT_OPTS

from camscope.errors import ModelError, SettingError, nearest, require
from camscope.models.model import Model, Recipe
from camscope.models.preprocess import Fit, Preprocess
from camscope.models.pretrained import out_of_reach, reachable
from camscope.models.sources.dense import box_rows_of_queries, corners
from camscope.models.sources.registry import source
from camscope.models.weights import file_sha256, fill, read_weights
from camscope.trace.layer_path import JOINT

SUFFIX = ".pt"

_YOLOS = {"yolov8": ("", "-seg", "-cls"), "yolo11": ("", "-seg", "-cls"), "yolo12": ("",)}
_NAMES = (
    *(f"{y}{scale}{task}" for y, tasks in _YOLOS.items() for task in tasks for scale in "nsmlx"),
    "rtdetr-l",
    "rtdetr-x",
)
_GREY = 114 / 255  # grey level of the padding, in training and here
_OVERLAP = 0.7
_STRIDE = 32
_DEFAULT = 640
"""Default input size of the package, in pixels per side."""
_OTHER_TASKS = ("-pose", "-obb", "-depth", "-sem", "-world", "yoloe")
_ASSETS = "https://github.com"
_TRUST = "pass trust=True if you trust whoever made it"


def names() -> list[str]:
    """Return the networks that the package builds and publishes weights of, without importing it."""
    return list(_NAMES)


@source("ultralytics", names=names)
def make(
    name: str,
    *,
    weights: str | Path,
    classes: int | None,
    input_size: tuple[int, int] | None,
    options: Mapping[str, Any],
    trust: bool = False,
) -> Model:
    """Make a YOLO or RT-DETR by name, such as "yolov8n", or load a ``.pt`` file of one.

    Detectors return boxes; a segmentation network's boxes are returned without its masks. The whole image lies in
    the input, with a grey margin; RT-DETR's is squashed.

    Args:
        name: of the network, or path of a ``.pt`` file.
        weights: "default" for the published ones, "none", or a file.
        classes: number of classes; None: those of the network or file.
        input_size: (height, width), multiples of 32; None: that of the training.
        options: none are taken.
        trust: read pickles, as the package's files are: reading one runs code that is stored in it.

    Raises:
        ModelError: an unknown name, another task, or a file that is a pickle without ``trust``.
    """
    spec, path = f"ultralytics:{name}", Path(name)
    if options:
        raise SettingError(f"ultralytics takes no options, but got {', '.join(options)}")
    with _contained():
        require("ultralytics", spec, "yolo")
        if path.suffix == SUFFIX:
            if weights != "default":
                raise SettingError(f"{name} has weights of its own: leave weights={str(weights)!r} out")
            net = _unpickled(path, trust=trust)
        elif weights == "default":
            net = _unpickled(_published(spec, name, trust=trust), trust=trust)
        else:
            net = _built(name, classes)
        count = _outputs(net)
        if classes not in (None, count):
            raise SettingError(f"{spec} has {count} classes, but got classes={classes}: leave classes and labels out")
        if isinstance(weights, Path):
            fill(net, _state(weights, trust=trust), origin=str(weights))
    wrapped = _wrapped(net.float().eval(), spec)
    file = path if path.suffix == SUFFIX else weights
    preprocess = _preprocess(wrapped, net)
    if input_size is not None:
        preprocess = preprocess.at(input_size)
    if isinstance(wrapped, UltralyticsDetector) and any(side % _STRIDE for side in preprocess.input_size):
        raise SettingError(
            f"{spec} takes sizes that are multiples of {_STRIDE}, and input_size is {preprocess.input_size}"
        )
    return Model(
        spec,
        wrapped,
        preprocess=preprocess,
        labels=_labels(net),
        layer=_layer(net),
        outcome="boxes" if isinstance(wrapped, UltralyticsDetector) else "one",
        recipe=Recipe(
            f"ultralytics:{_architecture(net, name)}",
            classes=count,
            weights=str(file),
            sha256=file_sha256(file) if isinstance(file, Path) else None,
        ),
    )


class UltralyticsDetector(nn.Module):
    """A detector: (B, 3, h, w) images -> (B, boxes, 6), see `box_rows`.

    The network's scores are taken before its sigmoid. Of YOLO's boxes of one class that overlap by 0.7 or more, the
    best is kept.

    Args:
        model: of Ultralytics.
        queries: whether it is an RT-DETR, whose boxes are one per query and in shares of the input.
    """

    def __init__(self, model: nn.Module, *, queries: bool) -> None:
        super().__init__()
        self.model, self.queries = model, queries

    def forward(self, pictures: Tensor) -> Tensor:
        """Return boxes (B, boxes, 6), the best of each image first."""
        if self.queries:
            _, (boxes, scores, *_) = self.model(pictures)
            height, width = pictures.shape[-2:]
            return box_rows_of_queries(corners(boxes[-1], (height, width)), scores[-1])
        # The preprocessing subtracts the grey of the padding, so that the padding is 0 as everywhere in camscope.
        decoded, raw = self.model(pictures + _GREY)
        decoded = decoded[0] if isinstance(decoded, tuple) else decoded
        raw = raw.get("one2many", raw)
        boxes = corners(decoded[:, :4].mT, (1, 1))
        return box_rows_of_queries(boxes, raw["scores"].mT, suppress=_OVERLAP)


class Scores(nn.Module):
    """A classifier: (B, 3, h, w) images -> (B, classes) logits.

    Args:
        model: of Ultralytics.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        logits: Tensor = self.model(pictures)[1]
        return logits


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Let the package say nothing but errors, and undo what its import sets for the whole process.

    It changes how NumPy and PyTorch print numbers, which warnings are shown and the number of OpenCV's threads, and
    replaces ``torch.save`` and Pillow's ``Image.open``, which then installs packages for files that are no image.
    """
    logger = logging.getLogger("ultralytics")
    level = logger.level
    printed = dict(vars(PRINT_OPTS))
    functions = Image.open, torch.save
    threads = sys.modules["cv2"].getNumThreads() if "cv2" in sys.modules else -1  # -1: default of OpenCV
    logger.setLevel(logging.ERROR)
    try:
        with np.printoptions(), warnings.catch_warnings():
            yield
    finally:
        logger.setLevel(level)
        torch.set_printoptions(**printed)
        Image.open, torch.save = functions
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(threads)


def _built(name: str, classes: int | None) -> Any:
    """Return a network with random weights, from the package's description of it."""
    from ultralytics.nn import tasks

    task = next((part for part in _OTHER_TASKS if part in name), None)
    if task is not None:
        raise ModelError(_of_another_task(f"ultralytics:{name}", task.strip("-")))
    maker: Any = tasks.DetectionModel
    if name.startswith("rtdetr"):
        maker = tasks.RTDETRDetectionModel
    elif "-" in name:
        kind = name.partition("-")[2]
        maker = {"seg": tasks.SegmentationModel, "cls": tasks.ClassificationModel}.get(kind, maker)
    try:
        return maker(f"{name}.yaml", nc=classes, verbose=False)
    except FileNotFoundError as error:
        raise ModelError(nearest("ultralytics model", name, _NAMES)) from error


def _of_another_task(spec: str, task: str) -> str:
    return f"{spec} is for another task ({task}), and camscope takes detectors, segmentation networks and classifiers"


def _unpickled(path: Path, *, trust: bool) -> Any:
    """Return the network in a file of the package.

    Raises:
        ModelError: it is missing, no such file, or not to be trusted.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}")
    if not trust:
        raise ModelError(f"{path} is a pickle, and reading it runs code that is stored in it: {_TRUST}")
    from ultralytics.nn import tasks  # noqa: F401  what the file refers to

    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # pickles can raise any exception
        raise ModelError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    net = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if not isinstance(net, nn.Module) or not hasattr(net, "names"):
        raise ModelError(f"{path} is not a checkpoint of Ultralytics: it has no network")
    network: Any = net
    network.args = {**getattr(content.get("train_args"), "__dict__", content.get("train_args") or {})}
    return network


def _state(path: Path, *, trust: bool) -> Any:
    """Return the weights in a file: tensors alone, or a pickled network."""
    try:
        return read_weights(path)
    except ModelError:
        if path.suffix != SUFFIX:
            raise
        return _unpickled(path, trust=trust).state_dict()


def _published(spec: str, name: str, *, trust: bool) -> Path:
    """Return the file of the published weights, downloaded if need be.

    Raises:
        ModelError: unknown, not to be trusted, or out of reach.
    """
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.downloads import attempt_download_asset

    if not trust:
        raise ModelError(f"the published weights of {spec} are a pickle, and reading it runs code: {_TRUST}")
    folder = Path(SETTINGS["weights_dir"])
    path = folder / f"{name}{SUFFIX}"
    absent = out_of_reach(spec, path.name, folder=folder)
    if not path.is_file():
        if not reachable(_ASSETS):
            raise absent
        try:
            attempt_download_asset(path)
        except Exception as error:  # any exception of the package
            raise absent from error
        if not path.is_file():
            raise absent
    return path


def _head(net: Any) -> Any:
    return net.model[-1]


def _outputs(net: Any) -> int:
    """Return the number of classes of a network."""
    head = _head(net)
    return int(head.linear.out_features if hasattr(head, "linear") else getattr(head, "nc", 0))


def of_module(net: Any) -> tuple[nn.Module, Preprocess, tuple[str, ...], str | None]:
    """Return a network of the package as a copy with one tensor for an output, its preprocessing, labels and layer.

    Raises:
        ModelError: a network for another task.
    """
    with _contained():
        net = copy.deepcopy(net).float().eval()
        wrapped = _wrapped(net, type(net).__name__)
        return wrapped, _preprocess(wrapped, net), _labels(net), _layer(net)


def _wrapped(net: Any, spec: str) -> nn.Module:
    """Return a network with one tensor for an output.

    Raises:
        ModelError: a network for another task.
    """
    kind = type(_head(net)).__name__
    if kind == "Classify":
        return Scores(net)
    if kind == "RTDETRDecoder":
        return UltralyticsDetector(net, queries=True)
    if kind not in ("Detect", "Segment", "v10Detect", "Segment26"):
        raise ModelError(_of_another_task(spec, kind))
    head = _head(net)
    # Positions are computed for each input, not cached; of two heads, the one before suppression is used.
    head.dynamic, head.xyxy, head.end2end = True, False, False
    return UltralyticsDetector(net, queries=False)


def _preprocess(wrapped: nn.Module, net: Any) -> Preprocess:
    """Return the preprocessing of the package's own predictions."""
    is_classifier = isinstance(wrapped, Scores)
    trained = getattr(net, "args", None)
    side = trained.get("imgsz") if isinstance(trained, dict) else None
    usual = 224 if is_classifier else _DEFAULT
    side = (
        side if isinstance(side, int) and side != _DEFAULT else usual
    )  # the package's default is not that of a classifier
    has_margin = isinstance(wrapped, UltralyticsDetector) and not wrapped.queries
    fit: Fit = "pad" if has_margin else "crop" if is_classifier else "squash"
    mean = (_GREY if has_margin else 0.0,) * 3
    return Preprocess(input_size=(side, side), mean=mean, std=(1.0,) * 3, fit=fit, interpolation="bilinear")


def _layer(net: Any) -> str | None:
    """Return the levels of the pyramid that a detector's head reads, by their names in `UltralyticsDetector`."""
    levels = net.model[-1].f
    return JOINT.join(f"model.model.{index}" for index in levels) if isinstance(levels, list) else None


def _labels(net: Any) -> tuple[str, ...]:
    """Return the class names, unless they are the numbers that the package makes up."""
    names_by_index = net.names if isinstance(net.names, dict) else dict(enumerate(net.names))
    texts = [str(names_by_index[index]) for index in sorted(names_by_index)]
    return () if all(re.fullmatch(r"(class)?\d+", text) for text in texts) else tuple(texts)


def _architecture(net: Any, name: str) -> str:
    """Return the name that the package builds a network by, where it is known."""
    stem = Path(str(net.yaml.get("yaml_file", ""))).stem
    return stem or name
