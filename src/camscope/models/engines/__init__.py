"""Engines: backends for the part of a network before the layer, where no gradient is needed."""

from camscope.models.engines.select import ENGINES, PreparedEngine, outputs, prepare, resolve

__all__ = ["ENGINES", "PreparedEngine", "outputs", "prepare", "resolve"]
