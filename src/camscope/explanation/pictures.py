"""Pictures in, explanations out: the hot path."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from camscope.errors import CamscopeError, TargetError
from camscope.explanation.agreement import same_map
from camscope.explanation.diagnosis import network_notes, notes
from camscope.explanation.maps import (
    Seen,
    find_method,
    known,
    look,
    method_name,
    network_map,
    place_name,
    provided,
    raw_map,
)
from camscope.explanation.result import Explanation
from camscope.heatmap import place
from camscope.images import Picture, Window, as_picture
from camscope.methods import Method, NetworkMethod, sees_network
from camscope.models.model import Model
from camscope.targets import Target, category
from camscope.trace import Forward, Layout, record

Source = str | Path | Picture | Image.Image | npt.NDArray[Any]
Wanted = str | int | Target | None
"""What to explain: a class name or index, "top3" for the three highest, a target function, None for the highest."""

_TOP = re.compile(r"top(\d*)", re.IGNORECASE)
_SHOWN = 5


class _Sample(NamedTuple):
    source: str
    picture: Picture
    tensor: Tensor
    window: Window


@dataclass(frozen=True)
class _Goal:
    """One target of one image."""

    label: str
    index: int | None
    target: Target


def explain(
    model: Model,
    picture: Source,
    *,
    method: str | Method = "gradcam",
    target: Wanted = None,
    layer: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain one picture.

    Args:
        model: from `load`, or a `Model` around a network of your own.
        picture: a path, a Picture, a Pillow image, or an array (H, W), (H, W, 1) or (H, W, 3).
        method: a name in `METHODS`, alone or in "augmented(...)", "eigensmoothed(...)" or "fused(...)"; or a function
            of a `Trace`, or of (net, inputs, targets).
        target: a class name or index, a target function, or None for the top class.
        layer: the layer to look at; None for the model's own, or else `default_layer`. Methods that see the whole
            network have no use for it.
        settings: keyword arguments of the method.

    Returns:
        The explanation; its heatmap has the picture's size.

    Raises:
        PictureError: a picture that cannot be read.
        TargetError: a class that the model does not have.
        LayerError: a layer that does not exist or has no place for each part of the picture.
        MethodError: an unknown method.

    >>> from camscope.models.loading import load
    >>> e = explain(load("timm:resnet18", weights="none"), np.zeros((48, 64, 3), np.uint8))
    >>> e.heatmap.shape, e.grid.shape, e.layer
    ((48, 64), (7, 7), 'layer4')
    """
    several = explain_all(model, [picture], methods=[method], targets=target, layer=layer, settings=settings)
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
    settings: Mapping[str, Any] | None = None,
    on_error: Callable[[str, CamscopeError], None] | None = None,
) -> Iterator[Explanation]:
    """Explain many pictures, lazily and in order: for each picture each method, for each method each target.

    All targets, and all methods of one layer, of a batch come from one forward pass.

    Args:
        model: the model.
        pictures: paths, Pictures, Pillow images or arrays.
        methods: as for `explain`.
        targets: one target for all pictures or a list of them: class names or indices, "top3" for the three highest
            of each picture, target functions, None for the highest.
        layer: as for `explain`.
        batch_size: pictures in one forward pass.
        settings: keyword arguments of the methods; each takes those that it knows.
        on_error: called with the source and the error of a picture that cannot be read, which is then left out;
            None to raise the error.

    Yields:
        One `Explanation` a picture, method and target.

    Raises:
        CamscopeError: as for `explain`.
    """
    functions = [(method_name(m), find_method(m)) for m in methods]
    wanted: list[Wanted] = list(targets) if isinstance(targets, (list, tuple)) else [targets]  # type: ignore[list-item]
    samples = _samples(model, pictures, on_error)
    while batch := list(itertools.islice(samples, batch_size)):
        yield from _explain_batch(model, batch, functions, wanted, layer=layer, settings=settings or {})


def _samples(
    model: Model, pictures: Iterable[Source], on_error: Callable[[str, CamscopeError], None] | None
) -> Iterator[_Sample]:
    for source in pictures:
        try:
            picture = as_picture(source)
            yield _Sample(picture.source, picture, *model.preprocess(picture))
        except CamscopeError as error:
            if on_error is None:
                raise
            on_error(str(source) if isinstance(source, (str, Path)) else "picture in memory", error)


def _explain_batch(
    model: Model,
    batch: list[_Sample],
    functions: list[tuple[str, Method | NetworkMethod]],
    wanted: list[Wanted],
    *,
    layer: str | None,
    settings: Mapping[str, Any],
) -> Iterator[Explanation]:
    parameter = next(model.net.parameters(), torch.empty(0))
    x = torch.stack([sample.tensor for sample in batch]).to(parameter.device, parameter.dtype)
    layer = layer or model.layer
    layout = model.layout if layer == model.layer else None
    seen: Seen | None = None
    if all(sees_network(function) for _, function in functions):
        forward = record(model.net, x, layers=[])
    else:
        forward, seen = look(model.net, x, layer=layer, layout=layout)
    goals = [_goals(model, wanted, output) for output in forward.outputs.detach()]
    columns = range(len(goals[0]))
    made: list[tuple[str, int, _Maps]] = []
    for name, function in functions:
        for column in columns:
            asked = [goal[column] for goal in goals]
            if seen is None or sees_network(function):
                maps = _network_map(function, name, forward, asked, settings, layer=layer, layout=layout)
            else:
                maps = _map(function, name, forward, seen, asked, settings)
            made.append((name, column, maps))
    _mark_same(made)
    heatmaps = [_placed(maps.grids, [sample.window for sample in batch]) for _, _, maps in made]
    probabilities = model.probability(forward.outputs.detach().float())
    repeat = _repeat(model, settings)
    for i, sample in enumerate(batch):
        values = forward.outputs[i].detach().float() if probabilities is None else probabilities[i]
        top = _top(model, values)
        for (name, column, maps), heatmap in zip(made, heatmaps, strict=True):
            goal = goals[i][column]
            known = probabilities is not None and goal.index is not None and values.ndim == 1
            yield Explanation(
                heatmap=heatmap[i],
                grid=maps.grids[i].cpu().numpy(),
                label=goal.label,
                index=goal.index,
                score=maps.scores[i],
                probability=float(values[goal.index]) if known and goal.index is not None else None,
                model=model.name,
                method=name,
                layer=maps.layer,
                source=sample.source,
                notes=tuple(maps.notes[i]),
                picture=sample.picture,
                window=sample.window,
                top=top,
                repeat=repeat,
            )


class _Maps(NamedTuple):
    """Of one method and one target an image: (B, h, w) signed maps, (B,) scores, and what is to be said."""

    grids: Tensor
    scores: list[float]
    notes: list[list[str]]
    layer: str


def _mark_same(made: list[tuple[str, int, _Maps]]) -> None:
    """Note where several methods are one on this model: their maps of a target differ by a positive factor alone."""
    for later, (name, column, maps) in enumerate(made):
        for other, its_column, earlier in made[:later]:
            if column != its_column or name == other:
                continue
            for notes_, one, two in zip(maps.notes, maps.grids, earlier.grids, strict=True):
                if same_map(one.cpu().numpy(), two.cpu().numpy()):
                    notes_.append(f"the same map as {other}: the two methods are one on this model")


def _map(
    function: Method, name: str, forward: Forward, seen: Seen, goals: list[_Goal], settings: Mapping[str, Any]
) -> _Maps:
    trace = forward.trace(seen.layer, [goal.target for goal in goals], layout=seen.layout)
    raw = raw_map(function, trace, **known(function, settings)).float()
    return _Maps(raw, [float(score) for score in trace.scores.detach()], notes(trace, raw, method=name), seen.layer)


def _network_map(
    function: NetworkMethod,
    name: str,
    forward: Forward,
    goals: list[_Goal],
    settings: Mapping[str, Any],
    *,
    layer: str | None,
    layout: Layout | None,
) -> _Maps:
    targets = [goal.target for goal in goals]
    given = provided(function, forward, known(function, settings), layer=layer, layout=layout)
    raw = network_map(function, forward, targets, **given).float()
    scores = [float(target(output)) for target, output in zip(targets, forward.outputs.detach(), strict=True)]
    place = place_name(function, given, chosen="layers" in settings)
    return _Maps(raw, scores, network_notes(forward, raw, method=name), place)


def _placed(grids: Tensor, windows: list[Window]) -> list[npt.NDArray[np.float32]]:
    """The maps after the ReLU, on their pictures; pictures with the same window are placed together."""
    heat = grids.nan_to_num(0.0, 0.0, 0.0).relu()
    placed: dict[int, npt.NDArray[np.float32]] = {}
    for window in dict.fromkeys(windows):
        rows = [i for i, other in enumerate(windows) if other == window]
        placed |= dict(zip(rows, place(heat[rows], window).cpu().numpy(), strict=True))
    return [placed[i] for i in range(len(windows))]


def _goals(model: Model, wanted: Sequence[Wanted], output: Tensor) -> list[_Goal]:
    """What is wanted of one image, in its own output."""
    goals: list[_Goal] = []
    for want in wanted:
        if callable(want):
            goals.append(_Goal(getattr(want, "__name__", "target"), None, want))
            continue
        goals += [_Goal(model.label(index), index, category(index)) for index in _indices(model, want, output)]
    return goals


def _indices(model: Model, want: str | int | None, output: Tensor) -> list[int]:
    """Class indices that a name, number, "top3" or None stands for."""
    if output.ndim > 1:
        shape = tuple(output.shape)
        raise TargetError(f"the output is a map {shape} of scores; give a target such as targets.region(index)")
    flat = output.reshape(-1)
    rank = _TOP.fullmatch(want) if isinstance(want, str) and want not in model.labels else None
    if want is None or rank:
        count = int(rank[1] or 1) if rank else 1
        if not 1 <= count <= len(flat):
            raise TargetError(f"{want!r} asks for {count} classes, and the model has {len(flat)}")
        return [int(i) for i in flat.topk(count).indices]
    if isinstance(want, str) and not want.lstrip("-").isdigit():
        return [model.index(want)]
    index = int(want)
    category(index)(flat)
    return [index % len(flat)]


def _top(model: Model, values: Tensor) -> tuple[tuple[str, float], ...]:
    if values.ndim > 1:
        return ()
    best = values.reshape(-1).topk(min(_SHOWN, values.numel()))
    return tuple((model.label(int(i)), float(v)) for v, i in zip(best.values, best.indices, strict=True))


def _repeat(model: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
    recipe = None if model.recipe is None else dataclasses.asdict(model.recipe)
    return {
        "settings": dict(settings),
        "recipe": recipe,
        "weights_sha256": model.digest,
        "preprocess": model.preprocess.to_dict(),
        "outcome": model.outcome,
    }
