"""Methods: functions of a trace, or of the whole network."""

from camscope.methods import (
    activation,
    attention,
    attribution,
    fullgrad,
    gradient,
    guided,
    linear,
    network,
    perturbation,
    smoothing,
)
from camscope.methods.meta import META, augmented, eigensmoothed, fused
from camscope.methods.registry import (
    METHODS,
    Method,
    MethodFacts,
    Need,
    NetworkMethod,
    facts_of,
    method,
)

__all__ = [
    "META",
    "METHODS",
    "Method",
    "MethodFacts",
    "Need",
    "NetworkMethod",
    "activation",
    "attention",
    "attribution",
    "augmented",
    "eigensmoothed",
    "facts_of",
    "fullgrad",
    "fused",
    "gradient",
    "guided",
    "linear",
    "method",
    "network",
    "perturbation",
    "smoothing",
]
