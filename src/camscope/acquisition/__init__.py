"""Measure acquisition properties of images, and set them to the properties of another image."""

from camscope.acquisition.property import AcquisitionProperty
from camscope.acquisition.registry import PROPERTIES

__all__ = ["PROPERTIES", "AcquisitionProperty"]
