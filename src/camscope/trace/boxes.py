"""The common format of boxes for all detectors: rows (B, boxes, 6).

A row is left, top, right, bottom in pixels of the network's input, the log-odds of its score, and its class.
"""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS = 6
NEVER = 1e-6
"""Probability of a padding box. Probabilities are clamped to [this, 1 - this]."""
_AXES = 3


def has_boxes(shape: Sequence[int]) -> bool:
    """Return whether outputs of a shape are rows of boxes.

    >>> has_boxes((1, 300, 6)), has_boxes((1, 6))
    (True, False)
    """
    return len(shape) == _AXES and shape[-1] == COLUMNS
