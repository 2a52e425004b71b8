"""Read the results of a study from its folder: rows, record and audit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from camscope.audit.output import JSON
from camscope.cohort.store import FAILED, OK, Store
from camscope.cohort.tables import located
from camscope.errors import StoreError, reason
from camscope.study.config import StudyFile
from camscope.study.rows import region_names
from camscope.study.run import study_record
from camscope.study.study import Study

_COUNTED = (
    *("case", "patient", "group", "label", "method", "truth", "score", "log_odds", "outcome", "status", "layer"),
    *("grid_height", "grid_width", "map_max", "height", "image_sha256"),
)
"""Columns that are kept in memory for all rows; other columns are read when they are needed."""

_LARGE = ("grid", "notes")
_GROUPS = 8

Case = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """A study's rows, record and audit.

    Attributes:
        store: the study's folder.
        record: content of ``study.json``.
        file: the study file.
        root: folder to which the paths of images are relative.
        shards: the files of the rows.
        rows: all rows, with the columns that are kept in memory.
        audit: content of ``audit.json``; None if these rows have no audit.
        warnings: warnings at the top of the page.
        grouped: whether the page shows groups; false if the names of groups contain names of patients.
    """

    store: Store = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    file: StudyFile = field(repr=False)
    root: str
    shards: tuple[Path, ...]
    rows: pl.DataFrame = field(repr=False)
    audit: dict[str, Any] | None = field(repr=False)
    warnings: tuple[str, ...]
    grouped: bool = True

    @property
    def folder(self) -> Path:
        """Return the study's folder."""
        return self.store.folder

    @property
    def patients_known(self) -> bool:
        """Return whether a column or the images' headers name patients; if not, each image counts as one."""
        return self.record.get("patients") != "none"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels, in the order of the study file."""
        return tuple(self.file.labels)

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods; the audit uses the first."""
        return self.file.explain.methods

    @property
    def regions(self) -> tuple[str, ...]:
        """Return the regions in which the heat was measured."""
        return tuple(name for name in region_names(self.file) if f"mass:{name}" in self.rows.columns)

    @cached_property
    def first(self) -> pl.DataFrame:
        """Return the rows of the first method: one per case and label."""
        return self.rows if not self.methods[1:] else self.rows.filter(pl.col("method") == self.methods[0])

    @cached_property
    def cases(self) -> pl.DataFrame:
        """Return one row per case."""
        return one_per_case(self.rows.select("case", "patient", "group", "height", "image_sha256"))

    @cached_property
    def named(self) -> pl.DataFrame:
        """Return one row per case, with the columns that may name a patient or an image."""
        columns = ("case", "patient", "image", "group", "height", "image_sha256")
        return one_per_case(self._scan.select(*columns, pl.col("^stratum:.*$")).collect())

    @cached_property
    def failed(self) -> pl.DataFrame:
        """Return the rows that failed, with the reason."""
        return self._scan.filter(pl.col("status") == FAILED).select("case", "image", "patient", "message").collect()

    def precision_notes(self) -> list[tuple[str, str]]:
        """Return (model, note) for each model computed in a lower precision: its agreement with float32."""
        if self.record.get("run", {}).get("precision", "float32") == "float32":
            return []
        noted = (
            self._scan.select("model", "notes")
            .explode("notes")
            .filter(pl.col("notes").str.contains(r"^computed in (bfloat16|float16|float32, not)"))
        )
        return noted.unique(maintain_order=True).collect().rows()

    @property
    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(list(self.shards))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Return the largest groups, sorted by name; () if cases have no groups."""
        if not self.grouped:
            return ()
        counts = self.cases.filter(pl.col("group").fill_null("") != "")["group"].value_counts(sort=True)
        return tuple(sorted(counts["group"].to_list()[:_GROUPS]))

    def of(self, label: str) -> pl.DataFrame:
        """Return the rows of a label for the first method, without failed rows."""
        return self.first.filter((pl.col("label") == label) & pl.col("score").is_not_null())

    def scored(self, label: str) -> pl.DataFrame:
        """Return the columns for the performance of a label: truth, outcome, probability, log-odds and subgroups."""
        columns = ("patient", "group", "truth", "outcome", "probability", "log_odds")
        rows = self._scan.filter((pl.col("label") == label) & (pl.col("method") == self.methods[0]))
        return rows.select(*columns, pl.col("^(cue|stratum):.*$")).collect()

    def rows_of(self, cases: Sequence[int]) -> pl.DataFrame:
        """Return the full rows of some cases, without maps, in the order of ``rows``."""
        return self._scan.filter(pl.col("case").is_in(cases)).drop(_LARGE).collect()

    def maps(self, label: str, method: str, *, cases: Sequence[int] | None = None) -> Iterator[pl.DataFrame]:
        """Yield, shard by shard, the maps of a label and method, for all or some cases; one row per map."""
        condition = (pl.col("label") == label) & (pl.col("method") == method) & (pl.col("status") == OK)
        if cases is not None:
            condition &= pl.col("case").is_in(cases)
        columns = ["case", "grid", "grid_height", "grid_width", "window"]
        for path in self.shards:
            yield pl.scan_parquet(path).filter(condition & pl.col("grid").is_not_null()).select(columns).collect()

    def large(self, cases: Sequence[int]) -> Iterator[pl.DataFrame]:
        """Yield, shard by shard, the maps and notes of some cases, in the order of ``rows``."""
        for path in self.shards:
            yield pl.scan_parquet(path).filter(pl.col("case").is_in(cases)).select(_LARGE).collect()


def one_per_case(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row per case; rows with the size and the hash of the image are preferred."""
    ordered = rows.sort(pl.col("height").is_null(), pl.col("image_sha256").is_null(), maintain_order=True)
    return ordered.unique("case", keep="first", maintain_order=True).sort("case")


def read_results(folder: str | Path, *, study: Study | None = None) -> Results:
    """Read a study's folder.

    Args:
        folder: folder of a study that has been run.
        study: the study; None reads it from the record in the folder.

    Raises:
        StoreError: the folder has no study, the study has no rows, or its record is damaged.
    """
    store = Store(folder)
    record = study_record(store)
    plan = str(record.get("plan"))
    shards = tuple(store.copies(plan))
    if not shards:
        raise StoreError(f"{folder} has no rows yet: run `camscope study` first")
    try:
        file = StudyFile.model_validate(record["study"])
        rows = pl.scan_parquet(list(shards)).select(*_COUNTED, pl.col("^(cue|mass|area):.*$")).collect()
    except (KeyError, ValidationError, pl.exceptions.PolarsError, OSError) as fault:
        words = str(fault).splitlines()[0]
        raise StoreError(f"the study in {folder} cannot be read ({words}): run `camscope study` again") from None
    audit, warnings = _audit(store.folder, plan)
    if not record.get("finished"):
        warnings = ["This study is not finished: this page shows the rows that have been computed so far.", *warnings]
    results = Results(store, record, file, _root(file, record, study), shards, rows, audit, tuple(warnings))
    if results.patients_known:
        return results
    text = "No patients are known: each image counts as a patient, so every interval on this page may be too narrow."
    return replace(results, warnings=(*warnings, text))


def _audit(folder: Path, plan: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the audit of these rows (None if there is none), and warnings about it."""
    path = folder / JSON
    if not path.exists():
        return None, []
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it does not contain a JSON object")
    except (OSError, ValueError, RecursionError) as fault:
        raise StoreError(f"{path} cannot be read ({reason(fault)}): run `camscope audit` again") from None
    if content.get("plan") != plan:
        text = "The audit in this folder belongs to an earlier version of the study and is left out: "
        return None, [text + "run `camscope audit` again."]
    return content, []


def _root(file: StudyFile, record: dict[str, Any], study: Study | None) -> str:
    """Return the folder to which the paths of images are relative."""
    if study is not None:
        return study.cohort.root
    folder = Path(str(record.get("study_file", "."))).parent
    table = located(file.cohort.table.path, folder)
    return table if os.path.isdir(table) else located(file.cohort.root, folder)  # noqa: PTH112  may be an address
