"""Scores of a network that differ by rounding alone count as ties in every rank statistic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from camscope.array_types import Floats

ROUNDING = 32 * float(np.finfo(np.float32).eps)
"""Differences that a pass in float32 can make alone: absolute for scores up to 1, relative above."""


def tied(scores: npt.ArrayLike) -> Floats:
    """Return scores in which those that differ by rounding alone are equal.

    From the lowest score on, each score that is at most 4e-6 above the first of its group (relative to that score, if
    it is above 1) gets the value of the first. A network whose outputs are nearly constant would else have an AUC that
    depends on the order of its sums.

    >>> tied([2.0, 1.0, 1.0 + 1e-7, 1.1]).tolist()
    [2.0, 1.0, 1.0, 1.1]

    Args:
        scores: (n,) on the scale of log-odds, or another one in which 1 is no small number; NaN stays NaN.

    Returns:
        (n,) the same again for a result of this function.
    """
    values = np.array(scores, np.float64)
    order = np.argsort(values, kind="stable")[: len(values) - int(np.isnan(values).sum())]
    known = values[order]
    if not len(known):
        return values
    reach = known + np.where(np.isfinite(known), ROUNDING * np.maximum(1, np.abs(known)), 0.0)
    # A chain of neighbours is one group, unless its ends are further apart than rounding.
    starts = np.flatnonzero(np.concatenate([[True], known[1:] > reach[:-1]]))
    ends = np.append(starts[1:], len(known))
    chains = ends - starts > 1
    for start, end in zip(starts[chains].tolist(), ends[chains].tolist(), strict=True):
        while start < end:
            stop = start + int(np.searchsorted(known[start:end], reach[start], side="right"))
            known[start:stop] = known[start]
            start = stop
    values[order] = known
    return values


def all_tied(scores: npt.ArrayLike) -> bool:
    """Return whether all scores, of which there are two or more, differ by rounding alone.

    >>> all_tied([0.3, 0.3 + 1e-7]), all_tied([0.3, 0.4]), all_tied([0.3])
    (True, False, False)
    """
    values = tied(scores)
    return len(values) > 1 and bool((values == values[0]).all())
