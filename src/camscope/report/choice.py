"""Which cases of a large cohort the page shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from camscope.cohort.sampling import drawn_cases
from camscope.cohort.store import FAILED
from camscope.report.results import Results, one_a_case

MOST = 2000
"""Cases up to which the page shows every one."""


@dataclass(frozen=True)
class Shown:
    """The cases of the gallery.

    Attributes:
        rows: all that is known of them but the maps, in the order of the study's rows.
        cases: one row per case.
        sentence: which cases these are; "" where they are all.
    """

    rows: pl.DataFrame = field(repr=False)
    cases: pl.DataFrame = field(repr=False)
    sentence: str


def chosen_cases(results: Results, *, most: int = MOST) -> Shown:
    """Choose the cases that are shown.

    Of more cases than ``most`` these are: the typical ones of clusters; cases with a failed row and the most certain
    mistakes of each label, each up to a quarter of the room; and then a draw by patient, as many of each label and
    outcome as there are of any other.

    Args:
        results: of a study.
        most: cases.
    """
    total = len(results.cases)
    if total <= most:
        rows = results.rows_of(results.cases["case"].to_list())
        return Shown(rows, one_a_case(rows), "")
    kinds: dict[str, list[int]] = {}
    taken: set[int] = set()

    def take(name: str, cases: Iterable[int], room: int) -> None:
        new = [case for case in dict.fromkeys(cases) if case not in taken][: min(room, most - len(taken))]
        kinds[name] = new
        taken.update(new)

    take("typical of clusters", _typical(results), most // 4)
    take("with a row that failed", results.rows.filter(pl.col("status") == FAILED)["case"], most // 4)
    take("among the most certain mistakes", _mistakes(results, most // 4), most // 4)
    rest = results.first.filter(~pl.col("case").is_in(list(taken)))
    drawn = drawn_cases(rest, by=["label", "outcome"], limit=most - len(taken), seed=0)
    take("drawn by patient, from every label and outcome alike", drawn, most)
    listed = [f"{len(cases):,} {name}" for name, cases in kinds.items() if cases]
    rows = results.rows_of(sorted(taken))
    return Shown(rows, one_a_case(rows), f"{len(taken):,} of {total:,} cases are shown: {', '.join(listed)}.")


def _typical(results: Results) -> list[int]:
    labels = {} if results.audit is None else results.audit["labels"]
    found = [one["clusters"].get("typical", {}).values() for one in labels.values()]
    return [case for clusters in found for cases in clusters for case in cases]


def _mistakes(results: Results, most: int) -> list[int]:
    """Return the false alarms of the highest scores and the misses of the lowest, label by label in turn."""
    wrong = results.first.filter(pl.col("outcome").is_in(["FP", "FN"]) & pl.col("score").is_not_nan())
    sure = pl.when(pl.col("truth")).then(-pl.col("score")).otherwise(pl.col("score"))
    ordered = wrong.select("case", "label", sure.alias("sure")).sort("sure", "case", descending=[True, False])
    turns = ordered.with_columns(pl.int_range(pl.len()).over("label").alias("turn")).filter(pl.col("turn") < most)
    return turns.sort("turn", "label")["case"].to_list()
