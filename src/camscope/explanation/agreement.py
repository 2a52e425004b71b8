"""How far maps of one picture agree, and which of them are one map under several names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from camscope.explanation.result import Explanation
from camscope.heatmap import place
from camscope.images import Window

_CELLS = 16
_SAME = 1e-5


def agreement(explanations: Sequence[Explanation]) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of the signed maps of one picture, on a common grid.

    The maps are laid over the picture on 16 x 16 cells, and compared where all the networks saw it; grids of other
    sizes, and windows of other crops, so become comparable.

    Args:
        explanations: n of the same picture.

    Returns:
        (n, n) correlations in [-1, 1]; NaN where a map is flat.
    """
    if not explanations:
        return np.empty((0, 0))
    placed, seen = [], np.ones((_CELLS, _CELLS), bool)
    for e in explanations:
        window = _coarse(e.window)
        placed.append(place(torch.from_numpy(np.nan_to_num(e.cpu().grid)).double(), window).numpy())
        inside = np.zeros_like(seen)
        inside[window.seen()] = True
        seen &= inside
    ranks = np.array([_ranks(values[seen]) for values in placed])
    ranks -= ranks.mean(1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations: npt.NDArray[np.float64] = ranks @ ranks.T / np.outer(length, length)
    return correlations


def same_map(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Whether two signed maps are the same but for a positive factor.

    >>> same_map(np.array([[1.0, -2.0]], np.float32), np.array([[2.0, -4.0]], np.float32))
    True
    """
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    a, b = (values.astype(np.float64) / (np.linalg.norm(values) or 1.0) for values in (one, other))
    return bool(a.any() and np.abs(a - b).max() <= _SAME * np.abs(a).max())


def _coarse(window: Window) -> Window:
    factors = [_CELLS / size for size in window.picture]
    start = tuple(s * f for s, f in zip(window.start, factors, strict=True))
    extent = tuple(e * f for e, f in zip(window.extent, factors, strict=True))
    return Window((_CELLS,) * len(window.picture), start, extent)


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 0, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean = last - (counts + 1) / 2
    ranks: npt.NDArray[np.float64] = mean[inverse]
    return ranks
