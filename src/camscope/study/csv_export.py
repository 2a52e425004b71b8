"""Write the rows of a study as a CSV file for a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from camscope.cohort.store import Store
from camscope.errors import StoreError
from camscope.files import write_atomically, writing
from camscope.study.rows import FILES
from camscope.study.run import study_record

CSV = "rows.csv"
_LEFT_OUT = ("grid", "window", *(name for name in FILES if name not in ("file", "height", "width")))
_NAMING = ("message", "file", "group", "notes")
_FORMULA = r"^([=+\-@\t\r])"


def write_csv(folder: str | Path, *, pseudonyms: bool = False) -> Path:
    """Write ``rows.csv``: one row per case, label and method, without the maps.

    The file is UTF-8 with a byte order mark, which spreadsheets need to recognise the encoding. An apostrophe is put
    before texts that a spreadsheet would read as a formula.

    Args:
        folder: folder of a study that has been run.
        pseudonyms: name patients P1, P2 ... and images by their number; groups, messages and files are left out.

    Returns:
        The path of the file.

    Raises:
        StoreError: the folder has no study, the study has no rows, or the file cannot be written.
    """
    store = Store(folder)
    shards = store.copies(str(study_record(store).get("plan")))
    if not shards:
        raise StoreError(f"{folder} has no rows yet: run `camscope study` first")
    rows = pl.concat([pl.read_parquet(shard).drop(_LEFT_OUT, strict=False) for shard in shards]).sort("case")
    rows = rows.with_columns(pl.col("notes").list.join("; "))
    if pseudonyms:
        patients = [name for name in rows["patient"].unique(maintain_order=True) if name]
        names = {name: f"P{number}" for number, name in enumerate(patients, 1)}
        rows = rows.drop(_NAMING).with_columns(
            pl.col("patient").replace_strict(names, default=""), image=pl.col("case").cast(pl.String)
        )
    rows = rows.with_columns(pl.col(pl.String).str.replace(_FORMULA, "'$1"))
    path = store.folder / CSV
    with writing(path):
        write_atomically(path, lambda file: file.write(rows.write_csv(include_bom=True).encode("utf-8")))
    return path
