"""Rows: their columns, and what they say of a map."""

import numpy as np
import polars as pl
import pytest

from camscope.cohort.regions import Evidence
from camscope.cohort.store import frame, key_of
from camscope.study.config import StudyFile
from camscope.study.rows import is_region, map_values, region_names, region_values, schema

COHORT = {"table": "t", "masks": {"lung": "l"}, "strata": ["sex"], "cues": {"token": {"column": "c", "mask": "m"}}}


def file(**sections):
    label = {"column": "a", "model": "m", "mask": "where"}
    return StudyFile.model_validate({"cohort": COHORT, "labels": {"A": label}} | sections)


def test_regions_are_those_of_the_audit_or_all_that_are_known():
    assert region_names(file()) == ("border:0.10", "mask:label", "mask:lung", "cue:token")
    assert region_names(file(audit={"disease": ["mask:label"], "shortcuts": ["corner:0.1"]})) == (
        "mask:label",
        "corner:0.1",
    )


def test_columns():
    columns = schema(file())
    assert list(columns)[:8] == ["case", "line", "image", "patient", "group", "label", "method", "truth"]
    assert columns["stratum:sex"] == pl.String
    assert columns["cue:token"] == pl.Boolean
    assert columns["enrichment:cue:token"] == pl.Float64
    assert [name for name in columns if is_region(name)][:4] == [
        f"{what}:border:0.10" for what in ("mass", "area", "enrichment", "peak")
    ]
    table = frame([{"case": 1, "grid": [1.0]}, {}], columns)
    assert table.schema == columns
    assert table["score"].to_list() == [None, None]


def test_values_of_a_map():
    row = map_values(np.array([[0.0, -2.0], [4.0, 1.0]], np.float32), (10, 20, 30, 40))
    assert (row["map_min"], row["map_max"], row["map_sum"], row["positive_share"]) == (-2, 4, 3, 0.5)
    assert (row["peak_row"], row["peak_column"]) == (10 + 0.75 * 30, 20 + 0.25 * 40)
    assert (row["grid_height"], row["grid_width"], row["grid"]) == (2, 2, [0, -2, 4, 1])


@pytest.mark.parametrize("grid", [np.zeros((2, 2)), -np.ones((2, 2)), np.ones((2, 2)), np.full((2, 2), np.nan)])
def test_no_peak_where_no_place_is_the_highest(grid):
    row = map_values(grid.astype(np.float32), (0, 0, 2, 2))
    assert "peak_row" not in row
    assert np.isfinite(row["map_sum"])


def test_values_of_a_region():
    nothing = Evidence(float("nan"), 0.25, float("nan"), None)
    values = {"mass:r": None, "area:r": 0.25, "enrichment:r": None, "peak:r": None}
    assert region_values("r", nothing) == values
    assert region_values("r", None) == {}


def test_keys():
    assert key_of("a", ["b"]) == key_of("a", ["b"])
    assert len({key_of("a", "b"), key_of("ab"), key_of("b", "a"), key_of({"a": 1}), key_of(["a", 1])}) == 5
