"""Define the rows of a study, one per case, label and method; see ``docs/rows.md``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from camscope.cohort.regions import Evidence
from camscope.cohort.store import Row
from camscope.study.config import StudyFile

SCHEMA_VERSION = 3

CASE: dict[str, Any] = {
    "case": pl.Int64,
    "line": pl.Int64,
    "image": pl.String,
    "patient": pl.String,
    "group": pl.String,
    "label": pl.String,
    "method": pl.String,
    "truth": pl.Boolean,
}
SCORE: dict[str, Any] = {
    "model": pl.String,
    "class": pl.String,
    "score": pl.Float64,
    "probability": pl.Float64,
    "log_odds": pl.Float64,
    "prediction": pl.Boolean,
    "outcome": pl.String,
    "computed": pl.String,
    "status": pl.String,
    "message": pl.String,
}
MAP: dict[str, Any] = {
    "layer": pl.String,
    "notes": pl.List(pl.String),
    "grid": pl.List(pl.Float32),
    "grid_height": pl.Int32,
    "grid_width": pl.Int32,
    "window": pl.List(pl.Float64),
    "map_min": pl.Float64,
    "map_max": pl.Float64,
    "map_sum": pl.Float64,
    "positive_share": pl.Float64,
    "peak_row": pl.Float64,
    "peak_column": pl.Float64,
}
FILES: dict[str, Any] = {
    "file": pl.String,
    "height": pl.Int32,
    "width": pl.Int32,
    "image_sha256": pl.String,
    "key": pl.String,
    "display_key": pl.String,
    "region_key": pl.String,
}
REGION: dict[str, Any] = {"mass": pl.Float64, "area": pl.Float64, "enrichment": pl.Float64, "peak": pl.Boolean}


def schema(file: StudyFile) -> dict[str, Any]:
    """Return the columns of a study's rows, in order, with their types."""
    strata = {f"stratum:{name}": pl.String for name in file.cohort.strata}
    cues = {f"cue:{name}": pl.Boolean for name in file.cohort.cues}
    regions = {f"{what}:{name}": kind for name in region_names(file) for what, kind in REGION.items()}
    return CASE | strata | cues | SCORE | MAP | regions | FILES


def region_names(file: StudyFile) -> tuple[str, ...]:
    """Return the regions in which maps are measured: the regions of the audit, or else the border and every mask."""
    if file.audit is not None and file.audit.regions:
        return file.audit.regions
    label_masks = ["mask:label"] if any(section.mask for section in file.labels.values()) else []
    cues = [f"cue:{name}" for name, cue in file.cohort.cues.items() if cue.mask]
    return ("border:0.10", *label_masks, *(f"mask:{name}" for name in file.cohort.masks), *cues)


def is_region(column: str) -> bool:
    """Return whether a column belongs to a region."""
    return column.partition(":")[0] in REGION


def map_values(grid: npt.NDArray[np.float32], window: Sequence[float]) -> Row:
    """Return the columns that describe a map on its own grid.

    Args:
        grid: (h, w) the map, signed.
        window: (top, left, height, width) in image pixels of the part of the image in the network's input.

    Returns:
        Smallest value, largest value and sum; the share of positive cells; the position of the maximum in image pixels
        (the centre of its cell; null if several cells share the maximum).

    >>> map_values(np.array([[0.0, 2.0], [-1.0, 0.0]], np.float32), (0, 0, 10, 20))["peak_column"]
    15.0
    """
    values = np.nan_to_num(grid.astype(np.float64))
    row: Row = {
        "grid": grid.ravel().tolist(),
        "grid_height": grid.shape[0],
        "grid_width": grid.shape[1],
        "window": [float(number) for number in window],
        "map_min": float(values.min()),
        "map_max": float(values.max()),
        "map_sum": float(values.sum()),
        "positive_share": float((values > 0).mean()),
    }
    places = np.argwhere(values == values.max())
    if len(places) == 1 and values.max() > 0:
        (i, j), (top, left, height, width) = places[0], window
        row["peak_row"] = float(top + (i + 0.5) * height / grid.shape[0])
        row["peak_column"] = float(left + (j + 0.5) * width / grid.shape[1])
    return row


def region_values(name: str, found: Evidence | None) -> Row:
    """Return the columns of one region; null if the case does not have the region."""
    if found is None:
        return {}
    numbers = {"mass": found.mass, "area": found.area, "enrichment": found.enrichment}
    row: Row = {f"{what}:{name}": None if np.isnan(value) else value for what, value in numbers.items()}
    return row | {f"peak:{name}": found.peak_inside}
