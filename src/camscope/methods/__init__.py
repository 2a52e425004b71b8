"""The class-activation-map family: each method a function of a trace, or of the whole network."""

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
    ATTRIBUTIONS,
    CLASS_AGNOSTIC,
    MANY_PASSES,
    METHODS,
    NETWORK_METHODS,
    Method,
    NetworkMethod,
    method,
    network_method,
    sees_network,
)

__all__ = [
    "ATTRIBUTIONS",
    "CLASS_AGNOSTIC",
    "MANY_PASSES",
    "META",
    "METHODS",
    "NETWORK_METHODS",
    "Method",
    "NetworkMethod",
    "activation",
    "attention",
    "attribution",
    "augmented",
    "eigensmoothed",
    "fullgrad",
    "fused",
    "gradient",
    "guided",
    "linear",
    "method",
    "network",
    "network_method",
    "perturbation",
    "sees_network",
    "smoothing",
]
