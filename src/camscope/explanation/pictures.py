"""Explanations of images: `explain` for one image, `explain_all` for many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from camscope.arguments import checked
from camscope.errors import (
    CamscopeError,
    ModelError,
    PictureError,
    SettingError,
    TargetError,
    check_count,
    nearest,
    reason,
)
from camscope.explanation.batch import BatchExplainer, Sample
from camscope.explanation.method_lookup import (
    check_settings,
    default_method,
    find_method,
    method_name,
    refuse_misplaced,
)
from camscope.explanation.result import Explanation
from camscope.explanation.target_spec import TargetSpec
from camscope.images import Picture, Volume, as_picture, as_volume, decoded_bytes
from camscope.methods import Method
from camscope.models.device import device_of
from camscope.models.engines import resolve, resolve_precision
from camscope.models.from_module import AnyPreprocess
from camscope.models.labels import Labels, read_labels
from camscope.models.loading import load
from camscope.models.model import Model, input_channels
from camscope.models.volume_preprocess import is_of_volumes
from camscope.prefetch import batched, prefetch

Unread = tuple[str, CamscopeError]
"""A source that cannot be read, and its error."""

_READERS = 2

Source = str | Path | Picture | Volume | Image.Image | npt.NDArray[Any] | Tensor


@checked
def explain(
    model: Model | nn.Module | str | Path,
    picture: Source,
    *,
    preprocess: AnyPreprocess | None = None,
    labels: Labels | None = None,
    method: str | Method | None = None,
    target: TargetSpec = None,
    layer: str | None = None,
    output: int | str | None = None,
    engine: str = "auto",
    precision: str = "float32",
    **settings: Any,
) -> Explanation:
    """Explain one image.

    Args:
        model: from `load`, a `Model` around a network of your own, the network itself, or a spec such as
            "timm:resnet18" or the path of a bundle folder.
        picture: a path or address, a `Picture`, a Pillow image, an array (H, W), (H, W, C) or (C, H, W), or a torch
            tensor (C, H, W) or (1, C, H, W) of pixels (uint8 or float in [0, 1]). For a network of volumes: the path of
            a NIfTI, NRRD or MHA file or of the folder of a DICOM series, a `Volume`, or an array (I, J, K).
        preprocess: makes the input of the network from an image, a `Preprocess` or any callable that returns a tensor;
            None: the model's; else that of the network's source; else ImageNet's, with a note that says so.
        labels: class names in the order of the outputs, a dict of them, or the path of a file; None: the model's.
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)"; or a function
            of a `Trace`, or of (net, inputs, targets). None: Grad-CAM, or occlusion for a black box.
        target: a class name or index, a target function, or None for the predicted class; for detectors and
            segmentation networks also a class at a place of the image, "dog@left,top,right,bottom" in pixels.
        layer: name of the target layer; None for the model's own, or else `default_layer`. Methods that see the whole
            network ignore it.
        output: which of several outputs of the network holds the scores: its index, key or attribute; None: the
            model's, or the one with as many columns as there are labels, or else the first.
        engine: backend for the part of the network before the layer: "eager" (PyTorch), "openvino", or "auto" for
            "eager" here.
        precision: of that part: "float32", "bfloat16", "float16", or "auto" for bfloat16 if the device computes it. In
            a lower precision the notes say how well the maps agree with float32; below a rank correlation of .99,
            float32 is used.
        **settings: the method's own keyword arguments, such as ``window=32`` of occlusion.

    Returns:
        The explanation; its heat map has the image's size. Of a volume a `VolumeExplanation`.

    Raises:
        PictureError: an image that cannot be read.
        TargetError: a class that the model does not have.
        LayerError: a layer that does not exist, or whose output is not a spatial feature map.
        MethodError: an unknown method.

    >>> import numpy as np
    >>> from camscope.models.loading import load
    >>> e = explain(load("timm:resnet18", weights="none"), np.zeros((48, 64, 3), np.uint8))
    >>> e.heatmap.shape, e.grid.shape, e.layer
    ((48, 64), (7, 7), 'layer4')
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> explain(net, np.zeros((48, 64, 3), np.uint8), labels=["normal", "effusion"], target="effusion").model
    'Sequential'
    """
    refuse_misplaced(settings.keys() & {"targets", "methods"})
    several = explain_all(
        as_model(model, preprocess, labels, output),
        [picture],
        methods=None if method is None else [method],
        targets=target,
        layer=layer,
        engine=engine,
        precision=precision,
        **settings,
    )
    first, *remainder = several
    if remainder:
        raise TargetError(f"explain() makes one map, and {target!r} asks for {1 + len(remainder)}; use explain_all()")
    return first


@checked
def explain_all(
    model: Model | nn.Module | str | Path,
    pictures: Iterable[Source],
    *,
    preprocess: AnyPreprocess | None = None,
    labels: Labels | None = None,
    methods: str | Method | Sequence[str | Method] | None = None,
    targets: TargetSpec | Sequence[TargetSpec] = None,
    layer: str | None = None,
    output: int | str | None = None,
    batch_size: int = 16,
    engine: str = "auto",
    precision: str = "float32",
    to: str = "cpu",
    on_error: Callable[[str, CamscopeError], None] | None = None,
    **settings: Any,
) -> Iterator[Explanation]:
    """Explain many images, lazily and in order: by image, then by method, then by target.

    All targets, and all methods of one layer, share one forward pass per batch. Two batches of images are read ahead
    in threads.

    Args:
        model: from `load`, a `Model` around a network of your own, the network itself, or a spec such as
            "timm:resnet18" or the path of a bundle folder.
        pictures: paths, addresses, `Picture`s, Pillow images, arrays (H, W), (H, W, C) or (C, H, W), or torch tensors
            (C, H, W) or (1, C, H, W) of pixels (uint8 or float in [0, 1]); or volumes, see `explain`.
        preprocess: makes the input of the network from an image, a `Preprocess` or any callable that returns a tensor;
            None: the model's; else that of the network's source; else ImageNet's, with a note that says so.
        labels: class names in the order of the outputs, a dict of them, or the path of a file; None: the model's.
        methods: one or several: names in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or
            "fused(...)"; or functions of a `Trace`, or of (net, inputs, targets). None: Grad-CAM, or occlusion for a
            black box.
        targets: one target for all images, or a list of them: class names or indices, "top3" for the three highest of
            each image, target functions, None for the highest.
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        output: which of several outputs of the network holds the scores, as in `explain`.
        batch_size: images per forward pass; volumes are explained one by one.
        engine: backend for the part of the network before the layer: "eager" (PyTorch), "openvino", or "auto" for
            "openvino" with 400 images or more on the CPU, if it is installed, and "eager" otherwise.
        precision: of that part, as in `explain`.
        to: "cpu", or "device" to leave heat maps and grids as tensors on the model's device (`Explanation.cpu`).
        on_error: called with the source and the error of an image that cannot be read, which is then left out;
            None to raise the error.
        **settings: keyword arguments of the methods; each takes those that it knows.

    Yields:
        One `Explanation` per image, method and target.

    Raises:
        CamscopeError: an image, class, layer, method or setting that cannot be used.
    """
    model = as_model(model, preprocess, labels, output)
    methods = default_method(model.net) if methods is None else methods
    methods = [methods] if isinstance(methods, str) or callable(methods) else methods
    functions = [(method_name(m), find_method(m)) for m in methods]
    check_settings(settings, methods)
    check_count("batch_size", batch_size)
    specs: list[TargetSpec] = list(targets) if isinstance(targets, (list, tuple)) else [targets]  # type: ignore[list-item]
    if to not in ("cpu", "device"):
        raise SettingError(nearest("place for maps", to, ("cpu", "device")))
    batch_size = 1 if is_of_volumes(model.preprocess) else batch_size  # a volume is as large as a batch of images
    coming = len(pictures) if isinstance(pictures, Sized) else None
    engine = resolve(engine, coming, device=device_of(model))
    resolve_precision(precision)
    with ThreadPoolExecutor(_READERS) as readers:
        coming_samples = prefetch(readers, partial(_open, model), pictures, depth=2 * batch_size, weigh=decoded_bytes)
        samples = _read(coming_samples, on_error)
        for batch in _batches(samples, batch_size):
            with speaking(model):
                run = _pass_over(
                    model, batch, functions=[f for _, f in functions], layer=layer, engine=engine, precision=precision
                )
                explained = run.explain(functions, run.goals(specs), settings=settings, to=to)
            while (e := _next(model, explained)) is not None:
                yield e
            del batch, run, explained  # their images are large; the next ones are read now


def as_model(
    model: Model | nn.Module | str | Path,
    preprocess: AnyPreprocess | None = None,
    labels: Labels | None = None,
    output: int | str | None = None,
) -> Model:
    """Return the model with the caller's preprocessing, class names and output."""
    if not isinstance(model, Model):
        return load(model, preprocess=preprocess, labels=labels, output=output)
    changes: dict[str, Any] = {} if output is None else {"output": output}
    if preprocess is not None:
        changes["preprocess"] = preprocess  # a callable becomes a Transform
        changes["facts"] = {key: fact for key, fact in model.facts.items() if key != "assumed"}
    if labels is not None:
        changes["labels"] = tuple(read_labels(labels))
    return replace(model, **changes) if changes else model


def _batches(samples: Iterator[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Yield successive samples in batches, each of inputs of one size: a callable may keep the size of the image."""
    for _, alike in itertools.groupby(samples, key=lambda sample: sample.tensor.shape):
        yield from batched(alike, batch_size, weigh=lambda sample: sample.picture.pixels.nbytes)


def _pass_over(model: Model, batch: list[Sample], **options: Any) -> BatchExplainer:
    """Run one forward pass; if the network cannot take the inputs, raise an error that says what does not fit."""
    try:
        return BatchExplainer.over(model, batch, **options)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        channels, shape = input_channels(model.net), tuple(batch[0].tensor.shape)
        if channels not in (None, shape[0]):
            raise ModelError(
                f"{model.name} takes {channels} channels by its first convolution, and the preprocessing makes "
                f"{shape[0]}: pass preprocess= with {channels} numbers in mean and std, and an image of "
                f"{channels} channels"
            ) from error
        if "assumed" not in model.facts:
            raise
        raise ModelError(
            f"{model.name} cannot take an input of {' x '.join(map(str, shape))}, which was assumed ({reason(error)}): "
            "pass preprocess= with the transforms that it was trained with"
        ) from error


@contextmanager
def speaking(model: Model) -> Iterator[None]:
    """Turn any exception of a network or a method, such as for integer weights, into a one-sentence error."""
    try:
        with torch.inference_mode(mode=False):
            yield
    except CamscopeError:
        raise
    except Exception as fault:
        raise ModelError(f"{model.name} cannot be explained: {type(fault).__name__}: {reason(fault)}") from fault


def _next(model: Model, explained: Iterator[tuple[int, Explanation]]) -> Explanation | None:
    with speaking(model):
        return next((e for _, e in explained), None)


def _open(model: Model, source: Source) -> Sample | Unread:
    """Read an image and prepare it; its error is returned, so that it is raised in order and not in a thread."""
    try:
        picture = (as_volume if is_of_volumes(model.preprocess) else as_picture)(source)
        return Sample.of(model, picture)
    except (CamscopeError, MemoryError) as error:
        name = str(source) if isinstance(source, (str, Path)) else "image in memory"
        if isinstance(error, MemoryError):
            error = PictureError(f"{name!r} needs more memory than there is; reduce or crop it first")
        return name, error


def _read(items: Iterable[Sample | Unread], on_error: Callable[[str, CamscopeError], None] | None) -> Iterator[Sample]:
    for item in items:
        if isinstance(item, Sample):
            yield item
        elif on_error is None:
            raise item[1]
        else:
            on_error(*item)
