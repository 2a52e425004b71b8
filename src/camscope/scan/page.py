"""Write the page and the contact sheet of a scan."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import polars as pl
from PIL import Image

from camscope.cohort.store import FAILED
from camscope.page.shell import rendered
from camscope.render import Cell, sheet

_ACROSS, _DOWN = 6, 6


def page_text(
    table: pl.DataFrame,
    shown: pl.DataFrame,
    pictures: Mapping[int, bytes | None],
    *,
    model: str,
    data: str,
    method: str,
    left_out: Sequence[str],
) -> str:
    """Return the page of a scan.

    Args:
        table: all images, the oddest first.
        shown: the images on the page.
        pictures: case -> overlay as JPEG; None if the image could not be read.
        model: name of the model.
        data: path of the images.
        method: name of the method.
        left_out: sentences on files that were not scanned.
    """
    names = ("case", "image", "status", "class", "predicted", "probability", "oddness", "reasons", "height", "width")
    cards = [
        row | {"picture": _address(pictures.get(row["case"]))}
        for row in shown.filter(pl.col("oddness") > 0).select(names).iter_rows(named=True)
    ]
    content = {
        "cards": cards,
        "images": len(table),
        "odd": len(table.filter(pl.col("oddness") > 0)),
        "failed": len(table.filter(pl.col("status") == FAILED)),
        "model": model,
        "data": data,
        "method": method,
        "left_out": left_out,
        "labels": table["class"].drop_nulls().n_unique() > 1,
    }
    return rendered("scan.html.j2", content, package="camscope.scan")


def contact_sheet(shown: pl.DataFrame, pictures: Mapping[int, bytes | None]) -> Image.Image:
    """Return the odd images on one sheet, with their first reasons; the first images if none is odd."""
    cells, odd = [], shown.filter(pl.col("oddness") > 0)
    for row in (
        (odd if len(odd) else shown)
        .head(_ACROSS * _DOWN)
        .select("case", "image", "oddness", "reasons")
        .iter_rows(named=True)
    ):
        content = pictures.get(row["case"])
        image = None if content is None else Image.open(io.BytesIO(content))
        cells.append(Cell(image, f"{row['image']} ({row['oddness']:.1f})\n{(row['reasons'] or ['nothing odd'])[0]}"))
    return sheet([cells[n : n + _ACROSS] for n in range(0, len(cells), _ACROSS)], title="The oddest images")


def _address(content: bytes | None) -> str:
    return "" if content is None else "data:image/jpeg;base64," + base64.b64encode(content).decode()
