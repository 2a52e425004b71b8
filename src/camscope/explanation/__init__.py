"""Explain images (`explain`, `explain_all`) and compute maps of tensors (`cam`, `cams`)."""

from camscope.explanation.maps import cam, cams
from camscope.explanation.pictures import explain, explain_all
from camscope.explanation.result import Explanation

__all__ = ["Explanation", "cam", "cams", "explain", "explain_all"]
