"""camscope: see what an image model looks at, and find out whether to believe it.

>>> import camscope as cs
>>> model = cs.load("timm:resnet18", weights="none")
>>> cs.explain(model, "cat.jpg").save("out")  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camscope import targets as targets
    from camscope.errors import CamscopeError as CamscopeError
    from camscope.evaluation.sanity import sanity as sanity
    from camscope.explanation import Explanation as Explanation
    from camscope.explanation import VolumeExplanation as VolumeExplanation
    from camscope.explanation import cam as cam
    from camscope.explanation import cams as cams
    from camscope.explanation import compare as compare
    from camscope.explanation import explain as explain
    from camscope.explanation import explain_all as explain_all
    from camscope.explanation import layers as layers
    from camscope.explanation import steps as steps
    from camscope.images import Picture as Picture
    from camscope.images import Volume as Volume
    from camscope.images import Window as Window
    from camscope.methods import METHODS as METHODS
    from camscope.metrics import METRICS as METRICS
    from camscope.models.black_box import black_box as black_box
    from camscope.models.layer_choice import default_layer as default_layer
    from camscope.models.loading import load as load
    from camscope.models.model import Model as Model
    from camscope.models.preprocess import Preprocess as Preprocess
    from camscope.models.volume_preprocess import VolumePreprocess as VolumePreprocess
    from camscope.study.cluster import Cluster as Cluster
    from camscope.study.run import run as run
    from camscope.study.study import Study as Study
    from camscope.trace import Layout as Layout
    from camscope.trace import Trace as Trace
    from camscope.trace import record as record
    from camscope.trace import tracing as tracing
    from camscope.viewer.widget import view as view

__version__ = "0.1.0"

_HOMES = {
    "CamscopeError": "errors",
    "Cluster": "study.cluster",
    "Explanation": "explanation",
    "Layout": "trace",
    "METHODS": "methods",
    "METRICS": "metrics",
    "Model": "models.model",
    "Picture": "images",
    "Preprocess": "models.preprocess",
    "Trace": "trace",
    "Volume": "images",
    "VolumeExplanation": "explanation",
    "VolumePreprocess": "models.volume_preprocess",
    "Window": "images",
    "black_box": "models.black_box",
    "cam": "explanation",
    "cams": "explanation",
    "compare": "explanation",
    "default_layer": "models.layer_choice",
    "explain": "explanation",
    "explain_all": "explanation",
    "layers": "explanation",
    "load": "models.loading",
    "Study": "study.study",
    "record": "trace",
    "run": "study.run",
    "sanity": "evaluation.sanity",
    "steps": "explanation",
    "targets": "",
    "tracing": "trace",
    "view": "viewer.widget",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing camscope loads nothing heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'camscope' has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"camscope.{home or name}")
    value = getattr(module, name) if home else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
