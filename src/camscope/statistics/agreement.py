"""Agreement between readers beyond chance: Cohen's kappa of two, Fleiss' kappa of several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import cohen_kappa_score


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's kappa of the ratings of two readers.

    kappa = (p_o - p_e) / (1 - p_e), with the share of equal ratings p_o and the share p_e that two readers with these
    frequencies would have by chance.

    Args:
        first: ratings of one reader.
        second: ratings of the other reader, of the same cases.

    Returns:
        At most 1; NaN without cases, or if both readers give one and the same rating to all.

    Reference:
        Cohen. A coefficient of agreement for nominal scales. Educational and Psychological Measurement 1960.

    >>> cohen_kappa(["yes", "yes", "no", "no"], ["yes", "no", "no", "no"])
    0.5
    """
    if not len(first) or len({*first, *second}) == 1:
        return math.nan
    return float(cohen_kappa_score(first, second))


def fleiss_kappa(ratings: Sequence[Sequence[str]]) -> float:
    """Return Fleiss' kappa of several readers who all rated the same cases.

    Args:
        ratings: of each case, one rating per reader.

    Returns:
        At most 1; NaN without cases, with one reader, or if all ratings are the same.

    Reference:
        Fleiss. Measuring nominal scale agreement among many raters. Psychological Bulletin 1971.

    >>> round(fleiss_kappa([["a", "a", "a"], ["b", "b", "b"], ["a", "a", "b"]]), 3)
    0.55
    """
    kinds = sorted({rating for case in ratings for rating in case})
    if len(kinds) < 2 or len(ratings[0]) < 2:
        return math.nan
    counts = np.array([[list(case).count(kind) for kind in kinds] for case in ratings], float)
    readers = counts.sum(axis=1)[0]
    observed = ((counts**2).sum(axis=1) - readers) / (readers * (readers - 1))
    expected = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return float((observed.mean() - expected) / (1 - expected))
