"""The cases of a study for the app: filtered, sorted, one page at a time; their pictures and models."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from camscope.app.bodies import Selection
from camscope.app.reviews import Reviews
from camscope.app.uploads import Upload, Uploads
from camscope.cohort.tables import located
from camscope.errors import PictureError, SettingError, StoreError, nearest
from camscope.images import fetch
from camscope.images.source import split
from camscope.models.model import Model
from camscope.report.results import Results, read_results
from camscope.report.words import region_words
from camscope.study.csv_export import for_spreadsheets
from camscope.study.run import study_of
from camscope.study.study import Study

PAGE = 24
_HIDDEN = ("truth", "probability", "score", "outcome")
"""Columns that a blinded reader does not see."""
_SHOWN = ("case", "image", "patient", "group", "label", "truth", "score", "probability", "outcome", "status", "message")


class StudyCases:
    """A study that has been run, or is running.

    Args:
        folder: its folder, on this machine.
        file: its study file, if it was moved.

    Raises:
        StoreError: the folder has no study.
        StudyError: a model of the study cannot be loaded.
    """

    def __init__(self, folder: Path, file: Path | None = None) -> None:
        if not folder.is_dir():
            raise StoreError(f"there is no folder {str(folder)!r}: give the folder of a study, --study DIR")
        self._folder, self._lock = folder, threading.Lock()
        self._study: Study = study_of(str(folder), file)
        self._read()
        self.reviews = Reviews(folder)
        self.models: dict[str, Model] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        for label in self._results.labels:
            model, index = self._study.model(label)
            name = model.name if self.models.get(model.name, model) is model else f"{model.name}, {label}"
            self.models[name] = model
            self.answers[label] = {"model": name, "class": index}

    def _read(self) -> None:
        self._results: Results = read_results(self._folder, study=self._study)
        self._files = self._state()
        names = self._results.named.select("case", "image")
        rows = self._results.first.join(names, on="case", how="left")
        self._rows = rows.with_columns((1 / (1 + (-pl.col("log_odds")).exp())).alias("chance"))

    def _state(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((path.name, path.stat().st_size) for path in (self._folder / "rows").glob("*.parquet")))

    def facts(self) -> dict[str, Any]:
        """Return labels with their models, methods, groups and regions."""
        results = self._results
        return {
            "name": "/".join(self._folder.resolve().parts[-2:]),
            "labels": self.answers,
            "methods": list(results.methods),
            "groups": list(results.groups),
            "regions": [{"name": name, "words": region_words(name)} for name in results.regions],
            "warnings": list(results.warnings),
            "cases": len(results.cases),
        }

    def page(self, chosen: Selection) -> dict[str, Any]:
        """Return one page of the chosen rows, and how many there are."""
        with self._lock:
            if self._state() != self._files:  # the study is running
                self._read()
            rows = self.chosen(chosen)
            part = rows[PAGE * chosen.page : PAGE * (chosen.page + 1)]
            full = self._full(part)
        shown = [name for name in _SHOWN if not (chosen.blinded and name in _HIDDEN)]
        return {"rows": [{name: row[name] for name in shown} for row in full], "total": len(rows), "page": PAGE}

    def _full(self, part: pl.DataFrame) -> list[dict[str, Any]]:
        """Return the shown columns of rows, in their order."""
        stored = self._results.rows_of(part["case"].to_list())
        stored = stored.filter(pl.col("method") == self._results.methods[0]).select(_SHOWN)
        by_key = {(row["case"], row["label"]): row for row in stored.iter_rows(named=True)}
        return [by_key[key] for key in part.select("case", "label").iter_rows()]

    def chosen(self, chosen: Selection) -> pl.DataFrame:
        """Return the rows that the filters keep, sorted.

        Raises:
            SettingError: no such column to sort by, or a blinded reader would see the answers by their order.
        """
        columns = {"case": pl.col("case"), "probability": pl.col("chance")}
        columns["surprise"] = (pl.col("truth").cast(pl.Float64) - pl.col("chance")).abs()
        columns |= {f"mass:{name}": pl.col(f"mass:{name}") for name in self._results.regions}
        if chosen.sort not in columns:
            raise SettingError(f"cannot sort by {chosen.sort!r}; possible are {', '.join(columns)}")
        bounds = chosen.low is not None or chosen.high is not None
        reveals = chosen.sort in ("probability", "surprise") or chosen.outcome is not None or bounds
        if chosen.blinded and reveals:
            raise SettingError("a blinded reader cannot filter or sort by what is hidden")
        rows = self._rows
        for name in ("label", "group", "outcome", "status"):
            if (value := getattr(chosen, name)) is not None:
                rows = rows.filter(pl.col(name) == value)
        if chosen.text:
            text = chosen.text.lower()
            names = (pl.col(name).str.to_lowercase().str.contains(text, literal=True) for name in ("patient", "image"))
            rows = rows.filter(pl.any_horizontal(*names))
        if chosen.low is not None:
            rows = rows.filter(pl.col("chance") >= chosen.low)
        if chosen.high is not None:
            rows = rows.filter(pl.col("chance") <= chosen.high)
        down = chosen.down and chosen.sort != "case"
        return rows.sort(columns[chosen.sort], descending=down, nulls_last=True, maintain_order=True)

    def image(self, case: int) -> str:
        """Return the name of a case's image.

        Raises:
            PictureError: there is no such case, or it has no image.
        """
        found = self._results.named.filter(pl.col("case") == case)["image"].to_list()
        if not found or not found[0]:
            raise PictureError(f"the study has no image of case {case}")
        return str(found[0])

    def known_label(self, label: str) -> str:
        """Return a label of the study.

        Raises:
            SettingError: it has no such label.
        """
        if label not in self.answers:
            raise SettingError(nearest("label", label, self.answers))
        return label

    def open(self, case: int, uploads: Uploads) -> Upload:
        """Read the picture of a case.

        Raises:
            PictureError: there is none, or it has changed since the study was run.
        """
        name = self.image(case)
        source = located(name, self._results.root)
        content = fetch(source)
        known = self._results.named.filter(pl.col("case") == case)["image_sha256"].to_list()[0]
        if known and hashlib.sha256(content).hexdigest() != known:
            raise PictureError(f"the image of case {case} has changed since the study was run")
        path, frame = split(source)
        return uploads.add(content, path, frame=frame)

    def csv(self, chosen: Selection) -> bytes:
        """Return the chosen rows with their reviews, one line per row and reader, for a spreadsheet."""
        rows = self._full(self.chosen(chosen))
        kinds: Mapping[str, Any] = {name: self._schema()[name] for name in _SHOWN}
        table = pl.DataFrame(rows, schema=dict(kinds)).drop(_HIDDEN if chosen.blinded else ())
        return for_spreadsheets(table.join(self.reviews.table(), on=["image", "label"], how="left"))

    def _schema(self) -> Mapping[str, Any]:
        return pl.scan_parquet(self._results.shards[0]).collect_schema()
