from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from camscope.report.mean_maps import mean_maps


def maps(*rows):
    """(patient, 2 x 2 grid) as a table."""
    return pl.DataFrame(
        {
            "case": range(len(rows)),
            "patient": [patient for patient, _ in rows],
            "map_max": [float(np.max(grid)) for _, grid in rows],
            "grid": [np.asarray(grid, np.float32).ravel().tolist() for _, grid in rows],
            "grid_height": [len(grid) for _, grid in rows],
            "grid_width": [len(grid[0]) for _, grid in rows],
            "window": [[0.0, 0.0, 20.0, 10.0]] * len(rows),
        }
    )


def mean_map(rows):
    """The mean of all rows, read one by one."""
    tables = [one.select("case", "grid", "grid_height", "grid_width", "window") for one in rows.iter_slices(1)]
    return mean_maps({"all": rows}, tables).get("all")


def test_every_patient_counts_the_same():
    found = mean_map(maps(("a", [[4, 0], [0, -9]]), ("a", [[1, 0], [0, 0]]), ("b", [[0, 0], [0, 7]])))
    np.testing.assert_allclose(found.values, [[2, 0], [0, 2]])
    assert (found.maps, found.patients, found.aspect) == (3, 2, 2.0)


def test_an_even_map_is_1_everywhere():
    np.testing.assert_allclose(mean_map(maps(("a", [[3, 3], [3, 3]]))).values, np.ones((2, 2)))


def test_maps_without_positive_evidence_and_of_other_grids_are_left_out():
    found = mean_map(maps(("a", [[1, 0], [0, 0]]), ("b", [[-1, 0], [0, -2]]), ("c", [[1, 2, 3]])))
    assert (found.maps, found.patients) == (1, 1)
    assert mean_map(maps(("b", [[-1, 0], [0, -2]]))) is None
    assert mean_map(maps(("a", [[1, 0], [0, 0]])).clear()) is None


def test_the_map_keeps_its_mean_when_it_is_enlarged():
    found = mean_map(maps(("a", [[1, 0], [0, 3]])))
    assert found.at((64, 64)).mean() == pytest.approx(1)


def test_means_of_shards_are_those_of_all_maps_at_once():
    draw = np.random.default_rng(0)
    grids, patients = draw.normal(size=(60, 3, 4)), draw.integers(0, 9, 60)
    grids[:5] = -1
    rows = maps(*zip(patients.astype(str).tolist(), grids, strict=True))
    parts = {"even": rows.filter(pl.col("case") % 2 == 0), "all": rows, "none": rows.head(5)}
    found = mean_maps(parts, rows.iter_slices(7))
    assert set(found) == {"even", "all"}
    for name, mean in found.items():
        of_patient = {}
        for case in parts[name]["case"].to_list():
            heat = np.maximum(grids[case].astype(np.float32).astype(float), 0)
            if heat.any():
                of_patient.setdefault(patients[case], []).append(heat / heat.sum())
        expected = np.mean([np.mean(heat, 0) for heat in of_patient.values()], 0) * 12
        np.testing.assert_allclose(mean.values, expected, rtol=1e-12)
        assert (mean.maps, mean.patients) == (sum(map(len, of_patient.values())), len(of_patient))
