"""Scan a folder of images: rows shard by shard, reuse of earlier rows, then the ranking and the page."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from camscope.cohort.runner import case_bytes
from camscope.cohort.store import SCAN, Store, key_of
from camscope.errors import check_count
from camscope.evaluation.data import EvaluationData
from camscope.explanation.result import versions
from camscope.files import write_atomically
from camscope.images import find_pictures
from camscope.images.find import other_files
from camscope.models.device import device_of
from camscope.models.model import Model
from camscope.naming import method_spelling
from camscope.prefetch import batched
from camscope.progress import Progress
from camscope.scan.page import contact_sheet, page_text
from camscope.scan.ranking import ranked
from camscope.scan.step import SCHEMA, ScanStep
from camscope.study.csv_export import for_spreadsheets

SCHEMA_VERSION = 2
PAGE, SHEET, TABLE, CSV = "scan.html", "contact_sheet.jpg", "scan.parquet", "scan.csv"
_LARGE = ("grid", "look", "pattern", "overlay")


@dataclass(frozen=True)
class ScanPlan:
    """Model, images and settings of a scan.

    Attributes:
        model: the model, on its device.
        data: the images, from `read_data`.
        method: name of the method.
        batch_size: images per forward pass.
        seed: random seed of the clusters of maps.
        most: largest number of images on the page and in the contact sheet; the tables have all.
    """

    model: Model
    data: EvaluationData
    method: str = "gradcam"
    batch_size: int = 16
    seed: int = 0
    most: int = 200

    @property
    def made_with(self) -> tuple[Any, ...]:
        """Return everything that a row depends on, except the image."""
        model = self.model
        facts = (model.digest, model.preprocess.to_dict(), model.outcome, model.layer, list(model.labels))
        return (SCHEMA_VERSION, (*facts, device_of(model)), method_spelling(self.method))

    @property
    def fingerprint(self) -> str:
        """Return eight hexadecimal digits that identify the images and all settings."""
        return key_of(self.made_with, [vars(case) for case in self.data.cases], self.batch_size)[:8]


def scan(
    plan: ScanPlan,
    out: str | Path,
    *,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Score and explain the images of a folder, and rank them by how odd they are; or resume an earlier run.

    Rows are written to ``out/rows/*.parquet``, one shard per batch. The page ``scan.html`` and ``contact_sheet.jpg``
    show the oddest images; ``scan.csv`` and ``scan.parquet`` have all.

    Args:
        plan: model, images and settings.
        out: folder for the results.
        progress: called with the current step, the number of images done, and the total.
        say: called with each message for the user.

    Returns:
        One row per image, the oddest first, with the columns ``oddness`` (0 for images without a reason) and
        ``reasons``.

    Raises:
        StoreError: another process uses ``out``, or it cannot be written.
        OutputError: the model returns no score per class.
    """
    check_count("batch_size", plan.batch_size)
    check_count("most", plan.most)
    store, total, done = Store(Path(out), record=SCAN), len(plan.data.cases), 0
    with store.locked():
        store.begin(plan.fingerprint)
        left_out = _left_out(plan, store.folder)
        for text in left_out:
            say(text)
        record = _record(plan) | {"left_out": left_out}
        store.record(record | {"finished": False})
        known = store.known()
        for text in known.damaged:
            say(f"{text}: its rows are computed again")
        step = ScanStep(plan.model, plan.method, known, plan.made_with)
        numbers = itertools.count()
        for batch in batched(plan.data.cases, plan.batch_size, weigh=case_bytes):
            rows = list(step.rows(batch))
            store.write(plan.fingerprint, next(numbers), rows=rows, columns=SCHEMA)
            done += len(rows)
            progress("scanning", done, total)
        store.finish()
        shards = store.copies(plan.fingerprint)
        table = ranked(pl.scan_parquet(shards).drop("overlay").collect(), seed=plan.seed)
        _write(plan, store.folder, table, shards, left_out)
        store.record(record | {"finished": True})
    return table


def _record(plan: ScanPlan) -> dict[str, Any]:
    model = plan.model
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": plan.fingerprint,
        "model": {"name": model.name, "weights_sha256": model.digest, "preprocess": model.preprocess.to_dict()},
        "data": {"path": plan.data.path, "images": len(plan.data.cases)},
        "run": {"method": plan.method, "batch_size": plan.batch_size, "seed": plan.seed},
        "versions": versions(),
    }


def _left_out(plan: ScanPlan, out: Path) -> list[str]:
    """Return sentences on the files of the folder that are not scanned."""
    folder = Path(plan.data.path)
    if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir() raises on names that are too long
        return []
    suffixes = other_files(folder, exclude=[out])
    kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in suffixes.most_common(5))
    scanned = {os.path.abspath(case.source) for case in plan.data.cases}  # noqa: PTH100  links keep their own place
    pictures = [path for path, _ in find_pictures([folder], exclude=[out])]
    masks = sum(os.path.abspath(path) not in scanned for path in pictures)  # noqa: PTH100
    return [
        f"{_files(count)} of the folder {'is' if count == 1 else 'are'} left out: {why}"
        for count, why in (
            (suffixes.total(), f"no images by their names ({kinds})"),
            (masks, "masks of other images, or results"),
        )
        if count
    ]


def _files(count: int) -> str:
    return f"{count:,} file{'s' if count != 1 else ''}"


def _write(plan: ScanPlan, folder: Path, table: pl.DataFrame, shards: list[Path], left_out: list[str]) -> None:
    """Write the page, the contact sheet and the tables."""
    shown = table.head(plan.most)
    overlays = pl.scan_parquet(shards).filter(pl.col("case").is_in(shown["case"].to_list())).select("case", "overlay")
    pictures = dict(overlays.collect().iter_rows())
    text = page_text(
        table, shown, pictures, model=plan.model.name, data=plan.data.path, method=plan.method, left_out=left_out
    )
    numbers = table.drop(_LARGE, strict=False)
    csv = for_spreadsheets(numbers.with_columns(pl.col("reasons", "notes").list.join("; ")))
    write_atomically(folder / TABLE, lambda file: numbers.write_parquet(file, compression="zstd"))
    write_atomically(folder / CSV, lambda file: file.write(csv))
    write_atomically(folder / SHEET, lambda file: contact_sheet(shown, pictures).save(file, "JPEG", quality=88))
    write_atomically(folder / PAGE, lambda file: file.write(text.encode("utf-8", "replace")))
