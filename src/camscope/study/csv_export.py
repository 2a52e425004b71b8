"""Write the rows of a study as a CSV file for a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from camscope.cohort.shown_names import ShownNames
from camscope.cohort.store import Store
from camscope.errors import StoreError
from camscope.files import write_atomically, writing
from camscope.study.rows import FILES
from camscope.study.run import study_record

CSV = "rows.csv"
_LEFT_OUT = ("grid", "window", *(name for name in FILES if name not in ("file", "height", "width")))
_NAMING = ("file", "image_sha256", "key")
_FORMULA = r"^([=+\-@\t\r])"


def write_csv(folder: str | Path, *, out: Path | None = None, pseudonyms: bool = False) -> Path:
    """Write ``rows.csv``: one row per case, label and method, without the maps.

    The file is UTF-8 with a byte order mark, which spreadsheets need to recognise the encoding. An apostrophe is put
    before texts that a spreadsheet would read as a formula.

    Args:
        folder: folder of a study that has been run.
        out: folder for the file; None for the folder of the study.
        pseudonyms: replace what names patients, images and files (see `ShownNames`); hashes are left out.

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
        rows = _without_names(rows.drop(_NAMING, strict=False))
    path = (store.folder if out is None else out) / CSV
    with writing(path):
        write_atomically(path, lambda file: file.write(for_spreadsheets(rows)))
    return path


def for_spreadsheets(rows: pl.DataFrame) -> bytes:
    """Return a table as the content of a CSV file that a spreadsheet opens as it is; see `write_csv`."""
    texts = rows.with_columns(pl.col(pl.String).str.replace(_FORMULA, "'$1"))
    return texts.write_csv(include_bom=True).encode("utf-8")


def _without_names(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with pseudonyms of patients, images and values."""
    names = ShownNames(rows.unique("case", keep="first", maintain_order=True))
    columns = {
        name: [names.value(cell) for cell in rows[name]]
        for name in rows.columns
        if name == "group" or name.startswith("stratum:")
    }
    for name in ("message", "notes"):
        columns[name] = [names.text(*pair) for pair in rows.select(name, "patient").iter_rows()]
    columns["image"] = [names.image(*pair) for pair in rows.select("case", "image").iter_rows()]
    columns["patient"] = [names.patient(cell) for cell in rows["patient"]]
    return rows.with_columns(pl.Series(name, cells, pl.String) for name, cells in columns.items())
