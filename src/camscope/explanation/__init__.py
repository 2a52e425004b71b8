"""Explain images (`explain`, `explain_all`), draw and compare maps, and compute maps of tensors (`cam`, `cams`)."""

from camscope.explanation.comparison import Comparison, compare
from camscope.explanation.figures import layers, steps
from camscope.explanation.maps import cam, cams
from camscope.explanation.pictures import explain, explain_all
from camscope.explanation.result import Explanation
from camscope.explanation.volume_result import VolumeExplanation

__all__ = [
    "Comparison",
    "Explanation",
    "VolumeExplanation",
    "cam",
    "cams",
    "compare",
    "explain",
    "explain_all",
    "layers",
    "steps",
]
