"""Targets: functions from one image's output to a scalar."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from camscope.arguments import checked
from camscope.errors import TargetError, shortened
from camscope.trace.boxes import COLUMNS, NEVER

_HALF = 0.5

Target = Callable[[Tensor], Tensor]
"""One image's output, without the batch axis -> a scalar."""


def class_index(value: object) -> int:
    """Return a class index as an int; 1.5, True and -1 are none.

    Raises:
        TargetError: it is not a whole number from 0.

    >>> class_index(3)
    3
    >>> class_index(1.5)
    Traceback (most recent call last):
    camscope.errors.TargetError: a class index must be a whole number, but got 1.5
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TargetError(f"a class index must be a whole number, but got {shortened(value)}")
    try:
        index = operator.index(value)
    except TypeError:  # an array or tensor of several numbers, or of fractions
        raise TargetError(f"a class index must be a whole number, but got {shortened(value)}") from None
    if index < 0:
        raise TargetError(f"class indices count from 0, but got {index}")
    return index


def category(index: int) -> Target:
    """Return the score of one class: output[index], or the one number of a model that has no more.

    Args:
        index: class index, from 0.

    Raises:
        TargetError: the index is none, or when called on an output without that class or on one that is not a vector.

    >>> category(1)(torch.tensor([0.1, 0.7]))
    tensor(0.7000)
    """
    index = class_index(index)

    def score(output: Tensor) -> Tensor:
        output = output.reshape(1) if output.ndim == 0 else output
        if output.ndim != 1:
            raise TargetError(
                f"a class index explains a vector of scores, and this output is {tuple(output.shape)}; use "
                "targets.region(index) for a map of scores, or a function of your own"
            )
        if index >= len(output):
            raise TargetError(f"no class {index}: the model has {len(output)}, 0 to {len(output) - 1}")
        return output[index]

    return score


@checked
def contrast(index: int, other: int) -> Target:
    """Return why one class and not another: output[index] - output[other].

    >>> contrast(0, 1)(torch.tensor([3.0, 1.0]))
    tensor(2.)
    """
    first, second = category(index), category(other)
    return lambda output: first(output) - second(output)


@checked
def top(rank: int = 1) -> Target:
    """Return the score of the class at a rank of the very output it is called on; rank 1 is the predicted class.

    Raises:
        TargetError: when called on an output with fewer classes.

    >>> top(2)(torch.tensor([0.1, 0.9, 0.5]))
    tensor(0.5000)
    """

    def score(output: Tensor) -> Tensor:
        if not 1 <= rank <= output.numel():
            raise TargetError(f"no rank {rank}: the model has {output.numel()} classes, ranks 1 to {output.numel()}")
        return output.flatten().topk(rank).values[-1]

    return score


@checked
def region(index: int, *, mask: Tensor | npt.NDArray[Any] | None = None) -> Target:
    """Return the target function that sums a class's scores over some pixels of a segmentation output.

    Args:
        index: class index; 0 for an output of one map without an axis of classes, (H, W).
        mask: (H, W) of the output's size, nonzero where the scores count; by default the pixels where the class has
            the highest score, or in a lone map those that are `likely`.

    Reference:
        Vinogradova, Dibrov, Myers. Towards Interpretable Semantic Segmentation via Gradient-weighted Class
        Activation Mapping. AAAI 2020. arXiv:2002.11434

    >>> region(0)(torch.tensor([[[2.0, 0.0]], [[1.0, 1.0]]]))
    tensor(2.)
    """
    index = class_index(index)

    def score(output: Tensor) -> Tensor:
        shape = tuple(output.shape)
        output = output[None] if output.ndim == 2 else output
        if output.ndim < 2 or index >= len(output):
            raise TargetError(f"a region of class {index} needs an output (classes, H, W), and this one is {shape}")
        if mask is not None:
            where = torch.as_tensor(mask).to(output.device) != 0
        else:
            where = likely(output)[0] if len(output) == 1 else output.argmax(0) == index
        if where.shape != output.shape[1:]:
            raise TargetError(f"the mask is {tuple(where.shape)}, and the output's map {tuple(output.shape[1:])}")
        return (output[index] * where).sum()

    return score


def likely(maps: Tensor) -> Tensor:
    """Return where the probability of a class is above 1/2: logits above 0, or probabilities above 1/2.

    Args:
        maps: scores of any shape; taken for probabilities where all lie in [0, 1].

    Returns:
        Booleans of the same shape.

    >>> likely(torch.tensor([-3.0, 0.2])), likely(torch.tensor([0.9, 0.2]))
    (tensor([False,  True]), tensor([ True, False]))
    """
    are_probabilities = bool(maps.min() >= 0) and bool(maps.max() <= 1)
    return maps > (0.5 if are_probabilities else 0)


@checked
def box(index: int, *, at: tuple[float, float, float, float] | None = None) -> Target:
    """Return the target function for the score of a detected box: the best of a class, or the one at a place.

    Args:
        index: class index.
        at: left, top, right, bottom in pixels of the network's input; the box of the class that overlaps most with
            it, by half of their union or more. Where there is none, the score is the lowest that there can be.

    Raises:
        TargetError: when called on an output that is not of boxes.

    >>> found = torch.tensor([[0.0, 0.0, 9.0, 9.0, 2.5, 1.0], [20.0, 0.0, 29.0, 9.0, 1.5, 1.0]])
    >>> box(1)(found), box(1, at=(21, 0, 29, 9))(found)
    (tensor(2.5000), tensor(1.5000))
    """
    index = class_index(index)

    def score(output: Tensor) -> Tensor:
        if output.ndim != 2 or output.shape[1] != COLUMNS:
            shape = tuple(output.shape)
            raise TargetError(f"a box needs an output (boxes, {COLUMNS}): corners, score, class; this one is {shape}")
        fits = output[:, 5].detach() == index
        rank = output[:, 4].detach()
        if at is not None:
            rank = _overlaps(output[:, :4].detach(), output.new_tensor(at))
            fits &= rank >= _HALF
        if not bool(fits.any()):
            return torch.logit(output.new_tensor(NEVER)) + 0 * output[:, 4].sum()
        return output[rank.where(fits, -torch.inf).argmax(), 4]

    return score


def _overlaps(boxes: Tensor, place: Tensor) -> Tensor:
    """Compute the intersection over union of boxes (N, 4) with one box, (N,)."""
    low, high = torch.maximum(boxes[:, :2], place[:2]), torch.minimum(boxes[:, 2:], place[2:])
    intersection = (high - low).clamp_min(0).prod(1)
    areas = [(corners[..., 2:] - corners[..., :2]).prod(-1) for corners in (boxes, place)]
    return intersection / (areas[0] + areas[1] - intersection).clamp_min(torch.finfo(boxes.dtype).tiny)


@checked
def similarity(embedding: Tensor) -> Target:
    """Return the target function for the cosine similarity to a vector: image retrieval, CLIP.

    Args:
        embedding: (D,).

    >>> similarity(torch.tensor([1.0, 0.0]))(torch.tensor([3.0, 0.0]))
    tensor(1.)
    """
    return lambda output: torch.cosine_similarity(output.flatten(), embedding.to(output).flatten(), dim=0)
