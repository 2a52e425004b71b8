"""Summary text of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from camscope.evaluation.baselines import BASELINES
from camscope.evaluation.summary import UNRANKED
from camscope.metrics import FACTS, METRICS, kind
from camscope.page.words import number

KINDS = {
    "localisation": "Localisation: does the heat lie where the annotation does?",
    "faithfulness": "Faithfulness: does the score depend on what the map shows?",
    "robustness": "Steadiness: does the map hold still?",
    "randomisation": "Sanity: does the map depend on what was learned?",
    "comparison": "Other classes, other images: how alike are their maps?",
    "complexity": "Spread: how much of the image does the map claim?",
}
"""Kind of metric -> its question, in the order of the page."""

HEADLINES = ("pointing", "mass_accuracy", "auprc", "road", "deletion", "insertion", "average_drop", "adcc")
"""Metrics of the short table, if they were measured."""

Table = Mapping[str, Any]


def arrow(metric: str) -> str:
    """Return the arrow to the better values of a metric.

    >>> arrow("pointing"), arrow("deletion"), arrow("gini")
    ('↑', '↓', '')
    """
    return {"high": "↑", "low": "↓", "none": ""}[FACTS[metric].best]


def cell_of(table: Table, method: str, metric: str) -> Mapping[str, Any] | None:
    """Return the cell of a method and metric; None if there is none."""
    return next((c for c in table["cells"] if (c["method"], c["metric"]) == (method, metric)), None)


def measured(table: Table, what: str | None = None) -> list[str]:
    """Return the metrics that have cells, in the registry's order; ``what`` selects a kind."""
    names = {cell["metric"] for cell in table["cells"]}
    return [name for name in METRICS if name in names and what in (None, kind(METRICS[name]))]


def of_kind(table: Table, what: str) -> list[Mapping[str, Any]]:
    """Return the methods that were run, the best mean rank of a kind first, those without ranks last."""
    ranks = table["ranks"]
    run = [entry for entry in table["methods"] if entry["pictures"]]
    return sorted(run, key=lambda entry: ranks.get(entry["method"], {}).get(what, float("inf")))


def sentences(table: Table) -> list[str]:
    """Return the main results in sentences, from the numbers alone."""
    lines = []
    for what, words in (("localisation", "where the annotation is"), ("faithfulness", "what the score depends on")):
        metrics = [name for name in measured(table, what) if FACTS[name].best != "none" and name not in UNRANKED]
        ranked = [entry["method"] for entry in of_kind(table, what) if what in table["ranks"].get(entry["method"], {})]
        if not metrics or not ranked:
            continue
        proper = [name for name in ranked if name not in BASELINES]
        first = next((name for name in ranked if name in BASELINES), None)
        ahead = [name for name in proper if first is None or ranked.index(name) < ranked.index(first)]
        if ahead:
            best = ", ".join(ahead[:3])
            lines.append(f"Best at showing {words}, by mean rank ({', '.join(metrics)}): {best}.")
        if first is not None and proper:
            verb = "ranks" if len(ahead) < 2 else "rank"
            beaten = f"{len(ahead) or 'none'} of {_counted(len(proper), 'method')} {verb}"
            lines.append(f"In showing {words}, {beaten} before the best baseline, {first}.")
    lines += _sanity(table)
    groups: dict[str, list[str]] = {}
    for entry in table["methods"]:
        if entry["same_as"] and entry["method"] not in BASELINES and entry["same_as"] not in BASELINES:
            groups.setdefault(entry["same_as"], []).append(entry["method"])
    for first, copies in groups.items():
        lines.append(f"These methods have the same values in all metrics: {_listed([first, *copies])}.")
    return lines


def _sanity(table: Table) -> list[str]:
    """Return which methods fail the sanity check, and on how many images it was run."""
    checked = [entry for entry in table["methods"] if entry["sanity"] and entry["method"] not in BASELINES]
    if not checked:
        return []
    least, most = (f(entry["sanity"]["pictures"] for entry in checked) for f in (min, max))
    pictures = _counted(most, "image") if least == most else f"{least} to {most} images"
    failing = [entry["method"] for entry in checked if not entry["sanity"]["passed"]]
    if failing:
        why = "since their maps stay alike when the weights are random"
        return [f"Failed the sanity check on {pictures}, {why}: {_listed(failing)}."]
    passing = _counted(len(checked), "method")
    return [f"None of {passing} failed the sanity check on {pictures}: maps change when the weights are random."]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def headline_table(table: Table) -> list[str]:
    """Return the short table as text, the best mean rank of localisation (or else of faithfulness) first."""
    metrics = [name for name in HEADLINES if name in measured(table)]
    what = next((w for w in ("localisation", "faithfulness") if measured(table, w)), "complexity")
    rows = [["method", *(f"{name}{arrow(name)}" for name in metrics), "sanity", "passes", "s/map"]]
    for entry in of_kind(table, what):
        sanity = "" if entry["sanity"] is None else "passed" if entry["sanity"]["passed"] else "failed"
        name = (f"({entry['method']})" if entry["baseline"] else entry["method"]) + ("†" if entry["restricted"] else "")
        values = [_short(cell_of(table, entry["method"], metric)) for metric in metrics]
        rows.append([name, *values, sanity, f"{entry['passes']:.0f}", f"{entry['seconds']:.2g}"])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = ["rows in brackets are baselines; * significantly better than the best baseline (p < .05, Holm)"]
    if any(entry["restricted"] for entry in table["methods"]):
        notes.append("† run on few images, since it needs many passes; not ranked")
    return [*lines, *notes, *sentences(table)]


def _short(cell: Mapping[str, Any] | None) -> str:
    return "" if cell is None else number(cell["estimate"]) + ("*" if cell["beats_baseline"] else "")
