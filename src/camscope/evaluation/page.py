"""Results of an evaluation: the table in ``evaluation.json``, and the page."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from camscope.cohort.store import EVALUATION, FAILED, Store, as_written
from camscope.errors import StoreError
from camscope.evaluation.baselines import BASELINES, WORDS
from camscope.evaluation.figures import against_figure, cascade_figure, cost_figure, metric_figure, ordered
from camscope.evaluation.rows import on_few
from camscope.evaluation.summary import summary
from camscope.evaluation.summary_text import KINDS, arrow, cell_of, measured, sentences
from camscope.files import write_atomically
from camscope.metrics import FACTS, METRICS
from camscope.page.lines import Drawn
from camscope.page.shell import rendered

PAGE = "evaluation.html"

_SHOWN = 4  # images of the sheet
_PAIRS = (("mass_accuracy", "road"), ("mass_accuracy", "deletion"), ("pointing", "average_drop"))


def evaluated(folder: Path) -> dict[str, Any]:
    """Write the table and the page of an evaluation from its rows.

    Args:
        folder: output folder of the evaluation.

    Returns:
        The content of ``evaluation.json``; "table" holds the numbers.

    Raises:
        StoreError: the folder holds no evaluation, or cannot be written.
    """
    store = Store(Path(folder), record=EVALUATION)
    record = store.read_record()
    shards = store.copies(str(record.get("plan")))
    if not record or not shards:
        raise StoreError(f"there is no evaluation in {folder}: run camscope evaluate --out {folder} first")
    with as_written(store.folder):
        return _written(store, record, pl.read_parquet(shards))


def _written(store: Store, record: dict[str, Any], rows: pl.DataFrame) -> dict[str, Any]:
    table = summary(
        rows.drop("overlay"),
        metrics=record["metrics"],
        contestants=record["contestants"],
        seed=record["run"]["seed"],
    )
    content = record | {"table": table}
    store.record(content)
    text = rendered("evaluation.html.j2", _content(content, rows), package="camscope.evaluation")
    write_atomically(store.folder / PAGE, lambda file: file.write(text.encode("utf-8", "replace")))
    return content


def _content(content: Mapping[str, Any], rows: pl.DataFrame) -> dict[str, Any]:
    """Return the values that the template shows."""
    table = content["table"]
    methods = table["methods"]
    return {
        "record": content,
        "table": table,
        "sentences": sentences(table),
        "counts": {
            "pictures": content["data"]["pictures"],
            "annotated": content["data"]["annotated"],
            "methods": sum(not entry["baseline"] and bool(entry["pictures"]) for entry in methods),
            "rows": len(rows),
            "total": content["data"]["pictures"] * len(content["contestants"]),
            "maps": sum(entry["pictures"] for entry in methods),
        },
        "patients": rows["patient"].n_unique() if content["data"]["patients"] else None,
        "kinds": [
            {"name": what, "question": words, "metrics": metrics, "order": _order(table, what)}
            for what, words in KINDS.items()
            if (metrics := measured(table, what))
        ],
        "cell": lambda method, metric: cell_of(table, method, metric),
        "arrow": arrow,
        "describe": _described,
        "on_few": on_few,
        "baselines": BASELINES,
        "baseline_words": WORDS,
        "drawn": _drawn(table),
        "sheet": _sheet(rows, [entry["method"] for entry in ordered(table)]),
        "refused": [entry for entry in methods if entry["refused"]],
        "restricted": [entry for entry in methods if entry["restricted"] and not entry["refused"]],
        "failures": _failures(rows),
        "area": _mean_area(rows),
    }


def _described(metric: str) -> str:
    """Return the description of a metric: the first line of its docstring.

    >>> _described("tuned_iou")
    'Compute the overlap with the region where heat >= t * maximum, for the t that is best on average.'
    """
    text = (METRICS[metric].__doc__ or "").splitlines()[0].replace("`", "")
    return text.replace("for each t of THRESHOLDS", "for the t that is best on average")


def _order(table: Mapping[str, Any], what: str) -> list[Mapping[str, Any]]:
    """Return the methods of one table by their mean rank in its kind, and those without by that in localisation."""
    ranks = table["ranks"]
    fallback = {entry["method"]: place for place, entry in enumerate(ordered(table))}
    run = [entry for entry in table["methods"] if entry["pictures"]]
    return sorted(run, key=lambda entry: (ranks.get(entry["method"], {}).get(what, 1e9), fallback[entry["method"]]))


def _drawn(table: Mapping[str, Any]) -> dict[str, list[Drawn]]:
    """Return the figures of each section."""
    metrics = [name for name in measured(table) if FACTS[name].best != "none"]
    pair = next(((x, y) for x, y in _PAIRS if {x, y} <= set(metrics)), None)
    against = None if pair is None else against_figure(table, *pair, name="against")
    cascade = cascade_figure(table, name="cascade")
    figures: dict[str, Sequence[Drawn | None]] = {
        "against": [against],
        "cascade": [cascade],
        "cost": [cost_figure(table, name="cost")],
        "metrics": [metric_figure(table, name, name=f"m{n}") for n, name in enumerate(metrics)],
    }
    return {
        section: [Drawn(d.title, Markup(d.svg), d.columns, d.rows) for d in panels if d is not None]
        for section, panels in figures.items()
    }


def _sheet(rows: pl.DataFrame, methods: Sequence[str]) -> dict[str, Any]:
    """Return the maps of the first images as data addresses: one line per method, "" where there is no map."""
    subset = rows.filter(pl.col("overlay").is_not_null())
    cases = subset["case"].unique().sort().to_list()[:_SHOWN]
    overlays = {
        (row["method"], row["case"]): "data:image/jpeg;base64," + base64.b64encode(row["overlay"]).decode()
        for row in subset.filter(pl.col("case").is_in(cases)).select("method", "case", "overlay").iter_rows(named=True)
    }
    classes = [subset.filter(pl.col("case") == case)["class"][0] for case in cases]
    lines = [
        {"method": method, "maps": [overlays.get((method, case), "") for case in cases]}
        for method in methods
        if any((method, case) in overlays for case in cases)
    ]
    return {"classes": classes, "lines": lines}


def _failures(rows: pl.DataFrame) -> list[tuple[str, int]]:
    """Return the reasons why rows failed, each with its count."""
    failed = rows.filter(pl.col("status") == FAILED)
    counts = failed.group_by("message").len().sort("len", descending=True).rows()
    return [(str(message), int(number)) for message, number in counts]


def _mean_area(rows: pl.DataFrame) -> float | None:
    """Return the mean share of an image that its annotation covers."""
    areas = rows.filter(pl.col("area").is_not_null()).unique("case")["area"].to_list()
    return statistics.fmean(areas) if areas else None
