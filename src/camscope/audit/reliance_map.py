"""Compute the reliance map: exchange every cell of the input between patients, without declared regions.

Each cell is replaced with the same cell of a patient with the same label, and of a patient with the other label. The
first change shows the cells to which the model responds. The difference of the two changes shows the cells that help to
separate the classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from camscope.array_types import Floats
from camscope.audit.interventions import Change, Edit
from camscope.audit.measures import spread
from camscope.audit.samples import AuditSample, PatchDonors
from camscope.audit.settings import FEWEST, LEVEL, AuditSettings
from camscope.cohort.fill_ins import FILL_INS
from camscope.statistics.hypotheses import max_statistic, patient_means

CELLS = 7
"""Cells per side; fewer if the maps have fewer."""
PREFIX = "cell:"


def _nothing() -> Floats:
    return np.zeros((0, 0))


@dataclass(frozen=True)
class RelianceMap:
    """The effect of every cell of the input on the log-odds of one label.

    Attributes:
        cases: number of cases whose cells were exchanged.
        patients: number of patients of these cases.
        response: (h, w) mean absolute change of the log-odds, in SD, with the cell of a patient with the same label.
        response_p: (h, w) family-wise p-values of the response, compared with the median cell of the same image.
        use: (h, w) mean decrease of the separation of the classes, in SD, with the cell of a patient with the other
            label instead of the same label.
        use_p: (h, w) family-wise p-values of the use.
        delta: the smallest effect that matters, in SD.
        reason: why there is no map; "" if there is one.
    """

    cases: int
    patients: int
    response: Floats = field(default_factory=_nothing)
    response_p: Floats = field(default_factory=_nothing)
    use: Floats = field(default_factory=_nothing)
    use_p: Floats = field(default_factory=_nothing)
    delta: float = 0.0
    reason: str = ""

    @property
    def sentence(self) -> str:
        """Return the result as one or more sentences."""
        if self.reason:
            return f"There is no reliance map: {self.reason}."
        return (
            f"Each of {self.response.size} cells was exchanged in the images of {self.patients} patients. Cells to "
            f"which the log-odds respond: {self._cells(self.response, self.response_p)}. Cells that help to separate "
            f"the classes: {self._cells(self.use, self.use_p)}."
        )

    def _cells(self, values: Floats, p: Floats) -> str:
        """Return the number of cells that are significant and above delta, and the largest, in words."""
        cells = np.argwhere((p < LEVEL) & (values > self.delta)).tolist()
        if not cells:
            return f"none is shown to, by more than {self.delta:g} SD"
        row, column = max(cells, key=lambda cell: values[tuple(cell)])
        number = f"{len(cells)}, the strongest" if cells[1:] else "1,"
        return f"{number} in row {row + 1}, column {column + 1} ({values[row, column]:.2f} SD)"


def cells_of(grid: tuple[int, int]) -> tuple[int, int]:
    """Return the number of (rows, columns) of cells, for maps of a grid."""
    return min(CELLS, grid[0]), min(CELLS, grid[1])


def cell_edits(
    recipients: Iterable[AuditSample], cells: tuple[int, int], *, donors: PatchDonors[AuditSample]
) -> Iterator[tuple[int, str, Edit]]:
    """Yield every edited input.

    ``region`` of an edit has the cell of a donor with the other label, ``sham`` of a donor with the same label.

    Args:
        recipients: the cases whose inputs are edited; cases without a donor are left out.
        cells: number of (rows, columns) of cells.
        donors: the cases whose cells are used.

    Yields:
        The case number, "cell:ROW:COLUMN", and the edit.
    """
    for recipient in recipients:
        other, same = (
            donors.pick(recipient, partial(_lends, recipient, equal=equal), role=("cell", recipient.truth, equal))
            for equal in (False, True)
        )
        if other is None or same is None:
            continue
        rows, columns = (
            np.linspace(0, side, count + 1).round().astype(int)
            for side, count in zip(recipient.x.shape[1:], cells, strict=True)
        )
        for row, column in np.ndindex(cells):
            mask = np.zeros(recipient.visible.shape, bool)
            mask[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = True
            mask &= recipient.visible
            if not mask.any() or (recipient.visible & ~mask).sum() == 0:
                continue
            region, sham = (
                FILL_INS["donor"](recipient.x, mask, donor=donor.x, visible=recipient.visible)
                for donor in (other, same)
            )
            yield recipient.case.number, f"{PREFIX}{row}:{column}", Edit("exchange", "label", "donor 1", region, sham)


def _lends(recipient: AuditSample, donor: AuditSample, *, equal: bool) -> bool:
    return (donor.truth == recipient.truth) == equal


def reliance_map(
    rows: pl.DataFrame, changes: Sequence[Change], cells: tuple[int, int], *, settings: AuditSettings
) -> RelianceMap:
    """Compute the map of a label.

    Args:
        rows: one row per case of the label: case, patient, truth, log_odds.
        changes: the changes by exchanging cells.
        cells: number of (rows, columns) of cells.
        settings: settings of the statistics.

    Returns:
        The map; cells that lie outside every image are NaN.
    """
    cases = {row["case"]: row for row in rows.select("case", "patient", "truth", "log_odds").iter_rows(named=True)}
    sd = {truth: spread(rows.filter(pl.col("truth") == truth)) for truth in (True, False)}
    numbers = list(dict.fromkeys(change.case for change in changes))
    patients = [cases[number]["patient"] for number in numbers]
    present, absent = (
        len({p for p, n in zip(patients, numbers, strict=True) if cases[n]["truth"] == t}) for t in (True, False)
    )
    if min(present, absent) < FEWEST:
        reason = (
            f"{present} patients with the label present and {absent} with it absent have one donor with and one "
            f"without the label, and {FEWEST} of each are needed"
        )
        return RelianceMap(len(numbers), len(set(patients)), reason=reason)
    if not min(sd.values()) > 0:
        return RelianceMap(len(numbers), len(set(patients)), reason="the log-odds do not vary")
    place = {number: index for index, number in enumerate(numbers)}
    response, use = np.full((2, len(numbers), *cells), np.nan)
    for change in changes:
        case = cases[change.case]
        row, column = (int(part) for part in change.region.removeprefix(PREFIX).split(":"))
        unit, sign = sd[case["truth"]], 1 if case["truth"] else -1
        index = (place[change.case], row, column)
        response[index] = abs(change.sham_log_odds - case["log_odds"]) / unit
        use[index] = sign * (change.sham_log_odds - change.region_log_odds) / unit
    standing = response - np.nanmedian(response, axis=(1, 2), keepdims=True)
    means = {name: patient_means(values, patients) for name, values in (("standing", standing), ("use", use))}
    sampling: dict[str, Any] = {"seed": settings.seed, "replicates": settings.replicates}
    return RelianceMap(
        cases=len(numbers),
        patients=len(set(patients)),
        response=np.nanmean(patient_means(response, patients), axis=0),
        response_p=max_statistic(means["standing"], **sampling),
        use=np.nanmean(means["use"], axis=0),
        use_p=max_statistic(means["use"], **sampling),
        delta=settings.delta,
    )
