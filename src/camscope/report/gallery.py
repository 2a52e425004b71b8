"""Prepare the cases of a report: thumbnails, and the data that the page filters, sorts and draws."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from camscope.cohort.shown_names import ShownNames
from camscope.cohort.tables import located
from camscope.errors import CamscopeError
from camscope.files import MARKER, is_remote, write_atomically, writing
from camscope.images import decode, decoded_bytes, fetch
from camscope.page.pictures import data_address
from camscope.prefetch import prefetch
from camscope.progress import Progress
from camscope.report.choice import Shown
from camscope.report.mean_maps import MeanPictures
from camscope.report.results import Case, Results
from camscope.report.words import region_words
from camscope.viewer import colour_tables

FOLDER = "report_files"
INSIDE = 300
"""Largest number of cases whose thumbnails are part of the page."""

_LONGEST, _QUALITY = 256, 80
_THREADS, _AHEAD = 2, 16
_LEVELS = 32767
_COLOURS = ("byr", "viridis", "inferno", "cividis", "gray")


def thumbnails(
    results: Results, shown: Shown, *, out: Path, means: MeanPictures, progress: Progress, inside: int = INSIDE
) -> tuple[list[str], list[str]]:
    """Make the thumbnails of the cases of the gallery.

    Args:
        results: results of a study.
        shown: the cases of the gallery.
        out: folder of the page.
        means: receives every thumbnail.
        progress: called with "reading images", the number done, and the total.
        inside: largest number of cases whose thumbnails are data addresses. For more cases, they are files beside the
            page; a later report reuses the thumbnails of images that did not change.

    Returns:
        For each case the address of its thumbnail ("" if there is none), and the reason why there is none.
    """
    folder = out / FOLDER
    beside = len(shown.cases) > inside
    old_files = {path.name for path in folder.iterdir()} if folder.exists() else set()
    own_files = _owned(folder)
    if beside:
        _own(folder, own_files | {_file_of(sha256) for sha256 in shown.cases["image_sha256"].drop_nulls()})
    addresses, reasons = [], []
    new_files: set[str] = set()
    columns = ["case", "image", "image_sha256", "status", "height", "width"]
    cases = shown.cases.select(columns).iter_rows(named=True)
    for count, (case, image, reason) in enumerate(_thumbnails(results, cases), 1):
        address = ""
        if image is not None:
            if case["height"]:
                means.add(case["case"], image, size=(case["height"], case["width"]))
            if beside:
                name = _file_of(case["image_sha256"])
                if name not in old_files and name not in new_files:
                    write_atomically(folder / name, partial(image.save, format="JPEG", quality=_QUALITY))
                new_files.add(name)
                address = f"{FOLDER}/{name}"
            else:
                address = data_address(image, quality=_QUALITY)
        addresses.append(address)
        reasons.append(reason)
        progress("reading images", count, len(shown.cases))
    _tidy(folder, old_files & own_files, kept=new_files)
    return addresses, reasons


def _file_of(sha256: str) -> str:
    return f"{sha256[:24]}.jpg"


def _thumbnails(
    results: Results, cases: Iterator[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Image.Image | None, str]]:
    """Yield each case with its thumbnail, or the reason why it has none; images are read ahead in threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for case, (image, reason) in prefetch(
            pool,
            lambda case: (case, _thumbnail(case, results.root)),
            cases,
            depth=_AHEAD,
            weigh=lambda case: decoded_bytes(located(case["image"], results.root)) if case["image"] else 0,
        ):
            yield case, image, reason


def _thumbnail(case: Case, root: str) -> tuple[Image.Image | None, str]:
    if not case["image"] or not case["image_sha256"]:
        return None, "the image could not be read"
    source = located(case["image"], root)
    try:
        content = fetch(source)
    except CamscopeError:
        return None, "the image no longer exists"
    if hashlib.sha256(content).hexdigest() != case["image_sha256"]:
        return None, "the image has changed since the study was run"
    try:
        image = Image.fromarray(decode(content, source).rgb)
    except CamscopeError:
        return None, "the image could not be read"
    image.thumbnail((_LONGEST, _LONGEST))
    return (image.convert("L") if _is_grey(image) else image), ""


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def _owned(folder: Path) -> set[str]:
    """Return the thumbnails that earlier reports wrote, as the folder's manifest lists them."""
    try:
        return set((folder / MARKER).read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return set()


def _own(folder: Path, names: set[str]) -> None:
    text = "\n".join(sorted(names))
    write_atomically(folder / MARKER, lambda file: file.write(text.encode()))


def _tidy(folder: Path, old_files: set[str], *, kept: set[str]) -> None:
    """Remove the thumbnails of earlier reports that are no longer needed; other files are kept."""
    with writing(folder):
        for name in old_files - kept:
            (folder / name).unlink()
        if kept:
            _own(folder, kept)
        elif (folder / MARKER).exists():
            (folder / MARKER).unlink()
            if not is_remote(folder) and not any(folder.iterdir()):
                folder.rmdir()


def gallery_data(
    results: Results, shown: Shown, *, names: ShownNames, addresses: Sequence[str], reasons: Sequence[str]
) -> dict[str, Any]:
    """Return the data of the page's script, as columns of plain JSON values."""
    rows, cases = shown.rows, shown.cases
    place = {case: n for n, case in enumerate(cases["case"].to_list())}
    regions = results.regions
    verdicts = (
        []
        if results.audit is None
        else [
            {"label": label, "region": region, "words": region_words(region), "verdict": entry["verdict"]}
            for label, content in results.audit["labels"].items()
            for region, entry in content["regions"].items()
        ]
    )
    return {
        "labels": list(results.labels),
        "methods": list(results.methods),
        "regions": [{"name": name, "words": region_words(name)} for name in regions],
        "verdicts": verdicts,
        "display": {"cmap": results.file.explain.cmap, "opacity": results.file.explain.opacity},
        "colours": colour_tables(dict.fromkeys((results.file.explain.cmap, *_COLOURS))),
        "cases": _cases(cases, names, results) | {"thumbnail": list(addresses), "missing": list(reasons)},
        "rows": {
            "case": [place[case] for case in rows["case"].to_list()],
            "label": [results.labels.index(v) if v in results.labels else -1 for v in rows["label"].to_list()],
            "method": [results.methods.index(v) if v in results.methods else -1 for v in rows["method"].to_list()],
            "truth": rows["truth"].to_list(),
            "score": rounded(rows["score"]),
            "probability": rounded(rows["probability"]),
            "outcome": rows["outcome"].to_list(),
            "status": rows["status"].to_list(),
            "message": _messages(rows, names),
            "file": [None] * len(rows) if names.pseudonyms else rows["file"].to_list(),
            "peak": [rows[f"peak:{name}"].to_list() for name in regions],
            "mass": [rounded(rows[f"mass:{name}"]) for name in regions],
            "enrichment": [rounded(rows[f"enrichment:{name}"]) for name in regions],
            "top": rounded(rows["map_max"]),
            "height": rows["grid_height"].to_list(),
            "width": rows["grid_width"].to_list(),
            **_windows(rows),
            **_maps(results, shown, names=names),
        },
    }


def _cases(cases: pl.DataFrame, names: ShownNames, results: Results) -> dict[str, Any]:
    strata = [f"stratum:{name}" for name in results.file.cohort.strata]
    facts = {column.partition(":")[2]: [names.value(v) for v in cases[column].to_list()] for column in strata}
    facts |= {
        f"cue {name}": [{True: "present", False: "absent", None: "unknown"}[v] for v in cases[f"cue:{name}"].to_list()]
        for name in results.file.cohort.cues
    }
    pairs = zip(cases["case"].to_list(), cases["image"].to_list(), strict=True)
    return {
        "number": cases["case"].to_list(),
        "line": cases["line"].to_list(),
        "patient": [names.patient(name) for name in cases["patient"].to_list()],
        "image": [names.image(case, image) for case, image in pairs],
        "group": [names.value(group) for group in cases["group"].to_list()],
        "height": cases["height"].to_list(),
        "width": cases["width"].to_list(),
        "facts": facts,
    }


def _messages(rows: pl.DataFrame, names: ShownNames) -> list[str]:
    return [names.text(text, patient) for text, patient in rows.select("message", "patient").iter_rows()]


def _windows(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the different windows, and the index of each row's window."""
    kinds: dict[tuple[float, ...], int] = {}
    index = [None if w is None else kinds.setdefault(tuple(w), len(kinds)) for w in rows["window"].to_list()]
    return {"window": index, "windows": [list(kind) for kind in kinds]}


def _maps(results: Results, selection: Shown, *, names: ShownNames) -> dict[str, Any]:
    """Return the maps as 16-bit integers with one step size per map, and the notes of the rows."""
    grids: list[str | None] = []
    steps: list[float | None] = []
    notes: list[int] = []
    texts: dict[tuple[str, ...], int] = {(): 0}
    patients = iter(selection.rows["patient"])
    for shard in results.large(selection.cases["case"].to_list()):
        for grid, row_notes in shard.iter_rows():
            patient = next(patients)
            notes.append(texts.setdefault(tuple(names.text(text, patient) for text in row_notes or ()), len(texts)))
            coded, step = (None, None) if grid is None else _coded(np.array(grid, np.float64))
            grids.append(coded)
            steps.append(step)
    return {"grid": grids, "step": steps, "note": notes, "notes": [list(text) for text in texts]}


def _coded(grid: Any) -> tuple[str, float]:
    values = np.nan_to_num(grid, posinf=0.0, neginf=0.0)
    step = float(np.abs(values).max()) / _LEVELS or 1.0
    return base64.b64encode(np.rint(values / step).astype("<i2").tobytes()).decode(), step


def rounded(column: pl.Series) -> list[float | None]:
    """Return numbers rounded to seven digits; NaN and infinities become None."""
    return [None if v is None or not np.isfinite(v) else float(f"{v:.7g}") for v in column.to_list()]
