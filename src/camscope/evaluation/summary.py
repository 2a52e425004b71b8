"""Summary table of an evaluation: estimates with intervals, comparisons in pairs, ranks, costs, sanity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from camscope.cohort.store import FAILED, OK
from camscope.evaluation.baselines import NULLS
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
_DIGITS = 6  # that ranks look at; what differs less is rounding
UNRANKED = ("completeness",)  # few methods claim to add up to the score

Cell = dict[str, Any]


def summary(
    rows: pl.DataFrame, *, metrics: Sequence[str], contestants: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    """Compute the table of an evaluation.

    Each cell has the mean over patients (images, if the data name no patients) with its 95 % confidence interval
    (`bootstrap` of patients), and two comparisons on the images that both methods have. One is with Grad-CAM, or else
    the first method that is no null. The other is with the null that is best by this metric. p-values are from sign
    flips of the patients' mean differences, adjusted by Holm over all methods of a metric.

    Args:
        rows: rows of the evaluation, with the columns of `schema`.
        metrics: names of the metrics.
        contestants: methods and nulls, as recorded.
        seed: random seed of the resampling.

    Returns:
        Plain values: "methods", "cells", "ranks", "reference", "sanity_threshold".
    """
    usable = [one["name"] for one in contestants if not one["refused"]]
    proper = [name for name in usable if name not in NULLS]
    reference = REFERENCE if REFERENCE in proper else next(iter(proper), None)
    made = rows.filter(pl.col("status") == OK).sort("case")
    columns = {metric: {name: _column(made, name, metric) for name in usable} for metric in metrics}
    whole = {one["name"] for one in contestants if not one["restricted"] and not one["refused"]}
    cells = [
        cell
        for metric in metrics
        for cell in _cells(made, metric, columns[metric], reference=reference, whole=whole, seed=seed)
    ]
    return {
        "reference": reference,
        "level": LEVEL,
        "sanity_threshold": SANE,
        "methods": [_method(one, rows, made, columns, usable) for one in contestants],
        "cells": cells,
        "ranks": _ranks(cells),
    }


def _column(made: pl.DataFrame, method: str, metric: str) -> dict[int, float]:
    """Return a metric of one method by case, without NaN and null."""
    own = made.filter((pl.col("method") == method) & pl.col(metric).is_not_null())
    if not len(own):
        return {}
    if FACTS[metric].tuned:
        curves = torch.tensor(np.array(own[metric].to_list()), dtype=torch.float64)
        shaped = curves.reshape(len(own), -1, len(THRESHOLDS))
        values = tuned(shaped if shaped.shape[1] > 1 else shaped[:, 0]).values.numpy()
    else:
        values = own[metric].to_numpy()
    return {int(c): float(v) for c, v in zip(own["case"], values, strict=True) if np.isfinite(v)}


def _cells(
    made: pl.DataFrame,
    metric: str,
    columns: Mapping[str, Mapping[int, float]],
    *,
    reference: str | None,
    whole: set[str],
    seed: int,
) -> list[Cell]:
    """Return the cells of one metric, one per method that has values."""
    patient = dict(made.select("case", "patient").unique("case").iter_rows())
    found: dict[str, Cell] = {}
    for name, column in columns.items():
        if not column:
            continue
        patients = [patient[case] for case in column]
        interval = bootstrap(list(column.values()), patients, seed=seed, replicates=_REPLICATES)
        found[name] = {
            "method": name,
            "metric": metric,
            "estimate": _finite(interval.estimate),
            "low": _finite(interval.low),
            "high": _finite(interval.high),
            "pictures": len(column),
            "patients": len(set(patients)),
            "rank": None,
            "best_null": None,
            "beats_null": None,
        }
    best = FACTS[metric].best
    if best != "none" and found:
        _ranked(found, best, among=[name for name in found if name in whole])
        null = min((n for n in NULLS if n in found), key=lambda n: _worth(found[n], best), default=None)
        for key, other in (("against_null", null), ("against_reference", reference)):
            _compared(found, columns, patient, other, key=key, seed=seed)
        for name, cell in found.items():
            cell["best_null"] = null
            if null is not None and name not in NULLS:
                one = cell["against_null"]
                better = one["difference"] is not None and (one["difference"] > 0) == (best == "high")
                cell["beats_null"] = bool(better and one["p"] is not None and one["p"] < LEVEL)
    return list(found.values())


def _worth(cell: Cell, best: str) -> float:
    """Return the estimate with the sign that makes small values good."""
    return -cell["estimate"] if best == "high" else float(cell["estimate"])


def _ranked(found: Mapping[str, Cell], best: str, *, among: Sequence[str]) -> None:
    """Set ranks from 1, the best; ties get their mean rank."""
    values = np.array([round(_worth(found[name], best), _DIGITS) for name in among])
    for name, value in zip(among, values, strict=True):
        found[name]["rank"] = float((values < value).sum() + ((values == value).sum() + 1) / 2)


def _compared(
    found: Mapping[str, Cell],
    columns: Mapping[str, Mapping[int, float]],
    patient: Mapping[int, str],
    other: str | None,
    *,
    key: str,
    seed: int,
) -> None:
    """Compare each method with another, on the images of both; p-values are adjusted over the methods."""
    ps: list[float] = []
    for name, cell in found.items():
        cell[key] = {"other": other, "difference": None, "p": None, "pictures": 0}
        both = [case for case in columns[name] if case in columns.get(other or "", {})]
        if other is None or name == other or name in NULLS or not both:
            ps.append(np.nan)
            continue
        differences = [columns[name][case] - columns[other][case] for case in both]
        means = patient_means(differences, [patient[case] for case in both])
        cell[key] |= {"difference": float(np.mean(means)), "pictures": len(both)}
        ps.append(sign_flip(means, seed=seed, replicates=_FLIPS) if np.any(means) else 1.0)
    for cell, p in zip(found.values(), holm(ps), strict=True):
        cell[key]["p"] = _finite(p)


def _method(
    one: Mapping[str, Any],
    rows: pl.DataFrame,
    made: pl.DataFrame,
    columns: Mapping[str, Mapping[str, Mapping[int, float]]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return the facts of a method over all its rows."""
    name = one["name"]
    own = made.filter(pl.col("method") == name)
    seconds, passes_ = own["seconds"].median(), own["passes"].median()
    return {
        "method": name,
        "null": name in NULLS,
        "pictures": len(own),
        "failed": len(rows.filter((pl.col("method") == name) & (pl.col("status") == FAILED))),
        "empty": int(own["empty"].sum()),
        "passes": passes_,
        "seconds": seconds,
        "layer": own["layer"][0] if len(own) else None,
        "restricted": one["restricted"],
        "refused": one["refused"],
        "same_as": _same_as(name, columns, names),
        "sanity": _sanity(own),
    }


def _sanity(own: pl.DataFrame) -> dict[str, Any] | None:
    """Return whether the maps change when the weights become random: the mean cascade over images, and the verdict."""
    curves = own[CURVE].drop_nulls().to_list()
    if not curves:
        return None
    stacked = np.array(curves, np.float64)
    known = ~np.isnan(stacked)
    steps = range(known.shape[1])
    curve = [float(stacked[known[:, k], k].mean()) if known[:, k].any() else float("nan") for k in steps]
    return {"passed": passes(curve), "curve": [_finite(value) for value in curve], "pictures": len(curves)}


def _same_as(name: str, columns: Mapping[str, Mapping[str, Mapping[int, float]]], names: Sequence[str]) -> str | None:
    """Return the first method whose every number is the same, whatever the scale of the maps: the two coincide here."""
    for other in names[: names.index(name)] if name in names else ():
        pairs = [
            (of[name], of[other])
            for metric, of in columns.items()
            if not on_few(metric) and metric not in UNRANKED and of.get(name)
        ]
        if pairs and all(
            one.keys() == two.keys() and all(abs(one[c] - two[c]) <= _SAME * max(1.0, abs(one[c])) for c in one)
            for one, two in pairs
        ):
            return other
    return None


def _ranks(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Return the mean rank of each method over the metrics of a kind."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        if cell["rank"] is not None and cell["metric"] not in UNRANKED:
            what = kind(METRICS[cell["metric"]])
            gathered.setdefault(cell["method"], {}).setdefault(what, []).append(cell["rank"])
    return {
        method: {what: float(np.mean(ranks)) for what, ranks in kinds.items()} for method, kinds in gathered.items()
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
