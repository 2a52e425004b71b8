"""Settings of the statistics of an audit."""

from __future__ import annotations

from dataclasses import dataclass

FEWEST = 8
"""Fewest patients per test: with 7 patients, sign flips cannot reach p = .01."""
LEVEL = 0.05
"""Significance level of the adjusted p-values."""
ALIGNED = 0.05
"""Threshold of the lower confidence limit of the reliance index, or of the share of the separation."""
CEILING = 0.97
"""Aligned AUC above which the reliance index is close to its limit; the share of the separation is then tested too."""


@dataclass(frozen=True)
class AuditSettings:
    """Settings of the statistics.

    Attributes:
        delta: the smallest effect that matters, in SD of the log-odds.
        replicates: number of bootstrap samples and of permutations.
        seed: random seed of both.
    """

    delta: float = 0.10
    replicates: int = 10_000
    seed: int = 0
