"""Summary table of an evaluation: estimates with intervals, comparisons in pairs, ranks, costs, sanity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from camscope.cohort.store import FAILED, OK
from camscope.evaluation.baselines import BASELINES
from camscope.evaluation.rows import CURVE, on_few
from camscope.metrics import FACTS, METRICS, kind, tuned
from camscope.metrics.overlap import THRESHOLDS
from camscope.metrics.sanity import SANE, passes
from camscope.statistics.hypotheses import holm, patient_means, sign_flip
from camscope.statistics.intervals import bootstrap

REFERENCE = "gradcam"
LEVEL = 0.05

_REPLICATES = 2000  # of intervals
_FLIPS = 9999
_SAME = 1e-5
_DIGITS = 6  # for ranks; smaller differences are rounding
UNRANKED = ("completeness",)  # few methods claim that maps add up to the score

Cell = dict[str, Any]


def summary(
    rows: pl.DataFrame, *, metrics: Sequence[str], contestants: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    """Compute the table of an evaluation.

    Each cell has the mean over patients (images, if the data name no patients) with its 95 % confidence interval
    (`bootstrap` of patients), and two comparisons on the images that both methods have. One is with Grad-CAM, or else
    the first method that is no baseline. The other is with the best baseline by this metric. p-values are from sign
    flips of the patients' mean differences, adjusted by Holm over all methods of a metric.

    Args:
        rows: rows of the evaluation, with the columns of `schema`.
        metrics: names of the metrics.
        contestants: methods and baselines, as recorded.
        seed: random seed of the resampling.

    Returns:
        Plain values: "methods", "cells", "ranks", "reference", "sanity_threshold".
    """
    usable = [contestant["name"] for contestant in contestants if not contestant["refused"]]
    proper = [name for name in usable if name not in BASELINES]
    reference = REFERENCE if REFERENCE in proper else next(iter(proper), None)
    ok_rows = rows.filter(pl.col("status") == OK).sort("case")
    columns = {metric: {name: _column(ok_rows, name, metric) for name in usable} for metric in metrics}
    whole = {
        contestant["name"] for contestant in contestants if not contestant["restricted"] and not contestant["refused"]
    }
    cells = [
        cell
        for metric in metrics
        for cell in _cells(ok_rows, metric, columns[metric], reference=reference, whole=whole, seed=seed)
    ]
    return {
        "reference": reference,
        "level": LEVEL,
        "sanity_threshold": SANE,
        "methods": [_method(contestant, rows, ok_rows, columns, usable) for contestant in contestants],
        "cells": cells,
        "ranks": _ranks(cells),
    }


def _column(ok_rows: pl.DataFrame, method: str, metric: str) -> dict[int, float]:
    """Return a metric of one method by case, without NaN and null."""
    method_rows = ok_rows.filter((pl.col("method") == method) & pl.col(metric).is_not_null())
    if not len(method_rows):
        return {}
    if FACTS[metric].tuned:
        curves = torch.tensor(np.array(method_rows[metric].to_list()), dtype=torch.float64)
        shaped = curves.reshape(len(method_rows), -1, len(THRESHOLDS))
        values = tuned(shaped if shaped.shape[1] > 1 else shaped[:, 0]).values.numpy()
    else:
        values = method_rows[metric].to_numpy()
    return {int(c): float(v) for c, v in zip(method_rows["case"], values, strict=True) if np.isfinite(v)}


def _cells(
    ok_rows: pl.DataFrame,
    metric: str,
    columns: Mapping[str, Mapping[int, float]],
    *,
    reference: str | None,
    whole: set[str],
    seed: int,
) -> list[Cell]:
    """Return the cells of one metric, one per method that has values."""
    patient = dict(ok_rows.select("case", "patient").unique("case").iter_rows())
    cells: dict[str, Cell] = {}
    for name, column in columns.items():
        if not column:
            continue
        patients = [patient[case] for case in column]
        interval = bootstrap(list(column.values()), patients, seed=seed, replicates=_REPLICATES)
        cells[name] = {
            "method": name,
            "metric": metric,
            "estimate": _finite(interval.estimate),
            "low": _finite(interval.low),
            "high": _finite(interval.high),
            "pictures": len(column),
            "patients": len(set(patients)),
            "rank": None,
            "best_baseline": None,
            "beats_baseline": None,
        }
    best = FACTS[metric].best
    if best != "none" and cells:
        _ranked(cells, best, among=[name for name in cells if name in whole])
        baseline = min((n for n in BASELINES if n in cells), key=lambda n: _worth(cells[n], best), default=None)
        for key, rival in (("against_baseline", baseline), ("against_reference", reference)):
            _compared(cells, columns, patient, rival, key=key, seed=seed)
        for name, cell in cells.items():
            cell["best_baseline"] = baseline
            if baseline is not None and name not in BASELINES:
                comparison = cell["against_baseline"]
                better = comparison["difference"] is not None and (comparison["difference"] > 0) == (best == "high")
                cell["beats_baseline"] = bool(better and comparison["p"] is not None and comparison["p"] < LEVEL)
    return list(cells.values())


def _worth(cell: Cell, best: str) -> float:
    """Return the estimate with the sign that makes small values good."""
    return -cell["estimate"] if best == "high" else float(cell["estimate"])


def _ranked(cells: Mapping[str, Cell], best: str, *, among: Sequence[str]) -> None:
    """Set ranks from 1, the best; ties get their mean rank."""
    values = np.array([round(_worth(cells[name], best), _DIGITS) for name in among])
    for name, value in zip(among, values, strict=True):
        cells[name]["rank"] = float((values < value).sum() + ((values == value).sum() + 1) / 2)


def _compared(
    cells: Mapping[str, Cell],
    columns: Mapping[str, Mapping[int, float]],
    patient: Mapping[int, str],
    rival: str | None,
    *,
    key: str,
    seed: int,
) -> None:
    """Compare each method with another, on the images of both; p-values are adjusted over the methods."""
    ps: list[float] = []
    for name, cell in cells.items():
        cell[key] = {"other": rival, "difference": None, "p": None, "pictures": 0}
        cases = [case for case in columns[name] if case in columns.get(rival or "", {})]
        if rival is None or name == rival or name in BASELINES or not cases:
            ps.append(np.nan)
            continue
        differences = [columns[name][case] - columns[rival][case] for case in cases]
        means = patient_means(differences, [patient[case] for case in cases])
        cell[key] |= {"difference": float(np.mean(means)), "pictures": len(cases)}
        ps.append(sign_flip(means, seed=seed, replicates=_FLIPS) if np.any(means) else 1.0)
    for cell, p in zip(cells.values(), holm(ps), strict=True):
        cell[key]["p"] = _finite(p)


def _method(
    contestant: Mapping[str, Any],
    rows: pl.DataFrame,
    ok_rows: pl.DataFrame,
    columns: Mapping[str, Mapping[str, Mapping[int, float]]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return the facts of a method over all its rows."""
    name = contestant["name"]
    method_rows = ok_rows.filter(pl.col("method") == name)
    seconds, passes_ = method_rows["seconds"].median(), method_rows["passes"].median()
    return {
        "method": name,
        "baseline": name in BASELINES,
        "pictures": len(method_rows),
        "failed": len(rows.filter((pl.col("method") == name) & (pl.col("status") == FAILED))),
        "empty": int(method_rows["empty"].sum()),
        "passes": passes_,
        "seconds": seconds,
        "layer": method_rows["layer"][0] if len(method_rows) else None,
        "restricted": contestant["restricted"],
        "refused": contestant["refused"],
        "same_as": _same_as(name, columns, names),
        "sanity": _sanity(method_rows),
    }


def _sanity(method_rows: pl.DataFrame) -> dict[str, Any] | None:
    """Return whether the maps change when the weights become random: the mean cascade over images, and the verdict."""
    curves = method_rows[CURVE].drop_nulls().to_list()
    if not curves:
        return None
    stacked = np.array(curves, np.float64)
    mask = ~np.isnan(stacked)
    steps = range(mask.shape[1])
    curve = [float(stacked[mask[:, k], k].mean()) if mask[:, k].any() else float("nan") for k in steps]
    return {"passed": passes(curve), "curve": [_finite(value) for value in curve], "pictures": len(curves)}


def _same_as(name: str, columns: Mapping[str, Mapping[str, Mapping[int, float]]], names: Sequence[str]) -> str | None:
    """Return the first method with the same numbers, up to the scale of the maps: the two coincide here."""
    for candidate in names[: names.index(name)] if name in names else ():
        pairs = [
            (column[name], column[candidate])
            for metric, column in columns.items()
            if not on_few(metric) and metric not in UNRANKED and column.get(name)
        ]
        if pairs and all(
            base.keys() == rival.keys() and all(abs(base[c] - rival[c]) <= _SAME * max(1.0, abs(base[c])) for c in base)
            for base, rival in pairs
        ):
            return candidate
    return None


def _ranks(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Return the mean rank of each method over the metrics of a kind."""
    method_ranks: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        if cell["rank"] is not None and cell["metric"] not in UNRANKED:
            what = kind(METRICS[cell["metric"]])
            method_ranks.setdefault(cell["method"], {}).setdefault(what, []).append(cell["rank"])
    return {
        method: {what: float(np.mean(ranks)) for what, ranks in kinds.items()} for method, kinds in method_ranks.items()
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
