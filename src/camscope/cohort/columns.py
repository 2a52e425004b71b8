"""Recognise the columns of a table by their names."""

from __future__ import annotations

from collections.abc import Sequence
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

NO_PATIENTS = (
    "no patients are known, so every image counts as a separate patient: if patients have several images, "
    "intervals will be too narrow and patients may be in several splits; name the column with {option}"
)


def find_column(
    columns: Sequence[str], role: Role, *, name: str | None = None, option: str, table: str = ""
) -> str | None:
    """Find the column with a role in a table.

    Args:
        columns: names of the table's columns.
        role: content of the column.
        name: name of the column, compared as written; None to recognise it.
        option: the option or setting that names the column, for errors.
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
    candidates = [column for column in columns if _plain(column) in _NAMES[role]]
    if len(candidates) > 1:
        names = " and ".join(map(repr, candidates))
        raise SettingError(f"{_in(table)}the columns {names} could each be that of the {role}: name one with {option}")
    return candidates[0] if candidates else None


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


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "").replace("_", "").replace("-", "")


def _in(table: str) -> str:
    return f"{table}: " if table else ""
