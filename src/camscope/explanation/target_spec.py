"""Resolve target specifications, such as a name, a number or "top3", to targets in an output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camscope.errors import TargetError
from camscope.images import Window
from camscope.models.model import Model
from camscope.targets import Target, box, category, class_index, likely, region

TargetSpec = str | int | Target | None
"""A class name or index, "top3" for the three highest classes, a target function, or None for the highest class; for
boxes and score maps also a class at a place of the image, "dog@x0,y0,x1,y1" in pixels."""

Corners = tuple[float, ...]
"""left, top, right and bottom of a place, in pixels."""

_TOP = re.compile(r"top([0-9]{0,9})", re.IGNORECASE)
_INDEX = re.compile(r"-?[0-9]{1,9}")
_NO_CLASS = 10**9
_PLACE = re.compile("(.+)@" + ",".join([r"\s*(-?\d+(?:\.\d*)?)\s*"] * 4))
_BACKGROUND = "background"


@dataclass(frozen=True)
class ResolvedTarget:
    """One target of one image, with a note: its position, or that it is not in the image."""

    label: str
    index: int | None
    target: Target
    note: str = ""


def goals_of(
    model: Model, wanted: Sequence[TargetSpec], output: Tensor, *, window: Window | None = None
) -> list[ResolvedTarget]:
    """Return the targets of one image, resolved by its output.

    For segmentation, a class means the region that is predicted as this class, and the highest class means the largest
    region that is not background. For detection, a class means its best box, and "top3" the three best boxes of any
    class. With a place, a class means the part of its region there, or the box with the largest overlap, at least half.

    Args:
        model: the model.
        wanted: target specifications of the image.
        output: output of the image.
        window: the part of the image that the network saw; default: all of an image of the input's size.
    """
    window = window or Window.whole(model.preprocess.input_size)
    goals: list[ResolvedTarget] = []
    for want in wanted:
        if isinstance(want, type):
            raise TargetError(f"a target is a class name, an index or a function, but got the class {want.__name__}")
        if callable(want):
            goals.append(ResolvedTarget(getattr(want, "__name__", "target"), None, want))
        elif isinstance(want, str) and want not in model.labels and (match := _PLACE.fullmatch(want)):
            goals.append(_at(model, match[1], output, place=tuple(map(float, match.groups()[1:])), window=window))
        elif model.outcome == "boxes":
            goals += _boxes(model, want, output, window)
        else:
            indices = _indices(model, want, _scores(model, output))
            goals += [_of_class(model, index, output) for index in indices]
    return goals


def _at(model: Model, name: str, output: Tensor, *, place: Corners, window: Window) -> ResolvedTarget:
    """Return a class at a place of the image."""
    place_text = ",".join(f"{edge:g}" for edge in place)
    if output.ndim != 3 and model.outcome != "boxes":
        raise TargetError(f"{name}@{place_text} is a place, and {model.name} returns neither boxes nor a map of scores")
    if _rank(model, name) is not None or place[0] >= place[2] or place[1] >= place[3]:
        raise TargetError(f"{name}@{place_text} must be a class and a place, CLASS@left,top,right,bottom")
    left, top, right, bottom = (
        (edge - window.start[axis]) / window.extent[axis] for edge, axis in zip(place, (1, 0, 1, 0), strict=True)
    )
    if model.outcome == "boxes":
        index = _class_of_boxes(model, name, output)
        height, width = model.preprocess.input_size
        target = box(index, at=(left * width, top * height, right * width, bottom * height))
        absent = bool(target(output) <= box(_NO_CLASS)(output))
        note = f"no box of {model.label(index)!r} overlaps with that place by half"
    else:
        index = _index(model, name, 2 if model.has_opposite(len(output)) else len(output))
        rows, columns = ((torch.arange(n, device=output.device) + 0.5) / n for n in output.shape[1:])
        inside = ((rows >= top) & (rows < bottom))[:, None] & (columns >= left) & (columns < right)
        mask = inside & _predicted(model, index, output)
        target, absent = _region(model, index, output, mask), not bool(mask.any())
        note = f"nothing at that place is predicted to be {model.label(index)!r}"
    return ResolvedTarget(f"{model.label(index)}@{place_text}", index, target, note if absent else "")


def _of_class(model: Model, index: int, output: Tensor) -> ResolvedTarget:
    label = model.label(index)
    absent = output.ndim > 2 and not bool(_predicted(model, index, output).any())
    note = f"no place is predicted to be {label!r}; targets.region(index, mask=...) explains places of yours"
    return ResolvedTarget(label, index, class_target(model, index, output), note if absent else "")


def class_target(model: Model, index: int, output: Tensor) -> Target:
    """Return the target of a class: the entry of a vector, or the region of a map that is predicted as the class.

    Of a lone logit (or map of logits) with two class names the second is the logit's, as 1 is in the labels that it was
    trained with, and the first is its opposite.
    """
    if output.ndim > 2:
        return _region(model, index, output, _predicted(model, index, output))
    if model.has_opposite(output.numel()):
        return category(0) if index == 1 else lambda scores: -category(0)(scores)
    return category(index)


def _region(model: Model, index: int, output: Tensor, mask: Tensor) -> Target:
    """Return the sum of the scores of a class over a mask."""
    if not model.has_opposite(len(output)):
        return region(index, mask=mask)
    of_second = region(0, mask=mask)
    return of_second if index == 1 else lambda scores: -of_second(scores)


def _is_exclusive(model: Model, output: Tensor) -> bool:
    """Return whether each place of a segmentation is of one class, that of the highest score."""
    return len(output) > 1 and model.outcome != "any"


def _predicted(model: Model, index: int, output: Tensor) -> Tensor:
    """Return (*space), True where a segmentation predicts a class.

    That is where its score is the highest; in a lone map, or where a place may be of several classes, where it is
    likely. A lone map with two class names is of the second, and elsewhere of the first.
    """
    if _is_exclusive(model, output):
        return output.argmax(0) == index
    if model.has_opposite(len(output)):
        return likely(output)[0] == bool(index)
    return likely(output)[index]


def _areas(model: Model, output: Tensor) -> Tensor:
    """Return (classes,) number of places that a segmentation is predicted to have of each class."""
    if _is_exclusive(model, output):
        return torch.bincount(output.argmax(0).flatten(), minlength=len(output)).float()
    areas = likely(output).flatten(1).sum(1).float()
    return torch.cat([output[0].numel() - areas, areas]) if model.has_opposite(len(output)) else areas


def _scores(model: Model, output: Tensor) -> Tensor:
    """Return (classes,) how much there is of each class: its score, or its area in a segmentation."""
    if output.ndim == 2:
        shape = tuple(output.shape)
        raise TargetError(f"the output {shape} has no score per class; use targets.region(0) or a function")
    if output.ndim > 2:
        areas = _areas(model, output)
        behind = [i for i in range(len(areas)) if model.label(i).strip("_").lower() == _BACKGROUND]
        areas[behind] = -1
        return areas
    flat = output.reshape(-1)
    return torch.cat([-flat, flat]) if model.has_opposite(flat.numel()) else flat


def _indices(model: Model, want: str | int | None, scores: Tensor) -> list[int]:
    """Return the class indices of a name, a number, "top3" or None."""
    count = _rank(model, want)
    if count is not None:
        if not 1 <= count <= len(scores):
            raise TargetError(f"{want!r} asks for {count} classes, and the model has {len(scores)}")
        return [int(i) for i in scores.topk(count).indices]
    return [_index(model, want, len(scores))]


def _boxes(model: Model, want: str | int | None, output: Tensor, window: Window) -> list[ResolvedTarget]:
    """Return targets for the best boxes, or the best of a class; each is bound to its position, with a note."""
    rows = output[output[:, 5] >= 0].detach()
    count = _rank(model, want)
    if count is None:
        index = _class_of_boxes(model, want, output)
        rows = rows[rows[:, 5] == index]
        if not len(rows):
            return [
                ResolvedTarget(model.label(index), index, box(index), f"no box of {model.label(index)!r} was found")
            ]
    elif not len(rows):
        return [ResolvedTarget("no box", None, box(_NO_CLASS), "no box was found")]
    goals: list[ResolvedTarget] = []
    for row in rows[rows[:, 4].topk(min(count or 1, len(rows))).indices]:
        label = model.label(int(row[5]))
        number = 1 + sum(goal.label.partition(", box ")[0] == label for goal in goals)
        left, top, right, bottom = row[:4].tolist()
        target = box(int(row[5]), at=(left, top, right, bottom))
        note = f"the box {_in_picture(model, row, window)} of the image"
        goals.append(ResolvedTarget(label if number == 1 else f"{label}, box {number}", int(row[5]), target, note))
    return goals


def _class_of_boxes(model: Model, want: str | int | None, output: Tensor) -> int:
    """Return the class index that is meant; where nobody says how many classes there are, any index may be one."""
    classes = len(model.labels) or (model.recipe and model.recipe.classes) or 0
    if not classes:
        index = int(want) if isinstance(want, int) or (isinstance(want, str) and _INDEX.fullmatch(want)) else 0
        classes = 1 + max(index, int(output[:, 5].max()) if len(output) else 0)
    return _index(model, want, classes)


def _in_picture(model: Model, row: Tensor, window: Window) -> str:
    """Return "left,top,right,bottom" of a box, in pixels of the image."""
    sizes, axes = model.preprocess.input_size, (1, 0, 1, 0)
    edges = (window.start[a] + float(v) * window.extent[a] / sizes[a] for v, a in zip(row[:4], axes, strict=True))
    return ",".join(f"{edge:.0f}" for edge in edges)


def _rank(model: Model, want: str | int | None) -> int | None:
    """Return how many of the highest are wanted; None where it is one class that is named."""
    if want is None:
        return 1
    top = _TOP.fullmatch(want) if isinstance(want, str) and want not in model.labels else None
    return int(top[1] or 1) if top else None


def _index(model: Model, want: str | int | None, classes: int) -> int:
    if isinstance(want, str) and not _INDEX.fullmatch(want):
        return model.index(want)
    index = int(want) if isinstance(want, str) else class_index(want or 0)
    if not 0 <= index < classes:
        raise TargetError(f"no class {index}: the model has {classes}, 0 to {classes - 1}")
    return index
