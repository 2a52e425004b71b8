"""Measure the performance of a label's scores in each subgroup, and compare it with the remaining images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from camscope.array_types import Floats
from camscope.audit.settings import FEWEST, LEVEL
from camscope.page.words import interval, p_value
from camscope.statistics.auc import clustered_auc
from camscope.statistics.clustered import ClusteredEstimate, difference, difference_p, number_of_patients, share
from camscope.statistics.hypotheses import Indices, holm
from camscope.statistics.intervals import Interval
from camscope.study.config import StudyFile

Mask = npt.NDArray[np.bool_]
Grouping = tuple[str, list[str | None], str]
"""A column's name, the value of each image (None: unknown), and a remark."""

MEASURES = ("AUC", "Sensitivity", "Specificity")
_MOST_VALUES, _CATEGORIES, _BANDS = 8, 6, 4
_DICOM_AGE = re.compile(r"\d{3}Y")


@dataclass(frozen=True)
class Compared:
    """One measure of a subgroup.

    Attributes:
        estimate: the measure in the subgroup; None for too few patients.
        difference: difference from the remaining images; None if it is not tested.
        p: p-value of the difference, adjusted by Holm over all comparisons of the label.
    """

    estimate: Interval | None = None
    difference: Interval | None = None
    p: float = float("nan")


@dataclass(frozen=True)
class Subgroup:
    """The images with one value of a column.

    Attributes:
        column: name of the column.
        value: value of the column, or a band of numbers.
        images: number of images.
        patients: number of patients of these images.
        with_label: number of patients who have images with the label.
        without_label: number of patients who have images without the label.
        prevalence: share of images with the label.
        measures: name -> measure.
    """

    column: str
    value: str
    images: int
    patients: int
    with_label: int
    without_label: int
    prevalence: Interval
    measures: Mapping[str, Compared] = field(default_factory=dict)


@dataclass(frozen=True)
class Subgroups:
    """All subgroups of a label.

    Attributes:
        columns: name of a column -> subgroups.
        tests: number of tested differences.
        remarks: remarks on the columns, such as bands and left-out images.
    """

    columns: Mapping[str, Sequence[Subgroup]]
    tests: int
    remarks: Sequence[str]

    @property
    def differences(self) -> list[str]:
        """Return the differences that are significant, in words."""
        return [
            f"{measure} in {group.column} {group.value}: {interval(vars(compared.estimate))}; difference from the "
            f"rest: {interval(vars(compared.difference))}, adjusted p {p_value(compared.p)}"
            for groups in self.columns.values()
            for group in groups
            for measure, compared in group.measures.items()
            if compared.p < LEVEL and compared.estimate is not None and compared.difference is not None
        ]

    @property
    def sentence(self) -> str:
        """Return the number of significant differences as a sentence."""
        if not self.columns:
            return "There are no subgroups: list columns such as view, site, sex or age as strata in the study file."
        if not self.tests:
            return f"No subgroup could be compared with the rest: both need {FEWEST} patients."
        tests = f"{self.tests} comparison{'s' if self.tests > 1 else ''}"
        if count := len(self.differences):
            return f"{count} of {tests} show{'s' if count == 1 else ''} a difference from the rest:"
        return (
            f"None of {tests} shows a difference from the rest (adjusted p of {LEVEL:g} or more). "
            "This does not mean that the subgroups are equal: the intervals show how large a difference may be."
        )


def groupings(
    rows: pl.DataFrame, file: StudyFile, *, grouped: bool, shown: Callable[[str | None], str]
) -> list[Grouping]:
    """Return the columns that define subgroups: strata, groups and cues.

    Args:
        rows: one row per image, with ``group`` and the columns of strata and cues.
        file: the study file.
        grouped: whether groups may be shown.
        shown: returns the displayed name of a value.

    Returns:
        The columns with at least two values. Numbers with more than 6 values become bands of about a quarter of the
        images.
    """
    columns: dict[str, list[str | None]] = {}
    for name in file.cohort.strata:
        columns[name] = rows[f"stratum:{name}"].to_list()
    if grouped:
        names, cells = file.cohort.group or ("view",), rows["group"].fill_null("").to_list()
        parts = [cell.split("/") for cell in cells]
        if len(names) > 1 and any(len(part) != len(names) for part in parts):  # a slash in a value
            names, parts = ("/".join(names),), [[cell] for cell in cells]
        for n, name in enumerate(names):
            columns.setdefault(name, [part[n] if len(names) > 1 else "/".join(part) for part in parts])
    for name in file.cohort.cues:
        states = {True: "present", False: "absent", None: None}
        columns[f"cue “{name}”"] = [states[value] for value in rows[f"cue:{name}"].to_list()]
    result = []
    for name, values in columns.items():
        stripped = [None if value is None or not value.strip() else value.strip() for value in values]
        # The ends of a band must not be names of patients.
        bands = banded(stripped) if all(shown(value) == value for value in set(stripped) - {None}) else None
        texts = bands or [None if value is None else shown(value) for value in stripped]
        if len(set(texts) - {None}) > 1:
            remark = f"{name}: bands of about a quarter of the images each." if bands else ""
            result.append((name, texts, remark))
    return result


def banded(values: Sequence[str | None]) -> list[str | None] | None:
    """Return bands of numbers, by quartiles; None for at most 6 different values, or if a value is not a number.

    >>> banded([str(age) for age in range(20, 60)])[::13]
    ['20 to 29', '30 to 39', '40 to 49', '50 to 59']

    Args:
        values: the values; None is unknown. An age such as "045Y" is a number.
    """
    distinct = [value for value in set(values) if value is not None]
    if len(distinct) <= _CATEGORIES:
        return None
    try:
        numbers = {value: float(value[:-1] if _DICOM_AGE.fullmatch(value) else value) for value in distinct}
    except ValueError:
        return None
    if not np.isfinite(list(numbers.values())).all():
        return None
    cells = [float("nan") if value is None else numbers[value] for value in values]
    edges = np.nanquantile(cells, np.arange(1, _BANDS) / _BANDS)
    bands = np.searchsorted(edges, cells, side="left")
    texts: dict[int, str] = {}
    for band in range(_BANDS):
        members = [cell for cell, place in zip(cells, bands, strict=True) if place == band and cell == cell]
        if members:
            low, high = min(members), max(members)
            texts[band] = f"{low:g} to {high:g}" if low < high else f"{low:g}"
    return [texts[band] if cell == cell else None for cell, band in zip(cells, bands.tolist(), strict=True)]


def subgroups(
    columns: Sequence[Grouping], *, log_odds: Floats, predicted: Mask, truth: Mask, patients: Indices
) -> Subgroups:
    """Compare each subgroup with the images that have another known value in the same column.

    A column with two values has one comparison, for the first value. In the subgroup and in the rest, AUC needs 8
    patients with and 8 without the label; sensitivity needs 8 with, and specificity 8 without the label.

    Args:
        columns: see ``groupings``.
        log_odds: (n,) log-odds of the images.
        predicted: (n,) true if the label is predicted.
        truth: (n,) true if the label is present.
        patients: (n,) number of each image's patient.
    """
    result: dict[str, list[Subgroup]] = {}
    remarks, p = [remark for _, _, remark in columns if remark], []
    for name, values, _ in columns:
        order: dict[str | None, int] = {value: number for number, value in enumerate(_ordered(values))}
        codes = np.array([order.get(value, -1) for value in values], np.intp)
        has_value, masks = codes >= 0, {value: codes == number for value, number in order.items() if value is not None}
        if missing := int((~has_value).sum()):
            remarks.append(f"{name}: images without a value are left out ({missing:,}).")
        if len(masks) > _MOST_VALUES:
            most = sorted(masks, key=lambda value: -number_of_patients(patients[masks[value]]))[:_MOST_VALUES]
            remarks.append(f"{name} has {len(masks)} values: the {_MOST_VALUES} with the most patients are shown.")
            masks = {value: mask for value, mask in masks.items() if value in most}
        for number, (value, mask) in enumerate(masks.items()):
            is_tested = number == 0 or len(order) > 2
            group, tests = _compared(
                (name, value), mask, has_value & ~mask if is_tested else None, (log_odds, predicted, truth, patients)
            )
            result.setdefault(name, []).append(group)
            p += tests
    adjusted = iter(holm(p).tolist())
    columns_ = {name: [_adjusted(group, adjusted) for group in groups] for name, groups in result.items()}
    return Subgroups(columns_, int((~np.isnan(p)).sum()), remarks)


def _ordered(values: Sequence[str | None]) -> list[str]:
    """Return the sorted values; bands and numbers are sorted by size."""

    def key(value: str) -> tuple[float, str]:
        try:
            return float(value.split(" to ")[0]), value
        except ValueError:
            return float("inf"), value

    return sorted({value for value in values if value is not None}, key=key)


def _adjusted(group: Subgroup, adjusted: Iterator[float]) -> Subgroup:
    return replace(
        group, measures={name: replace(compared, p=next(adjusted)) for name, compared in group.measures.items()}
    )


def _compared(
    name: tuple[str, str], mask: Mask, rest: Mask | None, data: tuple[Floats, Mask, Mask, Indices]
) -> tuple[Subgroup, list[float]]:
    """Return one subgroup, and the p-value of each measure before adjustment."""
    log_odds, predicted, truth, patients = data

    def counts(cases: Mask) -> tuple[int, int]:
        return number_of_patients(patients[cases & truth]), number_of_patients(patients[cases & ~truth])

    def estimates(cases: Mask) -> list[ClusteredEstimate | None]:
        with_label, without = (count >= FEWEST for count in counts(cases))
        return [
            clustered_auc(log_odds, truth, patients, cases=cases) if with_label and without else None,
            share(predicted, cases & truth, patients) if with_label else None,
            share(~predicted, cases & ~truth, patients) if without else None,
        ]

    others: list[ClusteredEstimate | None] = [None] * len(MEASURES) if rest is None else estimates(rest)
    measures, tests = {}, []
    for measure, estimate, other in zip(MEASURES, estimates(mask), others, strict=True):
        is_tested = estimate is not None and other is not None
        tests.append(difference_p(estimate, other) if estimate is not None and other is not None else float("nan"))
        measures[measure] = Compared(
            None if estimate is None else estimate.interval(),
            difference(estimate, other) if is_tested and estimate is not None and other is not None else None,
        )
    group = Subgroup(
        *name,
        int(mask.sum()),
        number_of_patients(patients[mask]),
        *counts(mask),
        share(truth, mask, patients).interval(),
        measures,
    )
    return group, tests
