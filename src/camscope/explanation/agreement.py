"""Agreement of the maps of one image, and methods that give the same map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from camscope.explanation.result import Explanation
from camscope.heatmap import place

SAME_MAP = "the same map as "
"""Start of the note that names another method with the same map."""

_CELLS = 16
_SAME = 1e-5


def agreement(explanations: Sequence[Explanation]) -> npt.NDArray[np.float64]:
    """Compute Spearman's rank correlation of the signed maps of one image, on a common grid.

    The maps are placed on the image with 16 x 16 cells, and compared where all networks saw the image. So grids of
    other sizes and windows of other crops can be compared.

    Args:
        explanations: n explanations of the same image.

    Returns:
        (n, n) correlations in [-1, 1]; NaN if a map is constant.
    """
    from camscope.metrics.comparison import spearman

    if not explanations:
        return np.empty((0, 0))
    maps, mask = [], np.ones((_CELLS, _CELLS), bool)
    for e in explanations:
        window = e.window.resized((_CELLS,) * len(e.window.picture))
        maps.append(place(torch.from_numpy(np.nan_to_num(e.cpu().grid)).double(), window).numpy())
        inside = np.zeros_like(mask)
        inside[window.visible()] = True
        mask &= inside
    rows, number = torch.from_numpy(np.array([values[mask] for values in maps])), len(maps)
    correlations: npt.NDArray[np.float64] = spearman(rows.repeat_interleave(number, 0), rows.repeat(number, 1)).numpy()
    return correlations.reshape(number, number)


def same_map(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Return whether two signed maps are equal up to a positive factor.

    >>> same_map(np.array([[1.0, -2.0]], np.float32), np.array([[2.0, -4.0]], np.float32))
    True
    """
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    a, b = (values.astype(np.float64) / (np.linalg.norm(values) or 1.0) for values in (one, other))
    return bool(a.any() and np.abs(a - b).max() <= _SAME * np.abs(a).max())
