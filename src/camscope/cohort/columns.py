"""Recognise the columns of a table by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal

from camscope.errors import SettingError, nearest

Role = Literal["image", "patient", "split", "class"]

_NAMES: dict[Role, tuple[str, ...]] = {
    "image": (
        "image", "path", "file", "filename", "filepath", "imagefile", "imagefilename", "imageid", "imageindex",
        "imagename", "imagepath",
    ),
    "patient": ("patient", "patientid", "subject", "subjectid"),
    "split": ("split",),
    "class": ("label", "class"),
}  # fmt: skip
"""Role -> recognised names, in lower case, without spaces, underscores and hyphens."""

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    "": "",
}
"""Word in lower case -> "train", "val", "test" or ""."""

_SET = re.compile(r"(?<=.)[ _-]?(set|data|images?)$")

NO_PATIENTS = (
    "no patients are known, so every image counts as a separate patient: if patients have several images, "
    "intervals will be too narrow and patients may be in several splits; name the patients with {option}"
)


def find_column(
    columns: Sequence[str], role: Role, *, name: str | None = None, option: str, table: str = ""
) -> str | None:
    """Find the column with a role in a table.

    Args:
        columns: names of the table's columns.
        role: content of the column.
        name: name of the column, compared as written; None to recognise it.
        option: the option or setting that names the column, for errors; "" if there is none.
        table: path of the table, for errors.

    Returns:
        The column's name; None if no column is recognised. Names are compared without case, spaces, underscores and
        hyphens.

    Raises:
        SettingError: there is no column ``name``, or several columns could have the role.

    >>> find_column(["Image Index", "Patient ID", "Finding Labels"], "patient", option="--patient")
    'Patient ID'
    """
    if name is not None:
        return named_column(columns, name, option=option, table=table)
    candidates = [column for column in columns if role_of(column) == role]
    if len(candidates) > 1:
        names = " and ".join(map(repr, candidates))
        way = f"name one with {option}" if option else "rename one"
        raise SettingError(f"{_in(table)}the columns {names} could each be that of the {role}: {way}")
    return candidates[0] if candidates else None


@cache
def split_of(word: str) -> str | None:
    """Return the split that a word names, "train", "val", "test" or "" for a blank; None for any other word.

    >>> split_of("Validation"), split_of("test_set"), split_of(" "), split_of("fold 2"), split_of("data")
    ('val', 'test', '', None, None)
    """
    return _SPLIT_WORDS.get(_SET.sub("", word.strip().lower()))


def role_of(column: str) -> Role | None:
    """Return the role of a column by its name; None if the name says nothing.

    >>> role_of("Patient ID"), role_of("age")
    ('patient', None)
    """
    plain = column.strip().lower().replace(" ", "").replace("_", "").replace("-", "")
    return next((role for role, names in _NAMES.items() if plain in names), None)


def named_column(columns: Sequence[str], name: str, *, option: str, table: str = "") -> str:
    """Return a column's name if the table has it.

    Raises:
        SettingError: the table has no such column.
    """
    if name not in columns:
        raise SettingError(f"{_in(table)}{nearest('column', name, columns)} ({option} names it)")
    return name


def image_column(columns: Sequence[str], *, name: str | None = None, option: str, table: str = "") -> str:
    """Find the column of images; see `find_column`.

    Raises:
        SettingError: there is no column ``name``, several could be it, or none is recognised.
    """
    column = find_column(columns, "image", name=name, option=option, table=table)
    if column is None:
        raise SettingError(
            f"{_in(table)}no column of images is recognised among {', '.join(columns)}: name it with {option}, or call "
            f"it one of {recognised('image')}"
        )
    return column


def recognised(role: Role) -> str:
    """Return the recognised names of a role, for errors and help.

    >>> recognised("patient")
    'patient, patientid, subject, subjectid'
    """
    return ", ".join(_NAMES[role])


def _in(table: str) -> str:
    return f"{table}: " if table else ""
