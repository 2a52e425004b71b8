"""Engines: backends for the part of a network before the layer, where no gradient is needed."""

from camscope.models.engines.select import (
    EDITS,
    ENGINES,
    PRECISIONS,
    PreparedEngine,
    outputs,
    prepare,
    resolve,
    resolve_precision,
)

__all__ = [
    "EDITS",
    "ENGINES",
    "PRECISIONS",
    "PreparedEngine",
    "outputs",
    "prepare",
    "resolve",
    "resolve_precision",
]
