"""Model sources, such as timm and Keras: one file per source."""

from camscope.models.sources import hf, keras, onnx, smp, timm, torchvision, torchxrayvision, ultralytics
from camscope.models.sources.registry import NAMES, SOURCES, Source, source

__all__ = [
    "NAMES",
    "SOURCES",
    "Source",
    "hf",
    "keras",
    "onnx",
    "smp",
    "source",
    "timm",
    "torchvision",
    "torchxrayvision",
    "ultralytics",
]
