"""What is explained: functions from one image's output to a scalar. Closures, not classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camscope.errors import TargetError

Target = Callable[[Tensor], Tensor]
"""One image's output, without the batch axis -> a scalar."""


def category(index: int) -> Target:
    """The score of one class: output[index], or the one number of a model that has no more.

    Args:
        index: class index; negative ones count from the end.

    Raises:
        TargetError: when called on an output without that class, or on one that is not a vector.

    >>> category(1)(torch.tensor([0.1, 0.7]))
    tensor(0.7000)
    """

    def score(output: Tensor) -> Tensor:
        output = output.reshape(1) if output.ndim == 0 else output
        if output.ndim != 1:
            raise TargetError(
                f"a class index explains a vector of scores, and this output is {tuple(output.shape)}; use "
                "targets.region(index) for a map of scores, or a function of your own"
            )
        if not -len(output) <= index < len(output):
            raise TargetError(f"no class {index}: the model has {len(output)}, 0 to {len(output) - 1}")
        return output[index]

    return score


def contrast(index: int, other: int) -> Target:
    """Why one class and not another: output[index] - output[other].

    >>> contrast(0, 1)(torch.tensor([3.0, 1.0]))
    tensor(2.)
    """
    this, that = category(index), category(other)
    return lambda output: this(output) - that(output)


def top(rank: int = 1) -> Target:
    """The score of the class that comes in at ``rank`` in the very output it is called on; 1 is the predicted class.

    >>> top(2)(torch.tensor([0.1, 0.9, 0.5]))
    tensor(0.5000)
    """
    return lambda output: output.flatten().topk(rank).values[-1]


def region(index: int, *, mask: Tensor | None = None) -> Target:
    """Sum of a class's scores over some pixels of a segmentation output.

    Args:
        index: class index.
        mask: (H, W) of the output's size, nonzero where the scores count; by default the pixels that are predicted
            to be of the class.

    Reference:
        Vinogradova, Dibrov, Myers. Towards Interpretable Semantic Segmentation via Gradient-weighted Class
        Activation Mapping. AAAI 2020. arXiv:2002.11434

    >>> region(0)(torch.tensor([[[2.0, 0.0]], [[1.0, 1.0]]]))
    tensor(2.)
    """

    def score(output: Tensor) -> Tensor:
        if output.ndim < 2 or not -len(output) <= index < len(output):
            shape = tuple(output.shape)
            raise TargetError(f"a region of class {index} needs an output (classes, H, W), and this one is {shape}")
        where = output.argmax(0) == index % len(output) if mask is None else mask.to(output.device) != 0
        if where.shape != output.shape[1:]:
            raise TargetError(f"the mask is {tuple(where.shape)}, and the output's map {tuple(output.shape[1:])}")
        return (output[index] * where).sum()

    return score


def similarity(embedding: Tensor) -> Target:
    """Cosine similarity of an output vector to a given one: image retrieval, CLIP.

    Args:
        embedding: (D,).

    >>> similarity(torch.tensor([1.0, 0.0]))(torch.tensor([3.0, 0.0]))
    tensor(1.)
    """
    return lambda output: torch.cosine_similarity(output.flatten(), embedding.to(output).flatten(), dim=0)
