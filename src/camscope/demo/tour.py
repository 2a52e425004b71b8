"""The demo from end to end: write the cohort, explain it, show planted and clean models side by side."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from camscope.demo.cohort import write_cohort
from camscope.demo.findings import FINDINGS
from camscope.demo.training import train_all
from camscope.explanation import Explanation, explain_all
from camscope.models.loading import load
from camscope.models.model import Model
from camscope.render import Cell, sheet

Progress = Callable[[str, int, int], None]
"""Called with a step, what of it is done, and its total."""

_SHOWN = 4


def tour(
    out: Path, *, seed: int = 7, patients: int = 70, retrain: bool = False, progress: Progress = lambda *_: None
) -> Path:
    """Write the phantom cohort, explain each finding that is present, and make a sheet of what the models look at.

    Args:
        out: folder; holds ``study.toml``, ``cohort.csv``, ``images``, ``masks``, ``models`` and ``maps`` afterwards.
        seed: of the cohort.
        patients: how many.
        retrain: train the five models again, instead of using the ones that come with the package.
        progress: called as the steps go on.

    Returns:
        The sheet: some pictures with the token, and under each finding the map of its model.
    """
    write_cohort(out, seed=seed, patients=patients, progress=lambda done, of: progress("writing the cohort", done, of))
    if retrain:
        trained = itertools.count(1)
        train_all(out / "models", progress=lambda *_: progress("training", next(trained), len(FINDINGS)))
    with (out / "cohort.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    models = {finding: load(out / "models" / finding.lower()) for finding in FINDINGS}
    total = sum(row[finding.lower()] == "1" for row in rows for finding in FINDINGS)
    done = 0
    for finding, model in models.items():
        present = [row for row in rows if row[finding.lower()] == "1"]
        for row, e in zip(present, _explained(model, out, present), strict=True):
            place = out / "maps" / row["view"] / row["patient_id"] / Path(row["path"]).stem
            place.mkdir(parents=True, exist_ok=True)
            e.overlay().save(place / f"gradcam_{finding}_{finding.lower()}.jpg", quality=92)
            done += 1
            progress("explaining", done, total)
    return _side_by_side(out, rows, models)


def _explained(model: Model, out: Path, rows: list[dict[str, str]]) -> Iterator[Explanation]:
    return explain_all(model, [out / row["path"] for row in rows], targets=0)


def _side_by_side(out: Path, rows: list[dict[str, str]], models: dict[str, Model]) -> Path:
    """Pictures with the token, one a row; the maps of all models on each, one a column."""
    shown = [row for row in rows if row["token"] == "1"][: _SHOWN * 3 : 3]
    columns = [list(_explained(model, out, shown)) for model in models.values()]
    table = []
    for number, row in enumerate(shown):
        found = [finding for finding in FINDINGS if row[finding.lower()] == "1"]
        original = columns[0][number].picture
        cells = [Cell(Image.fromarray(original.rgb), f"truth: {', '.join(found) or 'no finding'}")]
        for finding, column in zip(FINDINGS, columns, strict=True):
            e = column[number]
            cells.append(Cell(e.overlay(), f"{finding}: p = {e.probability or 0:.2f}"))
        table.append(cells)
    headings = ["picture", *(f"model of {finding}" for finding in FINDINGS)]
    path = out / "models_side_by_side.png"
    sheet(table, column_headings=headings, title="What each model looks at (Grad-CAM)").save(path)
    return path
