"""The reliance map: every part of the input is exchanged between patients, without any declared region.

The input is divided into cells. Each cell is replaced by that of a patient with the same label, and by that of a
patient with the other label. The first change shows to which cells the model responds, whatever they hold; the
difference of the two shows which cells serve to tell the label.
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
"""Cells on a side, or as many as the maps have if these are fewer."""
PREFIX = "cell:"


def _nothing() -> Floats:
    return np.zeros((0, 0))


@dataclass(frozen=True)
class RelianceMap:
    """The effect of every cell of the input on the log-odds of one label.

    Attributes:
        cases: whose cells were exchanged.
        patients: whose they are.
        response: (h, w) mean absolute change of the log-odds in SD, by the cell of a patient with the same label.
        response_p: (h, w) family-wise p that the response is larger than that to the median cell of the same image.
        use: (h, w) mean change in SD by which the cell of the other label lowers the separation of the classes, beyond
            that by the cell of the same label.
        use_p: (h, w) its family-wise p.
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
        """Return what the map shows."""
        if self.reason:
            return f"There is no reliance map: {self.reason}."
        parts = []
        for name, values, p in (
            ("to which the log-odds respond", self.response, self.response_p),
            ("that serve to tell the label", self.use, self.use_p),
        ):
            cells = np.argwhere((p < LEVEL) & (values > self.delta))
            if not len(cells):
                parts.append(f"no cells {name} by more than {self.delta:g} SD")
                continue
            row, column = max(cells.tolist(), key=lambda cell: values[tuple(cell)])
            parts.append(
                f"{len(cells)} of {values.size} cells {name}, most the cell in row {row + 1}, column {column + 1} "
                f"({values[row, column]:.2f} SD)"
            )
        return f"Exchanging each part of the images of {self.patients} patients shows {'; and '.join(parts)}."


def cells_of(grid: tuple[int, int]) -> tuple[int, int]:
    """Return how many cells the input has down and across, for maps on a grid."""
    return min(CELLS, grid[0]), min(CELLS, grid[1])


def cell_edits(
    recipients: Iterable[AuditSample], cells: tuple[int, int], *, donors: PatchDonors[AuditSample]
) -> Iterator[tuple[int, str, Edit]]:
    """Yield every edited input: ``region`` has the cell of a donor with the other label, ``sham`` with the same.

    Args:
        recipients: the cases whose inputs are edited; those without a donor are left out.
        cells: down and across.
        donors: the cases that lend.

    Yields:
        The number of the case, "cell:ROW:COLUMN", and the edit.
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
            mask = np.zeros(recipient.seen.shape, bool)
            mask[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = True
            mask &= recipient.seen
            if not mask.any() or (recipient.seen & ~mask).sum() == 0:
                continue
            region, sham = (
                FILL_INS["donor"](recipient.x, mask, donor=donor.x, seen=recipient.seen) for donor in (other, same)
            )
            yield recipient.case.number, f"{PREFIX}{row}:{column}", Edit("exchange", "label", "donor 1", region, sham)


def _lends(recipient: AuditSample, donor: AuditSample, *, equal: bool) -> bool:
    return (donor.truth == recipient.truth) == equal


def reliance_map(
    rows: pl.DataFrame, changes: Sequence[Change], cells: tuple[int, int], *, settings: AuditSettings
) -> RelianceMap:
    """Compute the map of a label.

    Args:
        rows: of the label, one per case: case, patient, truth, log_odds.
        changes: of its cells.
        cells: down and across.
        settings: of the statistics.

    Returns:
        The map; cells that no image shows are NaN.
    """
    cases = {row["case"]: row for row in rows.select("case", "patient", "truth", "log_odds").iter_rows(named=True)}
    sd = {truth: spread(rows.filter(pl.col("truth") == truth)) for truth in (True, False)}
    numbers = list(dict.fromkeys(change.case for change in changes))
    patients = [cases[number]["patient"] for number in numbers]
    few = min(
        (len({p for p, n in zip(patients, numbers, strict=True) if cases[n]["truth"] == t}) for t in sd), default=0
    )
    if few < FEWEST:
        return RelianceMap(
            len(numbers), len(set(patients)), reason=f"{few} patients on one side of the label have donors"
        )
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
