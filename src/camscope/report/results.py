"""What a study left behind in its folder, as the report reads it."""

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
"""What is held of every row; more is read where it is asked for."""

_LARGE = ("grid", "notes")
_GROUPS = 8

Case = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """A study's rows, record and audit.

    Attributes:
        store: the study's folder.
        record: what ``study.json`` holds.
        file: the study file.
        root: where the pictures' paths start.
        shards: the files of the rows.
        rows: all rows, with what is counted of them.
        audit: what ``audit.json`` holds; None where there is none of these rows.
        warnings: what the reader must know before anything else.
        grouped: whether groups are told apart; not where they give patients' names away.
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
        """Of the study."""
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
        """Return the methods; the audit speaks of the first."""
        return self.file.explain.methods

    @property
    def regions(self) -> tuple[str, ...]:
        """Return the regions that maps were measured in."""
        return tuple(name for name in region_names(self.file) if f"mass:{name}" in self.rows.columns)

    @cached_property
    def first(self) -> pl.DataFrame:
        """Return the rows of the first method: one per case and label."""
        return self.rows if not self.methods[1:] else self.rows.filter(pl.col("method") == self.methods[0])

    @cached_property
    def cases(self) -> pl.DataFrame:
        """Return one row per case."""
        return one_a_case(self.rows.select("case", "patient", "group", "height", "image_sha256"))

    @cached_property
    def failed(self) -> pl.DataFrame:
        """Return the rows that failed, with the reason."""
        return self._scan.filter(pl.col("status") == FAILED).select("case", "image", "patient", "message").collect()

    @property
    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(list(self.shards))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Return the largest groups, by name; () where cases have none."""
        if not self.grouped:
            return ()
        counts = self.cases.filter(pl.col("group").fill_null("") != "")["group"].value_counts(sort=True)
        return tuple(sorted(counts["group"].to_list()[:_GROUPS]))

    def of(self, label: str) -> pl.DataFrame:
        """Return the rows of a label, of the first method, without those that failed."""
        return self.first.filter((pl.col("label") == label) & pl.col("score").is_not_null())

    def scored(self, label: str) -> pl.DataFrame:
        """Return what tells how good the scores of a label are: truth, prediction, probability and subgroups."""
        columns = ("patient", "group", "truth", "outcome", "probability", "log_odds")
        rows = self._scan.filter((pl.col("label") == label) & (pl.col("method") == self.methods[0]))
        return rows.select(*columns, pl.col("^(cue|stratum):.*$")).collect()

    def rows_of(self, cases: Sequence[int]) -> pl.DataFrame:
        """Return all that is known of some cases, without their maps, in the order of ``rows``."""
        return self._scan.filter(pl.col("case").is_in(cases)).drop(_LARGE).collect()

    def maps(self, label: str, method: str, *, cases: Sequence[int] | None = None) -> Iterator[pl.DataFrame]:
        """Shard by shard the maps of a label and method, one per row; of all cases, or of some."""
        condition = (pl.col("label") == label) & (pl.col("method") == method) & (pl.col("status") == OK)
        if cases is not None:
            condition &= pl.col("case").is_in(cases)
        columns = ["case", "grid", "grid_height", "grid_width", "window"]
        for path in self.shards:
            yield pl.scan_parquet(path).filter(condition & pl.col("grid").is_not_null()).select(columns).collect()

    def large(self, cases: Sequence[int]) -> Iterator[pl.DataFrame]:
        """Shard by shard the maps and notes of some cases, in the order of ``rows``."""
        for path in self.shards:
            yield pl.scan_parquet(path).filter(pl.col("case").is_in(cases)).select(_LARGE).collect()


def one_a_case(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row of each case, one that knows the picture and its size where there is one."""
    ordered = rows.sort(pl.col("height").is_null(), pl.col("image_sha256").is_null(), maintain_order=True)
    return ordered.unique("case", keep="first", maintain_order=True).sort("case")


def read_results(folder: str | Path, *, study: Study | None = None) -> Results:
    """Read a study's folder.

    Args:
        folder: of a study that has been run.
        study: the study; None: as its record has it.

    Raises:
        StoreError: there is no study, or it has no rows, or its record is damaged.
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
        raise StoreError(f"the study in {folder} cannot be read ({words}): run it again") from None
    audit, warnings = _audit(store.folder, plan)
    if not record.get("finished"):
        warnings = ["This study is not finished: what follows speaks of the rows that there are.", *warnings]
    results = Results(store, record, file, _root(file, record, study), shards, rows, audit, tuple(warnings))
    if results.patients_known:
        return results
    text = "No patients are known: each image counts as a patient, so every interval on this page may be too narrow."
    return replace(results, warnings=(*warnings, text))


def _audit(folder: Path, plan: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the audit of these rows, and what is wrong with it."""
    path = folder / JSON
    if not path.exists():
        return None, []
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as fault:
        raise StoreError(f"{path} cannot be read ({reason(fault)}): run `camscope audit` again") from None
    if content.get("plan") != plan:
        return None, ["The audit in this folder is of an earlier state of the study and is left out: run it again."]
    return content, []


def _root(file: StudyFile, record: dict[str, Any], study: Study | None) -> str:
    """Return where the pictures' paths start."""
    if study is not None:
        return study.cohort.root
    folder = Path(str(record.get("study_file", "."))).parent
    table = located(file.cohort.table.path, folder)
    return table if os.path.isdir(table) else located(file.cohort.root, folder)  # noqa: PTH112  may be an address
