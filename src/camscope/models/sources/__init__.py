"""Where networks come from: one file a source."""

from camscope.models.sources import timm, torchvision
from camscope.models.sources.registry import NAMES, SOURCES, Source, source

__all__ = ["NAMES", "SOURCES", "Source", "source", "timm", "torchvision"]
