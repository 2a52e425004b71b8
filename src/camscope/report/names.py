"""Choose the names of patients and images on the page: the original names, or pseudonyms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import polars as pl

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_PATH = re.compile(r"\S*[/\\]\S*")
_HIDDEN = "…"


class Names:
    """Names of patients and images on the page.

    With pseudonyms, patients are P1, P2 ... in the order of their first case, and images are numbered. Quoted texts and
    paths are removed from messages.

    Args:
        cases: one row per case.
        pseudonyms: whether to replace names with pseudonyms.

    >>> cases = pl.DataFrame({"case": [0, 1], "patient": ["Ann", "Ann"], "image": ["ann/1.png", "ann/2.png"]})
    >>> names = Names(cases, pseudonyms=True)
    >>> names.patient("Ann"), names.image(1, "ann/2.png"), names.text("no file 'ann/2.png'", cases.row(1, named=True))
    ('P1', 'image 2', 'no file …')
    """

    def __init__(self, cases: pl.DataFrame, *, pseudonyms: bool) -> None:
        self.pseudonyms = pseudonyms
        patients: list[str] = []
        if pseudonyms:
            patients = cases.sort("case")["patient"].fill_null("").unique(maintain_order=True).to_list()
        self._patients = {name: f"P{number}" for number, name in enumerate((n for n in patients if n), 1)} | {"": ""}

    def patient(self, name: str | None) -> str:
        """Return the displayed name of a patient."""
        return self._patients[name or ""] if self.pseudonyms else name or ""

    def image(self, case: int, name: str | None) -> str:
        """Return the displayed name of the image of a case."""
        return f"image {case + 1}" if self.pseudonyms else name or ""

    def value(self, text: str | None) -> str:
        """Return a group or another value of metadata; names of patients in it are replaced too."""
        if not self.pseudonyms or not text:
            return text or ""
        return "/".join(self._patients.get(part, part) for part in text.split("/"))

    def text(self, text: str | None, row: Mapping[str, Any]) -> str:
        """Return a message or note of a row, without names and paths if pseudonyms are used."""
        if not self.pseudonyms or not text:
            return text or ""
        for identifier in (row.get("image"), row.get("patient")):
            text = text.replace(identifier, _HIDDEN) if identifier else text
        return _PATH.sub(_HIDDEN, _QUOTED.sub(_HIDDEN, text))
