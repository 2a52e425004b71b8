"""Choose the names of patients, images and groups in results: the original names, or pseudonyms."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import polars as pl

_QUOTED = re.compile(r"(?<!\w)(?:'.*?'|\".*?\")(?!\w)")
_PATH = re.compile(r"\S*[/\\]\S*")
_WORD = re.compile(r"[^\W_]+")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    r"(?<![\d.])(?:\d{1,4}([-/.])\d{1,2}\1\d{1,4}|(?:19|20)\d{6}(?:\d{6})?"
    rf"|\d{{1,2}}[ .-]*{_MONTH}[ .,-]*\d{{2,4}}|{_MONTH}[ .-]*\d{{1,2}}[ .,-]+\d{{2,4}})(?!\d)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?\d{1,3}(?:\.\d*)?")
"""A number that several or single patients may have by chance, such as an age."""
_SHORT = 3
_COMMON = {
    "male",
    "female",
    "frontal",
    "lateral",
    "left",
    "right",
    "portable",
    "other",
    "unknown",
    "true",
    "false",
    "none",
}
_HIDDEN = "…"


class ShownNames:
    """Names of patients and images, and values of groups and strata, as results show them.

    With pseudonyms, patients are P1, P2 ... in the order of their first case, and images are numbered. A value of a
    group or stratum becomes "value 1", "value 2" ... (P1, P2 ... if it is the name of a patient) if

    * it has a date,
    * only one patient has it, and it is no number of up to three digits, such as an age,
    * it has a word of the name of a patient (of at least four letters, which at most half of the patients have),
    * it has a word of an image of a patient who has it, which no other patient's images have, or
    * no patients are known, and it is neither short (three letters) nor one of a few words such as "female".

    Such words, quoted texts, dates and paths are removed from messages.

    Args:
        cases: one row per case, for pseudonyms: ``case``, ``patient``, ``image`` and, if shown, ``group`` and
            ``stratum:NAME``; None for the original names.

    >>> cases = pl.DataFrame(
    ...     {"case": [0, 1], "patient": ["Ann"] * 2, "image": ["ann/1.png", "ann/2.png"], "group": ["AP", "AP"]}
    ... )
    >>> names = ShownNames(cases)
    >>> names.patient("Ann"), names.image(1, "ann/2.png"), names.text("no file 'ann/2.png'", "Ann"), names.value("AP")
    ('P1', 'image 2', 'no file …', 'value 1')
    """

    def __init__(self, cases: pl.DataFrame | None) -> None:
        self.pseudonyms, self.patients_known = cases is not None, True
        self._patients: dict[str, str] = {"": ""}
        self._words: Mapping[str, set[str]] = {}
        self._secret: set[str] = set()
        self._values: dict[str, str] = {}
        if cases is None:
            return
        columns = cases.sort("case").fill_null("").to_dict(as_series=False)
        patients = columns["patient"]
        self.patients_known = any(
            name not in ("", image) for name, image in zip(patients, columns["image"], strict=True)
        )
        for name in dict.fromkeys(filter(None, patients)):
            self._patients[name] = f"P{len(self._patients)}"
        self._words, self._secret = _own_words(patients, columns["image"]), _rare_words(set(patients))
        owners: dict[str, set[str]] = defaultdict(set)
        for column in ("group", *(name for name in columns if name.startswith("stratum:"))):
            for patient, cell in zip(patients, columns.get(column, ()), strict=False):
                for value in _parts(cell) if column == "group" else [cell.strip()]:
                    owners[value].add(patient)
        for value, whose in owners.items():
            if value and self._tells(value, whose):
                self._values[value] = self._patients.get(value, f"value {len(self._values) + 1}")

    def patient(self, name: str | None) -> str:
        """Return the shown name of a patient."""
        return self._patients[name or ""] if self.pseudonyms else name or ""

    def image(self, case: int, name: str | None) -> str:
        """Return the shown name of the image of a case."""
        return f"image {case + 1}" if self.pseudonyms else name or ""

    def value(self, text: str | None) -> str:
        """Return the shown value of a stratum, or of a group such as "AP/ward 3"."""
        if not self.pseudonyms or not text:
            return text or ""
        if (whole := text.strip()) in self._values:
            return self._values[whole]
        return "/".join(self._values.get(part, part) for part in _parts(text))

    def text(self, text: str | None, patient: str | None = None) -> str:
        """Return a message or note, without names and paths if pseudonyms are used."""
        if not self.pseudonyms or not text:
            return text or ""
        text = _DATE.sub(_HIDDEN, _PATH.sub(_HIDDEN, _QUOTED.sub(_HIDDEN, text)))
        words = self._secret | self._words.get(patient or "", set())
        return _WORD.sub(lambda word: _HIDDEN if word[0].casefold() in words else word[0], text)

    def _tells(self, value: str, patients: set[str]) -> bool:
        """Return whether a value may tell who has it."""
        if value in self._patients or _DATE.search(value):
            return True
        if _NUMBER.fullmatch(value):
            return False
        words = set(_words_of(value))
        if not self.patients_known:
            return len(value) > _SHORT and not words <= _COMMON
        own = any(not words.isdisjoint(self._words.get(name, ())) for name in patients)
        return len(patients) == 1 or own or not words.isdisjoint(self._secret)


def _parts(group: str) -> list[str]:
    return [part.strip() for part in _DATE.sub(_HIDDEN, group).split("/")]


def _words_of(text: str) -> Iterator[str]:
    return (word[0].casefold() for word in _WORD.finditer(text))


def _own_words(patients: list[str], images: list[str]) -> Mapping[str, set[str]]:
    """Return, for each patient, the words of its name and images that no other patient's name or images have."""
    owners: dict[str, str | None] = {}
    for patient, image in zip(patients, images, strict=True):
        for word in (*_words_of(patient), *_words_of(image)):
            if owners.setdefault(word, patient) != patient:
                owners[word] = None
    words: dict[str, set[str]] = defaultdict(set)
    for word, owner in owners.items():
        if owner is not None and not _NUMBER.fullmatch(word):
            words[owner].add(word)
    return words


def _rare_words(patients: set[str]) -> set[str]:
    """Return the words of patients' names that at most half of the patients have, short ones left out."""
    counts = Counter(word for name in patients for word in set(_words_of(name)))
    return {word for word, count in counts.items() if len(word) > _SHORT and 2 * count <= len(patients)}
