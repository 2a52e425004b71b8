"""Define the sections of a study file that describe a cohort, for study, evaluation and training."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Uncertain = Literal["drop", "positive", "negative"]
Blank = Literal["unknown", "negative"]


def _votes(value: Any) -> Any:
    if value in ("any", "majority") or (type(value) is int and value >= 1):
        return value
    raise ValueError(f'votes = {value!r}: expected "any", "majority" or a number of readers from 1')


Votes = Annotated[Literal["any", "majority"] | int, BeforeValidator(_votes)]


@dataclass(frozen=True)
class Problem:
    """A problem of a study.

    Attributes:
        text: what is wrong, what was expected, and what to do.
        file: the file with the problem.
        line: line of the file, from 1; None for the whole file.
        fatal: whether the study cannot be run; otherwise only some rows fail or are doubtful.
    """

    text: str
    file: str = ""
    line: int | None = None
    fatal: bool = True

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.text}" if place else self.text


class Section(BaseModel):
    """A section of a study file; unknown settings are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


def _named(key: str) -> BeforeValidator:
    """Accept a text in place of a section with this text as its only setting."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def _alone(value: Any) -> Any:
    """Accept a text or a whole number in place of a list of texts."""
    if isinstance(value, list | tuple):
        return tuple(_text(part) for part in value)
    return (_text(value),) if isinstance(value, str | int) else value


def _text(value: Any) -> Any:
    return str(int(value)) if isinstance(value, int) else value


def _listed(value: Any) -> Any:
    """Accept one section in place of a list of sections."""
    return (value,) if isinstance(value, dict) else value


def _paired(value: Any) -> Any:
    """Accept a list of names for columns with the same name in both tables."""
    value = _alone(value)
    return {name: name for name in value} if isinstance(value, list | tuple) else value


_Keys = Annotated[dict[str, str], BeforeValidator(_paired)]
_Several = Annotated[tuple[str, ...], BeforeValidator(_alone)]


class TextSource(Section):
    r"""A text per row: a column, a template with columns in braces, or a part of either.

    ``"p{subject_id:.2}/{dicom_id}.jpg"`` formats columns as in Python: ``.2`` is the first two characters, and ``0>8``
    fills up with zeros. With ``pattern``, a regular expression, the text is the match of its groups, joined by "_", or
    the whole match if it has no groups.

    >>> TextSource(from_="Path", pattern=r"patient(\d+)").name
    'Path ~ patient(\\d+)'
    """

    from_: Annotated[str, Field(alias="from", min_length=1)]
    pattern: str | None = None

    @field_validator("from_")
    @classmethod
    def _template(cls, value: str) -> str:
        try:
            list(string.Formatter().parse(value))
        except ValueError as fault:
            raise ValueError(f"{value!r} is no template: {fault}") from None
        return value

    @field_validator("pattern")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as fault:
            raise ValueError(f"{value!r} is no regular expression: {fault}") from None
        return value

    @property
    def name(self) -> str:
        """Return the name of the new column."""
        return self.from_ if self.pattern is None else f"{self.from_} ~ {self.pattern}"

    def columns(self, existing: Mapping[str, Any] | list[str]) -> list[str]:
        """Return the columns that the text needs.

        >>> TextSource(from_="{a}/{b:.2}.png").columns(["a", "b", "c"])
        ['a', 'b']
        """
        fields = [field for _, field, _, _ in string.Formatter().parse(self.from_) if field is not None]
        return [self.from_] if self.from_ in existing or not fields else fields


class MaskSource(TextSource):
    """The source of a row's mask: a cell (see `read_annotation`), and settings for reading it.

    Attributes:
        boxes: label of boxes in ``[cohort.boxes]`` ("*" for all), instead of a column.
        coding: coding of run lengths, "absolute" (from 1, Kaggle) or "relative" (from the end of the previous run,
            SIIM-ACR).
        size: (height, width) for which run lengths, boxes or polygons were drawn; None for the size of the image.
        values: values of the pixels of a mask file that belong to the mask.
        bits: bits; a pixel of a mask file belongs to the mask if it has any of them.
    """

    from_: Annotated[str, Field(alias="from")] = ""
    boxes: str | None = None
    coding: Literal["absolute", "relative"] | None = None
    size: tuple[int, int] | None = None
    values: tuple[int, ...] | None = None
    bits: int | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> MaskSource:
        if bool(self.from_) == (self.boxes is not None):
            raise ValueError('a mask is a column, {from = "COLUMN", ...}, or {boxes = "LABEL"}: give one of them')
        if self.size and not self.coding:
            raise ValueError("size is for run lengths: give coding with it")
        return self

    @property
    def name(self) -> str:
        """Return the name of the new column."""
        return super().name if self.boxes is None else f"boxes of {self.boxes}"


class SplitSource(TextSource):
    """The split of each row: a text with train, val, test or blank, or lists of the images of each split.

    Attributes:
        lists: split -> text file or files with one image per line; the splits become the column "split".
    """

    from_: Annotated[str, Field(alias="from")] = ""
    lists: dict[Literal["train", "val", "test"], _Several] = {}

    @model_validator(mode="after")
    def _one_kind(self) -> SplitSource:
        if bool(self.from_) == bool(self.lists):
            raise ValueError('a split is a column, {from = "COLUMN", ...}, or {lists = {...}}: give one of them')
        return self

    @property
    def name(self) -> str:
        """Return the name of the new column."""
        return "split" if self.lists else super().name


class TableSource(Section):
    """A table: the path of a file or folder, and settings of its format.

    Attributes:
        path: CSV, TSV, Excel, Parquet, JSON or JSON-lines file (CSV, TSV and JSON lines also with .gz), a folder, or
            XML files (``reports/*.xml``).
        sheet: sheet of an Excel file; None for the first.
        each: for XML files, path of the elements that become rows, such as "object"; None for one row per file.
        columns: for XML files, column -> path of an element, relative to ``each`` ("bndbox/xmin"), or with "/" before
            it to the file's root; "@id" is an attribute. Several elements are joined by "|".
        files: for a folder, the paths of its files with columns in braces: ``"{patient}/{study}_{view}.png"``.
    """

    path: Annotated[str, Field(min_length=1)]
    sheet: str | None = None
    each: str | None = None
    columns: dict[str, str] = {}
    files: str | None = None


_Text = Annotated[TextSource, _named("from")]
_Mask = Annotated[MaskSource, _named("from")]
_Split = Annotated[SplitSource, _named("from")]
_Table = Annotated[TableSource, _named("path")]


class Cue(Section):
    """A cue: a column with 1 (present) or 0 (absent), and optionally the column of its mask."""

    column: str
    mask: _Mask | None = None


class Join(Section):
    """A table whose columns are added to each row.

    Attributes:
        table: the table, with one row per key.
        on: the columns of the key, or column of the cohort -> column of ``table``.
        prefix: prefix of the names of the added columns.
    """

    table: _Table
    on: Annotated[_Keys, Field(min_length=1)]
    prefix: str = ""


class Boxes(Section):
    """Boxes with one row per box.

    Attributes:
        table: table of the boxes; None for the table of the cohort, which then has several rows per image.
        on: columns of the key, as in `Join`; required with ``table``.
        columns: x, y, width, height, or x0, y0, x1, y1; or one column with all four numbers.
        form: "xywh" or "xyxy"; None to recognise it from the names of the columns.
        label: column with the label of the box; None for boxes without labels.
        size: [height, width] in pixels for which the boxes were drawn, or columns with these numbers; None for the size
            of the image.
    """

    columns: Annotated[tuple[str, ...], BeforeValidator(_alone)]
    table: _Table | None = None
    on: _Keys = {}
    form: Literal["xywh", "xyxy"] | None = None
    label: str | None = None
    size: tuple[int, int] | tuple[str, str] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Boxes:
        if len(self.columns) not in (1, 4):
            raise ValueError(
                f"boxes.columns names {len(self.columns)} columns: give four, or one with all four numbers"
            )
        if (self.table is None) != (not self.on):
            raise ValueError("boxes in a separate table need on = [...], the columns that both tables share")
        if self.form is None and self._told is None:
            raise ValueError(
                f"whether {', '.join(self.columns)} hold the width and height or the other corner is not clear: add "
                'form = "xywh" or form = "xyxy"'
            )
        return self

    @property
    def corners(self) -> bool:
        """Return whether the last two numbers are a corner instead of width and height."""
        return (self.form or self._told) == "xyxy"

    @property
    def _told(self) -> Literal["xywh", "xyxy"] | None:
        if len(self.columns) != 4:
            return None
        third = re.sub(r"[^a-z0-9]", "", self.columns[2].lower())
        if third.endswith(("w", "width")):
            return "xywh"
        return "xyxy" if re.search(r"(x1|x2|xmax|right|maxx)$", third) else None


class CohortSection(Section):
    """``[cohort]``: the table and the meaning of its columns. Paths are relative to the study file, or addresses."""

    table: _Table
    root: str = "."
    image: _Text | None = None
    search: bool = False
    patient: _Text | None = None
    split: _Split | None = None
    columns: dict[str, _Text] = {}
    join: Annotated[tuple[Join, ...], BeforeValidator(_listed)] = ()
    only: dict[str, _Several] = {}
    boxes: Boxes | None = None
    votes: Votes | None = None
    reader: str | None = None
    group: _Several = ()
    masks: dict[str, _Mask] = {}
    cues: dict[str, Cue] = {}
    strata: _Several = ()

    @field_validator("masks")
    @classmethod
    def _not_label(cls, value: dict[str, MaskSource]) -> dict[str, MaskSource]:
        if "label" in value:
            raise ValueError("a mask cannot be called 'label': that is the mask of each label, given in [labels.NAME]")
        return value

    @model_validator(mode="after")
    def _reader_votes(self) -> CohortSection:
        if self.reader is not None and self.votes is None:
            raise ValueError('reader names who read an image: say how many must agree with votes = "majority"')
        return self

    @property
    def merged(self) -> bool:
        """Return whether the rows of one image become one case."""
        return self.votes is not None or (self.boxes is not None and self.boxes.table is None)


class LabelRule(Section):
    """The rule for reading a label from the table.

    Attributes:
        column: column of the label; None if the truth is unknown.
        contains: values; the label is present if the cell, or the list in it, has one of them, and absent otherwise.
        separator: text between the values of a list; None for | and ; and commas, and lists in JSON or Python.
        absent: values; the label is absent if the cell has one of them, and present for any other value.
        above: number; the label is present if the cell's number is larger.
        blank: meaning of a blank cell, "unknown" or "negative".
        uncertain: meaning of -1.
        mask: mask of the finding.
    """

    column: str | None = None
    contains: _Several = ()
    separator: Annotated[str, Field(min_length=1)] | None = None
    absent: _Several = ()
    above: float | None = None
    blank: Blank = "unknown"
    uncertain: Uncertain = "drop"
    mask: _Mask | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> LabelRule:
        rules = [bool(self.contains), bool(self.absent), self.above is not None]
        if self.column is None and any(rules):
            raise ValueError("contains, absent and above need a column")
        if self.separator is not None and not self.contains:
            raise ValueError("separator divides the values of contains: give both")
        if sum(rules) > 1:
            raise ValueError("a label is read by contains, by absent or by above: give one of them")
        return self
