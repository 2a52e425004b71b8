"""The viewer: one ES module and its style, without dependencies, that draw a picture and a raw signed map.

Pages inline the text of `module`, the app serves it, and notebooks run it. Colours are tables of `camscope.render`.
"""

from camscope.viewer.assets import COLOURS, colour_tables, module, style

__all__ = ["COLOURS", "colour_tables", "module", "style"]
