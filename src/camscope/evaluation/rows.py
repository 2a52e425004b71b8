"""Rows of an evaluation: one per image and method, with metrics as columns. ``docs/evaluate.md`` describes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from camscope.errors import SettingError, nearest
from camscope.metrics import FACTS, METRICS, kind

SCHEMA_VERSION = 1

CASE: dict[str, Any] = {
    "case": pl.Int64,
    "line": pl.Int64,
    "image": pl.String,
    "patient": pl.String,
    "method": pl.String,
    "model": pl.String,
    "class": pl.String,
    "index": pl.Int64,
    "score": pl.Float64,
    "probability": pl.Float64,
    "status": pl.String,
    "message": pl.String,
}
MAP: dict[str, Any] = {
    "layer": pl.String,
    "grid_height": pl.Int32,
    "grid_width": pl.Int32,
    "empty": pl.Boolean,
    "notes": pl.List(pl.String),
    "passes": pl.Int64,
    "seconds": pl.Float64,
    "area": pl.Float64,
}
FILES: dict[str, Any] = {"overlay": pl.Binary, "image_sha256": pl.String, "key": pl.String}

FAST_METRICS = (
    "pointing,mass_accuracy,enrichment,rank_accuracy,auprc,iou,"
    "average_drop,increase,average_gain,cascading_randomisation,gini,entropy,complexity"
)
"""Metrics of at most one further pass per image, and the sanity check on few images; computed by default."""
CURVE = "cascade"
"""Column with the rank correlations of the cascade, from its first step to its last."""

FEW = ("robustness", "comparison", "randomisation")
"""Kinds of metrics that compute further maps; they are measured on few images."""
_ALSO_FEW = ("infidelity",)  # as many passes as deletion and insertion together
_LEFT_OUT = ("ssim",)  # compares maps of two methods


def chosen_metrics(asked: str | Iterable[str]) -> tuple[str, ...]:
    """Return the metrics with these names, a list or separated by commas; "all" selects all metrics of single methods.

    Raises:
        SettingError: an unknown metric.

    >>> chosen_metrics("pointing, gini")
    ('pointing', 'gini')
    """
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    possible = [name for name in METRICS if name not in _LEFT_OUT]
    if names == ["all"]:
        return tuple(possible)
    for name in names:
        if name not in possible:
            raise SettingError(nearest("metric", name, possible))
    return tuple(dict.fromkeys(names))


def on_few(metric: str) -> bool:
    """Return whether a metric is measured on few images only."""
    return kind(METRICS[metric]) in FEW or metric in _ALSO_FEW


def schema(metrics: Iterable[str]) -> dict[str, Any]:
    """Return every column of an evaluation's rows, in order, with its type."""
    metric_types = {name: pl.List(pl.Float64) if FACTS[name].tuned else pl.Float64 for name in metrics}
    return CASE | MAP | metric_types | {CURVE: pl.List(pl.Float64)} | FILES
