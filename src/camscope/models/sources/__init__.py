"""Where networks come from: one file a source."""

from camscope.models.sources import hf, keras, timm, torchvision, torchxrayvision
from camscope.models.sources.registry import NAMES, SOURCES, Source, source

__all__ = ["NAMES", "SOURCES", "Source", "hf", "keras", "source", "timm", "torchvision", "torchxrayvision"]
