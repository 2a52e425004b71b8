"""Pictures in, explanations out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
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

from camscope.ahead import ahead
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
from camscope.explanation.batch import Pass, Sample, Wanted
from camscope.explanation.method_lookup import check_settings, default_method, find_method, method_name
from camscope.explanation.result import Explanation
from camscope.images import Picture, as_picture
from camscope.methods import MANY_PASSES, Method
from camscope.models.device import device_of
from camscope.models.engines import resolve
from camscope.models.from_module import AnyPreprocess
from camscope.models.labels import read_labels
from camscope.models.loading import load
from camscope.models.model import Model, input_channels

Unread = tuple[str, CamscopeError]
"""A source that cannot be read, and why."""

_READERS = 2

Source = str | Path | Picture | Image.Image | npt.NDArray[Any] | Tensor


def explain(
    model: Model | nn.Module | str | Path,
    picture: Source,
    *,
    preprocess: AnyPreprocess | None = None,
    labels: Sequence[str] | str | Path | None = None,
    method: str | Method | None = None,
    target: Wanted = None,
    layer: str | None = None,
    engine: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain one picture.

    Args:
        model: from `load`, a `Model` around a network of your own, the network itself, or a spec as `load` takes it.
        picture: a path or address, a Picture, a Pillow image, an array (H, W), (H, W, C) or (C, H, W), or a torch
            tensor (C, H, W) or (1, C, H, W) of pixels (uint8 or float in [0, 1]).
        preprocess: makes the input out of a picture, a `Preprocess` or any callable (see `Transform`); None: the
            model's, or what a network tells of itself, or else ImageNet's, with a note that says so.
        labels: class names in the order of the outputs, or the path of a file with them; None: the model's.
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)"; or a function
            of a `Trace`, or of (net, inputs, targets). None: Grad-CAM, or occlusion for a black box.
        target: a class name or index, a target function, or None for the top class; of detectors and segmentation
            networks also a class at a place of the picture, "dog@left,top,right,bottom" in pixels.
        layer: the layer to look at; None for the model's own, or else `default_layer`. Methods that see the whole
            network have no use for it.
        engine: as for `explain_all`; for one picture "auto" is mostly eager PyTorch.
        settings: keyword arguments of the method.

    Returns:
        The explanation; its heatmap has the picture's size.

    Raises:
        PictureError: a picture that cannot be read.
        TargetError: a class that the model does not have.
        LayerError: a layer that does not exist or has no place for each part of the picture.
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
    several = explain_all(
        _as_model(model, preprocess, labels),
        [picture],
        methods=None if method is None else [method],
        targets=target,
        layer=layer,
        engine=engine,
        settings=settings,
    )
    first, *more = several
    if more:
        raise TargetError(f"explain() makes one map, and {target!r} asks for {1 + len(more)}; use explain_all()")
    return first


def explain_all(
    model: Model | nn.Module | str | Path,
    pictures: Iterable[Source],
    *,
    preprocess: AnyPreprocess | None = None,
    labels: Sequence[str] | str | Path | None = None,
    methods: Sequence[str | Method] | None = None,
    targets: Wanted | Sequence[Wanted] = None,
    layer: str | None = None,
    batch_size: int = 16,
    engine: str = "auto",
    to: str = "cpu",
    settings: Mapping[str, Any] | None = None,
    on_error: Callable[[str, CamscopeError], None] | None = None,
) -> Iterator[Explanation]:
    """Explain many pictures, lazily and in order: for each picture each method, for each method each target.

    All targets, and all methods of one layer, of a batch come from one forward pass. Two batches of pictures are read
    ahead in threads.

    Args:
        model: as for `explain`.
        pictures: paths, Pictures, Pillow images, arrays or tensors.
        preprocess: as for `explain`.
        labels: as for `explain`.
        methods: as for `explain`.
        targets: one target for all pictures or a list of them: class names or indices, "top3" for the three highest
            of each picture, target functions, None for the highest.
        layer: as for `explain`.
        batch_size: pictures in one forward pass.
        engine: what computes the part of the network before the layer: "eager" PyTorch, "packed", "openvino", or
            "auto" to choose by the number of pictures (see `camscope.models.engines`), and of passes: Score-CAM's
            are worth packing for one picture.
        to: "cpu", or "device" to leave heatmaps and grids as tensors on the model's device (`Explanation.cpu`).
        settings: keyword arguments of the methods; each takes those that it knows.
        on_error: called with the source and the error of a picture that cannot be read, which is then left out;
            None to raise the error.

    Yields:
        One `Explanation` a picture, method and target.

    Raises:
        CamscopeError: as for `explain`.
    """
    model = _as_model(model, preprocess, labels)
    methods = [default_method(model.net)] if methods is None else methods
    functions = [(method_name(m), find_method(m)) for m in methods]
    check_settings(settings or {}, methods)
    check_count("batch_size", batch_size)
    wanted: list[Wanted] = list(targets) if isinstance(targets, (list, tuple)) else [targets]  # type: ignore[list-item]
    if to not in ("cpu", "device"):
        raise SettingError(nearest("place for maps", to, ("cpu", "device")))
    long = any(name.split("(")[-1].rstrip(")") in MANY_PASSES for name, _ in functions)
    coming = len(pictures) if isinstance(pictures, Sized) and not long else None
    engine = resolve(engine, coming, device=device_of(model))
    with ThreadPoolExecutor(_READERS) as readers:
        samples = _read(ahead(readers, partial(_open, model), pictures, depth=2 * batch_size), on_error)
        for batch in _batches(samples, batch_size):
            with _speaking(model):
                run = _pass_over(model, batch, functions=[f for _, f in functions], layer=layer, engine=engine)
                explained = run.explain(functions, run.goals(wanted), settings=settings or {}, to=to)
            while (e := _next(model, explained)) is not None:
                yield e


def _as_model(
    model: Model | nn.Module | str | Path,
    preprocess: AnyPreprocess | None,
    labels: Sequence[str] | str | Path | None,
) -> Model:
    """The model that is meant, with the preprocessing and the class names of the caller in place of its own."""
    if not isinstance(model, Model):
        return load(model, preprocess=preprocess, labels=labels)
    given: dict[str, Any] = {}
    if preprocess is not None:
        given["preprocess"] = preprocess  # a callable becomes a Transform
        given["facts"] = {key: fact for key, fact in model.facts.items() if key != "assumed"}
    if labels is not None:
        given["labels"] = tuple(read_labels(labels))
    return replace(model, **given) if given else model


def _batches(samples: Iterator[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Successive samples in batches, each of inputs of one size: a callable may make them as large as the picture."""
    for _, alike in itertools.groupby(samples, key=lambda sample: sample.tensor.shape):
        while batch := list(itertools.islice(alike, batch_size)):
            yield batch


def _pass_over(model: Model, batch: list[Sample], **options: Any) -> Pass:
    """One forward pass; where the network cannot take the inputs, say what does not fit."""
    try:
        return Pass.over(model, batch, **options)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        channels, shape = input_channels(model.net), tuple(batch[0].tensor.shape)
        if channels not in (None, shape[0]):
            raise ModelError(
                f"{model.name} takes {channels} channels by its first convolution, and the preprocessing makes "
                f"{shape[0]}: pass preprocess= with {channels} numbers in mean and std, and a picture of "
                f"{channels} channels"
            ) from error
        if "assumed" not in model.facts:
            raise
        raise ModelError(
            f"{model.name} cannot take an input of {' x '.join(map(str, shape))}, which was assumed ({reason(error)}): "
            "pass preprocess= with the transforms that it was trained with"
        ) from error


@contextmanager
def _speaking(model: Model) -> Iterator[None]:
    """Turn whatever a network or a method raises, such as for integer weights, into one sentence."""
    try:
        yield
    except CamscopeError:
        raise
    except Exception as fault:
        raise ModelError(f"{model.name} cannot be explained: {type(fault).__name__}: {reason(fault)}") from fault


def _next(model: Model, explained: Iterator[tuple[int, Explanation]]) -> Explanation | None:
    with _speaking(model):
        return next((e for _, e in explained), None)


def _open(model: Model, source: Source) -> Sample | Unread:
    """Read a picture and make it ready; its error is not raised in a thread, but where its turn comes."""
    try:
        picture = as_picture(source)
        return Sample.of(model, picture)
    except (CamscopeError, MemoryError) as error:
        name = str(source) if isinstance(source, (str, Path)) else "picture in memory"
        if isinstance(error, MemoryError):
            error = PictureError(f"{name!r} needs more memory than there is; reduce or crop it first")
        return name, error


def _read(opened: Iterable[Sample | Unread], on_error: Callable[[str, CamscopeError], None] | None) -> Iterator[Sample]:
    for one in opened:
        if isinstance(one, Sample):
            yield one
        elif on_error is None:
            raise one[1]
        else:
            on_error(*one)
