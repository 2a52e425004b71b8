"""Measure the agreement of the methods of a study on the same cases, and find methods that coincide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy.stats import pearsonr, rankdata

from camscope.cohort.store import OK
from camscope.explanation.agreement import same_map
from camscope.heatmap import upsample
from camscope.report.results import Results

_CELLS = 16
_MOST = 500

Maps = Mapping[int, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Pair:
    """Two methods on the maps of one label.

    Attributes:
        label: the label.
        first: the first method.
        second: the second method.
        cases: number of cases with both maps.
        correlation: median of Spearman's rank correlations over cases; NaN if all maps are constant.
        same: share of cases whose maps are equal up to a factor.
    """

    label: str
    first: str
    second: str
    cases: int
    correlation: float
    same: float

    @property
    def degenerate(self) -> bool:
        """Return whether the two methods coincide on this model, so that their agreement is no evidence."""
        return self.same > 0.5


def agreement_of_methods(results: Results) -> list[Pair]:
    """Return each pair of methods, for each label.

    Maps are compared on 16 x 16 cells, on at most 500 cases per label and method.
    """
    pairs = []
    for label in results.labels:
        maps = {method: _maps(results, label, method) for method in results.methods}
        for first, second in combinations(results.methods, 2):
            shared = sorted(maps[first].keys() & maps[second].keys())
            if not shared:
                continue
            a, b = ([maps[method][case] for case in shared] for method in (first, second))
            share = float(np.mean([same_map(x, y) for x, y in zip(a, b, strict=True)]))
            pairs.append(Pair(label, first, second, len(shared), _correlation(a, b), share))
    return pairs


def _maps(results: Results, label: str, method: str) -> Maps:
    condition = (pl.col("label") == label) & (pl.col("method") == method) & (pl.col("status") == OK)
    cases = results.rows.filter(condition)["case"]
    if len(cases) > _MOST:
        cases = cases.gather(cases.hash(seed=0).arg_sort()).head(_MOST)
    shards = results.maps(label, method, cases=cases.to_list())
    rows = (row for shard in shards for row in shard.drop("window").iter_rows())
    return {case: np.array(grid, np.float32).reshape(height, width) for case, grid, height, width in rows}


def _correlation(first_maps: list[npt.NDArray[np.float32]], second_maps: list[npt.NDArray[np.float32]]) -> float:
    correlations = []
    for a, b in zip(first_maps, second_maps, strict=True):
        ranks = np.stack([_ranks(a), _ranks(b)])
        if (np.ptp(ranks, axis=1) > 0).all():
            correlations.append(float(pearsonr(*ranks).statistic))
    return float(np.median(correlations)) if correlations else float("nan")


def _ranks(grid: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    placed = upsample(torch.from_numpy(np.nan_to_num(grid)).double(), (_CELLS, _CELLS))
    ranks: npt.NDArray[np.float64] = rankdata(placed.numpy().ravel())
    return ranks
