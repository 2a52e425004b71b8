"""Write a copy of a study's results without the identity of patients, to give to others."""

from __future__ import annotations

import warnings
from pathlib import Path

import polars as pl

from camscope.audit.output import TABLE
from camscope.cohort.shown_names import ShownNames
from camscope.cohort.store import as_written
from camscope.files import claim, write_atomically
from camscope.progress import Progress
from camscope.report.page import write_page
from camscope.report.results import read_results
from camscope.study.csv_export import write_csv
from camscope.study.study import Study

EFFECTS = "effects.csv"
_KIND = "a shared study"


def share(
    folder: str | Path, out: Path, *, study: Study | None = None, progress: Progress = lambda *_: None
) -> tuple[Path, ...]:
    """Write a study's report, rows and effects without names of patients, images and files.

    Patients, images, values and messages are those of `ShownNames` with pseudonyms. Nothing is copied: rows, study
    file, record, overlays and ``private`` stay where they are. Thumbnails are drawn anew from pixels, without
    metadata; text that is burned into an image stays visible.

    Args:
        folder: folder of a study that has been run, with or without an audit.
        out: a new or empty folder, or one that was shared before.
        study: the study; needed if its images were moved since the run.
        progress: called with the current step, the number of items done, and the total.

    Returns:
        The paths of ``report.html``, ``rows.csv`` and, after an audit, ``effects.csv``: one row per label, region or
        property, stratum, test and fill-in.

    Raises:
        StoreError: the folder has no study, or the other folder holds something else or cannot be written.
    """
    with as_written(folder):
        results = read_results(folder, study=study)
        claim(out, _KIND)
        if not results.patients_known:
            text = "so values of groups and strata are hidden unless they are short or usual words"
            warnings.warn(f"no patients are known, {text}", stacklevel=2)
        paths = [
            write_page(results, out, names=ShownNames(results.named), progress=progress),
            write_csv(folder, out=out, pseudonyms=True),
        ]
        (out / EFFECTS).unlink(missing_ok=True)
        if results.audit is not None:
            effects = pl.read_parquet(results.folder / TABLE)
            write_atomically(
                out / EFFECTS, lambda file: file.write(effects.write_csv(include_bom=True).encode("utf-8"))
            )
            paths.append(out / EFFECTS)
    return tuple(paths)
