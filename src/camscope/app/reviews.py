"""Keep the reviews of readers in ``reviews.sqlite`` of a study's folder, and measure their agreement."""

from __future__ import annotations

import itertools
import math
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from camscope.errors import StoreError, reason
from camscope.statistics.agreement import cohen_kappa, fleiss_kappa

FILE = "reviews.sqlite"
RATINGS = {"yes": "on the finding", "partly": "partly on it", "no": "elsewhere", "unclear": "cannot tell"}
"""Rating -> where the map looks, in words."""

_COLUMNS = ("image", "label", "reader", "rating", "flag", "comment", "blinded", "written")
_TABLE = (
    "create table if not exists reviews (image text, label text, reader text, rating text, flag integer, comment text, "
    "blinded integer, written text, primary key (image, label, reader))"
)


class Reviews:
    """Reviews by image, label and reader; each reader has one per image and label, and may change it.

    Args:
        folder: of the study; the file is made with the first review.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / FILE, threading.Lock()

    def put(self, image: str, label: str, reader: str, *, rating: str, flag: bool, comment: str, blinded: bool) -> None:
        """Write a review.

        Raises:
            StoreError: it cannot be written.
        """
        row = (image, label, reader, rating, int(flag), comment, int(blinded), datetime.now(UTC).isoformat())
        with self._opened() as connection:
            connection.execute(_TABLE)
            connection.execute(f"insert or replace into reviews values ({', '.join('?' * len(row))})", row)

    def all(self) -> list[dict[str, Any]]:
        """Return all reviews, in the order of image, label and reader.

        Raises:
            StoreError: they cannot be read.
        """
        if not self._path.exists():
            return []
        with self._opened() as connection:
            connection.execute(_TABLE)
            found = connection.execute(f"select {', '.join(_COLUMNS)} from reviews order by image, label, reader")
            return [
                dict(zip(_COLUMNS, row, strict=True)) | {"flag": bool(row[4]), "blinded": bool(row[6])} for row in found
            ]

    def agreement(self) -> dict[str, Any]:
        """Return the agreement of the ratings.

        Returns:
            ``pairs``: for each two readers, the number of images that both rated, the share of equal ratings, and
            Cohen's kappa; ``all``: number and Fleiss' kappa of the images that all of three or more readers rated, else
            None. A kappa that is not defined is None.
        """
        given: dict[str, dict[tuple[str, str], str]] = {}
        for one in self.all():
            if one["rating"]:
                given.setdefault(one["reader"], {})[one["image"], one["label"]] = one["rating"]
        pairs = []
        for first, second in itertools.combinations(sorted(given), 2):
            both = sorted(given[first].keys() & given[second].keys())
            ratings = [[given[reader][key] for key in both] for reader in (first, second)]
            equal = sum(a == b for a, b in zip(*ratings, strict=True))
            pairs.append(
                {
                    "readers": [first, second],
                    "images": len(both),
                    "equal": equal / len(both) if both else None,
                    "kappa": _known(cohen_kappa(*ratings)),
                }
            )
        return {"pairs": pairs, "all": self._of_all(given)}

    def _of_all(self, given: dict[str, dict[tuple[str, str], str]]) -> dict[str, Any] | None:
        if len(given) < 3:
            return None
        shared = sorted(set.intersection(*(set(ratings) for ratings in given.values())))
        rows = [[ratings[key] for ratings in given.values()] for key in shared]
        kappa = _known(fleiss_kappa(rows)) if rows else None
        return {"readers": sorted(given), "images": len(shared), "kappa": kappa}

    def table(self) -> pl.DataFrame:
        """Return the reviews as a table."""
        kinds = dict.fromkeys(_COLUMNS, pl.String) | {"flag": pl.Boolean, "blinded": pl.Boolean}
        return pl.DataFrame(self.all(), schema=kinds)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                connection = sqlite3.connect(self._path)
                try:
                    with connection:
                        yield connection
                finally:
                    connection.close()
        except sqlite3.Error as fault:
            raise StoreError(f"the reviews in {self._path.name} cannot be used: {reason(fault)}") from None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
