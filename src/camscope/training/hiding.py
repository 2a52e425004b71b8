"""Regions taken away from training pictures, so that nothing can be learnt from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from camscope.study.edits import FILL_INS
from camscope.study.regions import Mask

FILLS = ("blur", "mean", "donor")
"""What takes a region's place, drawn anew each time: no single fill-in can become a sign itself."""

Array = npt.NDArray[np.float32]


def hidden(x: Array, masks: Sequence[Mask], *, seen: Mask, donor: Array, draw: np.random.Generator) -> Array:
    """A picture without some regions.

    Each region is blurred out from its surroundings, painted in the mean colour of the rest, or replaced by the same
    place of another training picture, a third of the time each. The last makes what stands there independent of the
    label, and keeps the network used to seeing something there.

    Args:
        x: (C, h, w) the network's input; left as it is.
        masks: (h, w) each.
        seen: (h, w) where the input shows the picture, and not padding.
        donor: (C, h, w) another training picture.
        draw: of the fill-ins.

    Returns:
        (C, h, w).
    """
    for mask in masks:
        rest = seen & ~mask
        fill = str(draw.choice(FILLS))
        if not (mask & seen).any() or not rest.any():
            continue
        x = FILL_INS[fill](x, mask, donor=donor, mean=x[:, rest].mean(1), seen=seen)
    return x
