"""Compute the tables of a report from rows: the flow diagram, the composition of the cohort, and the AUC by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from camscope.cohort.shown_names import ShownNames
from camscope.cohort.store import FAILED, NOT_ASKED, OK
from camscope.report.results import Results
from camscope.statistics.auc import auc_interval
from camscope.statistics.intervals import Interval

_REASONS = 8


@dataclass(frozen=True)
class FlowStep:
    """One box of the flow diagram.

    Attributes:
        title: the counted items.
        count: their number.
        detail: description of the items.
        lost: (reason, number) of items that do not reach the next box.
    """

    title: str
    count: int
    detail: str
    lost: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Slice:
    """The AUC of some cases of a label.

    Attributes:
        name: name of the selection.
        cases: number of cases with known truth.
        positive: number of cases with the label.
        patients: number of patients of these cases.
        auc: AUC with its interval.
    """

    name: str
    cases: int
    positive: int
    patients: int
    auc: Interval


def number_of(table: pl.DataFrame, what: str) -> int:
    """Return the number of different values of a column, without blank values."""
    return table.filter(pl.col(what).fill_null("") != "")[what].n_unique()


def flow(results: Results, names: ShownNames) -> list[FlowStep]:
    """Return the numbers of patients, images, rows and maps, and of lost items with the reasons."""
    rows, cases = results.rows, results.cases
    counts = dict(rows.group_by("status").len().rows())
    failed = results.failed
    broken = failed.group_by("case").len().filter(pl.col("len") == len(results.labels) * len(results.methods))
    unknown = rows.select("status", "truth").filter((pl.col("status") != FAILED) & pl.col("truth").is_null())
    per_image = f"{len(results.labels)} labels" + (f" × {len(results.methods)} methods" if results.methods[1:] else "")
    planned = int(results.record.get("cases", len(cases)))
    when = {"present": "where the label is present", "predicted": "where the label is predicted", "all": "everywhere"}
    patients = FlowStep("Patients", number_of(cases, "patient"), "with at least one image in the table")
    return [
        *([patients] if results.patients_known else []),
        FlowStep(
            "Images",
            len(cases),
            "rows of the cohort table",
            [(t, n) for t, n in (("not reached yet", planned - len(cases)), ("could not be used", len(broken))) if n],
        ),
        FlowStep("Rows", len(rows), f"each image for {per_image}", _reasons(failed, names)),
        FlowStep(
            "Scored rows",
            len(rows) - len(failed),
            "a score from the label's model",
            [("truth unknown: left out of AUC", len(unknown))] if len(unknown) else [],
        ),
        FlowStep(
            "Maps",
            counts.get(OK, 0),
            f"computed {when[results.file.explain.when]}",
            [(f"no map, by the setting when ({_unmapped(results)})", counts[NOT_ASKED])]
            if counts.get(NOT_ASKED)
            else [],
        ),
    ]


def _unmapped(results: Results) -> str:
    return {"present": "label not present", "predicted": "label not predicted", "all": ""}[results.file.explain.when]


def _reasons(failed: pl.DataFrame, names: ShownNames) -> list[tuple[str, int]]:
    """Return the reasons why rows failed with their numbers, most frequent first."""
    counts: dict[str, int] = {}
    for row in failed.select("image", "patient", "message").iter_rows(named=True):
        text = names.text(row["message"], row["patient"]) or "no reason given"
        counts[text] = counts.get(text, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    remainder = sum(number for _, number in ordered[_REASONS:])
    return [*ordered[:_REASONS], *([("other reasons", remainder)] if remainder else [])]


@dataclass(frozen=True)
class TableCell:
    """The numbers of images and patients in one cell of the cohort table."""

    images: int
    patients: int


def make_up(results: Results) -> Mapping[str, Mapping[str, Mapping[str, TableCell]]]:
    """Return label -> group or "all" -> "present", "absent" or "unknown" -> numbers of images and patients."""
    table: dict[str, dict[str, dict[str, TableCell]]] = {}
    for label in results.labels:
        label_rows = results.first.filter(pl.col("label") == label)
        for name, part in _groups(results, label_rows):
            kinds = {"present": pl.col("truth"), "absent": ~pl.col("truth"), "unknown": pl.col("truth").is_null()}
            table.setdefault(label, {})[name] = {
                kind: TableCell(len(subset := part.filter(condition)), number_of(subset, "patient"))
                for kind, condition in kinds.items()
            }
    return table


def _groups(results: Results, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    yield "all", rows
    for group in results.groups:
        yield group, rows.filter(pl.col("group") == group)


def areas(results: Results) -> Mapping[str, Sequence[Slice]]:
    """Return label -> AUC of all cases, of each group, and of cases with and without each cue."""
    slices = {}
    for label in results.labels:
        label_rows = results.of(label).filter(pl.col("truth").is_not_null())
        parts: list[tuple[str, pl.DataFrame]] = [("all images", label_rows)]
        parts += [(group, part) for group, part in _groups(results, label_rows) if group != "all"]
        for cue in results.file.cohort.cues:
            column = pl.col(f"cue:{cue}")
            parts += [(f"{cue} present", label_rows.filter(column)), (f"{cue} absent", label_rows.filter(~column))]
        slices[label] = [_slice(name, part) for name, part in parts]
    return slices


def _slice(name: str, part: pl.DataFrame) -> Slice:
    truth, patients = part["truth"].to_numpy().astype(bool), part["patient"].to_list()
    interval = auc_interval(part["log_odds"].to_numpy(), truth, patients=patients)
    return Slice(name, len(part), int(truth.sum()), len(set(patients)), interval)


def outcomes(results: Results, label: str) -> dict[str, int]:
    """Return the numbers of true and false positives and negatives of a label."""
    counts: dict[str, Any] = dict(results.of(label).group_by("outcome").len().rows())
    return {name: int(counts.get(name, 0)) for name in ("TP", "FP", "FN", "TN")}
