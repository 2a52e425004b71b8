"""Ways to compute the part of a network before the layer, where no gradient is needed."""

from camscope.models.engines.select import ENGINES, Prepared, outputs, prepare, resolve

__all__ = ["ENGINES", "Prepared", "outputs", "prepare", "resolve"]
