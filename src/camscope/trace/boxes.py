"""The one format of boxes: rows of a batch (B, boxes, 6), whatever detector they come from.

A row is left, top, right, bottom in pixels of the network's input, the log-odds of its score, and its class.
"""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS = 6
NEVER = 1e-6
"""The probability of a box that was not found. Those below this, and above 1 minus this, count as these."""
_AXES = 3


def has_boxes(shape: Sequence[int]) -> bool:
    """Return whether outputs of a shape are rows of boxes.

    >>> has_boxes((1, 300, 6)), has_boxes((1, 6))
    (True, False)
    """
    return len(shape) == _AXES and shape[-1] == COLUMNS
