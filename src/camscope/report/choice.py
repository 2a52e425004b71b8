"""Choose the cases of a large cohort that the page shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from camscope.cohort.sampling import drawn_cases
from camscope.cohort.store import FAILED
from camscope.report.results import Results, one_per_case

MOST = 2000
"""Largest number of cases of which the page shows all."""


@dataclass(frozen=True)
class Shown:
    """The cases of the gallery.

    Attributes:
        rows: their rows without maps, in the order of the study's rows.
        cases: one row per case.
        sentence: sentence on the choice; "" if all cases are shown.
    """

    rows: pl.DataFrame = field(repr=False)
    cases: pl.DataFrame = field(repr=False)
    sentence: str


def chosen_cases(results: Results, *, most: int = MOST) -> Shown:
    """Choose the cases that the page shows: all cases, or ``most`` of a larger cohort.

    The choice contains the typical cases of clusters, cases with a failed row, and the wrong predictions with the most
    extreme scores, each up to a quarter of ``most``. The remaining cases are drawn by patient, equally from every label
    and outcome.

    Args:
        results: results of a study.
        most: largest number of cases.
    """
    total = len(results.cases)
    if total <= most:
        rows = results.rows_of(results.cases["case"].to_list())
        return Shown(rows, one_per_case(rows), "")
    kinds: dict[str, list[int]] = {}
    selection: set[int] = set()

    def take(name: str, cases: Iterable[int], room: int) -> None:
        new = [case for case in dict.fromkeys(cases) if case not in selection][: min(room, most - len(selection))]
        kinds[name] = new
        selection.update(new)

    take("typical of clusters", _typical(results), most // 4)
    take("with a row that failed", results.rows.filter(pl.col("status") == FAILED)["case"], most // 4)
    take("wrong predictions with extreme scores", _mistakes(results, most // 4), most // 4)
    remainder = results.first.filter(~pl.col("case").is_in(list(selection)))
    sample = drawn_cases(remainder, by=["label", "outcome"], limit=most - len(selection), seed=0)
    take("drawn by patient, equally from every label and outcome", sample, most)
    parts = [f"{len(cases):,} {name}" for name, cases in kinds.items() if cases]
    rows = results.rows_of(sorted(selection))
    return Shown(rows, one_per_case(rows), f"{len(selection):,} of {total:,} cases are shown: {', '.join(parts)}.")


def _typical(results: Results) -> list[int]:
    labels = {} if results.audit is None else results.audit["labels"]
    groups = [entry["clusters"].get("typical", {}).values() for entry in labels.values()]
    return [case for clusters in groups for cases in clusters for case in cases]


def _mistakes(results: Results, most: int) -> list[int]:
    """Return the false positives with the highest and the false negatives with the lowest scores, by label in turn."""
    wrong = results.first.filter(pl.col("outcome").is_in(["FP", "FN"]) & pl.col("log_odds").is_not_nan())
    sure = pl.when(pl.col("truth")).then(-pl.col("log_odds")).otherwise(pl.col("log_odds"))
    ordered = wrong.select("case", "label", sure.alias("sure")).sort("sure", "case", descending=[True, False])
    turns = ordered.with_columns(pl.int_range(pl.len()).over("label").alias("turn")).filter(pl.col("turn") < most)
    return turns.sort("turn", "label")["case"].to_list()
