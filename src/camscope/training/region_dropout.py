"""Hide regions of training images, so that nothing can be learnt from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from camscope.array_types import Mask
from camscope.cohort.fill_ins import FILL_INS

FILLS = ("blur", "mean", "donor")
"""Fill-ins of a hidden region, drawn at random each time, so that no fill-in becomes a cue itself."""

Array = npt.NDArray[np.float32]


def hidden(x: Array, masks: Sequence[Mask], *, visible: Mask, donor: Array, draw: np.random.Generator) -> Array:
    """Return an image with some regions hidden.

    Each region is blurred out from its surroundings, painted in the mean colour of the rest, or replaced by the same
    place of another training image, each with probability 1/3. The last makes the content independent of the label, and
    keeps the network used to seeing something there.

    Args:
        x: (C, h, w) input of the network; it is not changed.
        masks: regions to hide, (h, w) each.
        visible: (h, w), true where the input shows the image, and not padding.
        donor: (C, h, w) another training image.
        draw: random generator of the fill-ins.

    Returns:
        (C, h, w) input with the regions hidden.
    """
    for mask in masks:
        remainder = visible & ~mask
        fill = str(draw.choice(FILLS))
        if not (mask & visible).any() or not remainder.any():
            continue
        x = FILL_INS[fill](x, mask, donor=donor, mean=x[:, remainder].mean(1), visible=visible)
    return x
