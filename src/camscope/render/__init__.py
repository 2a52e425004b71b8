"""From heatmaps to pictures: scaling, colours, overlays, panels and sheets. Nothing here imports torch."""

from camscope.render.colour import COLOUR_MAPS, colourise, grey, overlay
from camscope.render.panel import colour_bar, panel
from camscope.render.scaling import SCALES, scale
from camscope.render.sheet import Cell, sheet

__all__ = ["COLOUR_MAPS", "SCALES", "Cell", "colour_bar", "colourise", "grey", "overlay", "panel", "scale", "sheet"]
