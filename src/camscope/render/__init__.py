"""Draw heat maps: scaling, colours, overlays, panels and sheets. Nothing here imports torch."""

import numpy as np

from camscope.render.colour import COLOUR_MAPS, colourise, grey, overlay
from camscope.render.panel import colour_bar, panel
from camscope.render.scaling import SCALES, scale
from camscope.render.sheet import Cell, sheet

__all__ = [
    "COLOUR_MAPS",
    "SCALES",
    "Cell",
    "check_display",
    "colour_bar",
    "colourise",
    "grey",
    "overlay",
    "panel",
    "scale",
    "sheet",
]


def check_display(how: str, cmap: str) -> None:
    """Refuse an unknown scale or colour map before any work is done.

    Raises:
        SettingError: as `scale` and `colourise` do.
    """
    nothing = np.zeros((1, 1), np.float32)
    scale(nothing, how)
    colourise(nothing, cmap)
