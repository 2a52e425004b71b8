"""What the acquisition of an image leaves in it: measure a property, and set it to that of another image."""

from camscope.acquisition.property import AcquisitionProperty
from camscope.acquisition.registry import PROPERTIES

__all__ = ["PROPERTIES", "AcquisitionProperty"]
