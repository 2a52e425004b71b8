"""Pictures in, explanations out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
from PIL import Image

from camscope.ahead import ahead
from camscope.errors import CamscopeError, ModelError, SettingError, TargetError, check_count, nearest, reason
from camscope.explanation.batch import Pass, Sample, Wanted
from camscope.explanation.maps import find_method, method_name
from camscope.explanation.result import Explanation
from camscope.explanation.settings import check_settings
from camscope.images import Picture, as_picture
from camscope.methods import MANY_PASSES, Method
from camscope.models.device import device_of
from camscope.models.engines import resolve
from camscope.models.model import Model

Unread = tuple[str, CamscopeError]
"""A source that cannot be read, and why."""

_READERS = 2

Source = str | Path | Picture | Image.Image | npt.NDArray[Any]


def explain(
    model: Model,
    picture: Source,
    *,
    method: str | Method = "gradcam",
    target: Wanted = None,
    layer: str | None = None,
    engine: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain one picture.

    Args:
        model: from `load`, or a `Model` around a network of your own.
        picture: a path, a Picture, a Pillow image, or an array (H, W), (H, W, 1) or (H, W, 3).
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)"; or a function
            of a `Trace`, or of (net, inputs, targets).
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
    """
    several = explain_all(
        model, [picture], methods=[method], targets=target, layer=layer, engine=engine, settings=settings
    )
    first, *more = several
    if more:
        raise TargetError(f"explain() makes one map, and {target!r} asks for {1 + len(more)}; use explain_all()")
    return first


def explain_all(
    model: Model,
    pictures: Iterable[Source],
    *,
    methods: Sequence[str | Method] = ("gradcam",),
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
        model: the model.
        pictures: paths, Pictures, Pillow images or arrays.
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
        while batch := list(itertools.islice(samples, batch_size)):
            with _speaking(model):
                run = Pass.over(model, batch, functions=[f for _, f in functions], layer=layer, engine=engine)
                explained = run.explain(functions, run.goals(wanted), settings=settings or {}, to=to)
            while (e := _next(model, explained)) is not None:
                yield e


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
        return Sample(picture.source, picture, *model.preprocess(picture))
    except CamscopeError as error:
        return str(source) if isinstance(source, (str, Path)) else "picture in memory", error


def _read(opened: Iterable[Sample | Unread], on_error: Callable[[str, CamscopeError], None] | None) -> Iterator[Sample]:
    for one in opened:
        if isinstance(one, Sample):
            yield one
        elif on_error is None:
            raise one[1]
        else:
            on_error(*one)
