"""Measure how well a pass in a lower precision agrees with float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camscope.trace import Forward

LEAST = 0.99
"""Least median correlation of maps at which a lower precision is used."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of a lower precision with float32 on some images.

    Attributes:
        images: number of images.
        correlation: median rank correlation of the Grad-CAM maps of the top class, -1 to 1; of constant maps 1 if they
            are equal, or else 0.
        change: largest change of a probability, by softmax or sigmoid, 0 to 1.
        same: number of images whose top class is the same.
    """

    images: int
    correlation: float
    change: float
    same: int

    def __str__(self) -> str:
        return (
            f"on the first {self.images} images its maps have a median rank correlation of {self.correlation:.3f} with "
            f"those in float32, probabilities differ by at most {self.change:.2g}, and the top class is the same in "
            f"{self.same} of {self.images}"
        )


def agreement(actual: Forward, expected: Forward, *, layer: str) -> Agreement:
    """Compare a pass with that in float32, both recorded at a layer.

    Raises:
        LayerError: the layer has no place for each part of the image.
    """
    scores = [forward.outputs.detach().flatten(1) for forward in (actual, expected)]
    tops = [values.argmax(1).tolist() for values in scores]
    maps = [_maps(forward, layer, tops[1]) for forward in (actual, expected)]
    correlations = torch.tensor([_correlation(a, b) for a, b in zip(*maps, strict=True)])
    changes = [
        (to_probability(scores[0]) - to_probability(scores[1])).abs().max()
        for to_probability in (torch.sigmoid, lambda values: values.softmax(1))
    ]
    return Agreement(
        images=expected.batch,
        correlation=float(correlations.median()),
        change=float(torch.stack(changes).max()),
        same=sum(a == b for a, b in zip(*tops, strict=True)),
    )


def _maps(forward: Forward, layer: str, tops: Sequence[int]) -> Tensor:
    """Return the Grad-CAM maps (B, cells) of one output per image, before the ReLU."""
    targets = [_entry(top) for top in tops]
    trace = forward.trace(layer, targets, layout=forward.layout_of(layer))
    weights = trace.gradients.flatten(2).mean(2)
    return torch.einsum("bk,bkn->bn", weights, trace.activations.flatten(2)).cpu()


def _entry(index: int) -> Callable[[Tensor], Tensor]:
    return lambda output: output.flatten()[index]


def _correlation(a: Tensor, b: Tensor) -> float:
    from scipy.stats import spearmanr  # takes as long to import as a small network to run

    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return float(torch.equal(a, b))
    return float(spearmanr(a.numpy(), b.numpy()).statistic)
