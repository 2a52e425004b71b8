"""Change a part of the input and measure the change of the log-odds.

T1 and T2 remove a region or a cue. T3, the sham, removes a region of the same shape elsewhere. The effect is the
difference of the two changes. A region at the same position in every image is also exchanged between patients: with the
region of a donor with the other label, and with the region of a donor with the other value of a cue. Further tests
insert a cue, and hide everything but a region.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from camscope.array_types import Mask
from camscope.audit.samples import Array, AuditSample, PatchDonors, is_drawn
from camscope.cohort.fill_ins import FILL_INS, sham

Score = Callable[[Array], npt.NDArray[np.float64]]
"""(n, C, h, w) inputs -> (n,) log-odds of one label."""

LARGE = 0.15
"""Share of the image above which a region is too large for a sham beside it."""


@dataclass(frozen=True)
class Change:
    """The result of one intervention on one case.

    Attributes:
        case: number of the case.
        region: name of the changed region.
        test: "remove", "exchange" (with the region of a donor), "insert" (a cue) or "only" (everything but the region
            is hidden).
        by: what differs between the donors of an exchange: "label", or a column such as "cue:token" or
            "property:contrast"; "" for other tests.
        fill_in: name of the fill-in, or the number of the donor.
        region_log_odds: the log-odds with the region changed.
        sham_log_odds: the log-odds with the sham: the same change elsewhere, or for an exchange the region of a donor
            who does not differ; NaN for "only".
    """

    case: int
    region: str
    test: str
    by: str
    fill_in: str
    region_log_odds: float
    sham_log_odds: float


class Edit(NamedTuple):
    """One edit of an input, with ``test``, ``by`` and ``fill_in`` of its `Change`; ``sham`` is None for "only"."""

    test: str
    by: str
    fill_in: str
    region: Array
    sham: Array | None


def changes(
    subject: AuditSample,
    regions: Sequence[str],
    *,
    donors: PatchDonors[AuditSample],
    mean: Array,
    large: Sequence[str],
    fill_ins: Sequence[str],
    seed: int,
) -> Iterator[tuple[str, Edit]]:
    """Yield every edited input of one sample.

    Args:
        subject: the sample whose input is edited.
        regions: names of the regions of the audit.
        donors: the donors of pixels.
        mean: (C, h, w) the cohort's mean input, which replaces hidden parts.
        large: the regions that are too large to be removed; they are exchanged.
        fill_ins: names of the fill-ins that replace a region; an exchange uses as many donors as there are fill-ins.
        seed: random seed of shams and noise.

    Yields:
        The region and the edit.
    """
    for number, name in enumerate(regions):
        mask = subject.masks.get(name)
        if mask is None:
            if name.startswith("cue:"):
                yield from ((name, edit) for edit in _inserted(subject, name, donors))
            continue
        mask = mask & subject.visible
        rest = subject.visible & ~mask
        if not mask.any() or not rest.any():
            continue
        if name in large or not is_drawn(name):
            cues = [] if is_drawn(name) else [cue for cue, value in subject.case.cues.items() if value is not None]
            edits = _exchanged(subject, mask, cues=cues, donors=donors, turns=len(fill_ins))
            yield from ((name, edit) for edit in edits)
        if name not in large:
            settings = {"mean": mean, "seed": seed + number, "visible": subject.visible}
            edits = _removed(subject, name, mask=mask, donors=donors, fill_ins=fill_ins, settings=settings)
            yield from ((name, edit) for edit in edits)
        alone = FILL_INS["mean"](subject.x, rest, mean=mean, visible=subject.visible)
        yield name, Edit("only", "", "mean", alone, None)


def _removed(
    subject: AuditSample,
    name: str,
    *,
    mask: Mask,
    donors: PatchDonors[AuditSample],
    fill_ins: Sequence[str],
    settings: Mapping[str, Any],
) -> Iterator[Edit]:
    """Yield the input with the region filled in; the sham fills in the same shape elsewhere."""
    place = sham(mask, subject.forbidden, seed=settings["seed"] + 1000 * subject.case.number)
    if place is None:
        return
    lender = donors.pick(
        subject, lambda other: not is_drawn(name) or name not in other.masks, role=("remove", name, subject.truth)
    )
    for fill in fill_ins:
        fill = fill if fill != "donor" or lender is not None else "blur"
        region, other = (
            FILL_INS[fill](subject.x, where, donor=None if lender is None else lender.x, **settings)
            for where in (mask, place)
        )
        yield Edit("remove", "", fill, region, other)


def _exchanged(
    subject: AuditSample, mask: Mask, *, cues: Sequence[str], donors: PatchDonors[AuditSample], turns: int
) -> Iterator[Edit]:
    """Yield the input with the region of a donor who differs in the label or in a cue.

    The sham uses a donor who does not differ. The donors of an exchange by a cue have the same label as the recipient.
    """
    truth, values = subject.truth, subject.case.cues
    for by in ("label", *(f"cue:{cue}" for cue in cues)):
        cue = by.removeprefix("cue:")
        for turn in range(turns):

            def lends(donor: AuditSample, *, differs: bool, by: str = by, cue: str = cue) -> bool:
                if by == "label":
                    return (donor.truth != truth) == differs
                value = donor.case.cues.get(cue)
                return donor.truth == truth and value is not None and (value != values[cue]) == differs

            role = (by, truth, values.get(cue))
            other = donors.pick(subject, partial(lends, differs=True), role=("other", *role), turn=turn)
            same = donors.pick(subject, partial(lends, differs=False), role=("same", *role), turn=turn)
            if other is None or same is None:
                break
            region, sham_ = (
                FILL_INS["donor"](subject.x, mask, donor=lender.x, visible=subject.visible) for lender in (other, same)
            )
            yield Edit("exchange", by, f"donor {turn + 1}", region, sham_)


def _inserted(subject: AuditSample, name: str, donors: PatchDonors[AuditSample]) -> Iterator[Edit]:
    """Yield the input with the cue of another patient; the sham inserts the same position of a patient without it."""
    carrier = donors.pick(subject, lambda other: name in other.masks, role=("insert", name, subject.truth))
    free = donors.pick(subject, lambda other: name not in other.masks, role=("insert nothing", name, subject.truth))
    if carrier is None or free is None:
        return
    mask = carrier.masks[name] & subject.visible
    if not mask.any():
        return
    region, other = (
        FILL_INS["donor"](subject.x, mask, donor=lender.x, visible=subject.visible) for lender in (carrier, free)
    )
    yield Edit("insert", "", "donor", region, other)


def measured_changes(
    subjects: Iterable[AuditSample],
    regions: Sequence[str],
    *,
    score: Score,
    donors: PatchDonors[AuditSample],
    mean: Array,
    large: Sequence[str],
    seed: int,
    fill_ins: Sequence[str] = ("impute", "donor"),
    batch_size: int = 64,
) -> tuple[list[Change], int]:
    """Apply every intervention to every sample.

    Args:
        subjects: the samples.
        regions: names of the regions of the audit.
        score: function that returns the log-odds of inputs.
        donors: the donors of pixels.
        mean: (C, h, w) the cohort's mean input.
        large: regions that are too large to be removed.
        seed: random seed.
        fill_ins: names in ``FILL_INS`` that replace a region.
        batch_size: inputs per forward pass.

    Returns:
        The changes, and the number of inputs that passed through the model.
    """
    settings: dict[str, Any] = {"donors": donors, "mean": mean, "large": large, "fill_ins": fill_ins, "seed": seed}
    edits = (
        (subject.case.number, name, edit)
        for subject in subjects
        for name, edit in changes(subject, regions, **settings)
    )
    return scored(edits, score=score, batch_size=batch_size)


def scored(edits: Iterable[tuple[int, str, Edit]], *, score: Score, batch_size: int = 64) -> tuple[list[Change], int]:
    """Compute the log-odds of edited inputs.

    Args:
        edits: case number, region name, and edit.
        score: function that returns the log-odds of inputs.
        batch_size: inputs per forward pass.

    Returns:
        The changes, and the number of inputs that passed through the model.
    """
    measured: list[Change] = []
    forwards = 0
    remaining = iter(edits)
    while batch := list(itertools.islice(remaining, max(1, batch_size // 2))):
        inputs = [x for _, _, edit in batch for x in (edit.region, edit.sham) if x is not None]
        forwards += len(inputs)
        log_odds = iter(score(np.stack(inputs)).tolist())
        for case, name, edit in batch:
            region = next(log_odds)
            other = float("nan") if edit.sham is None else next(log_odds)
            measured.append(Change(case, name, edit.test, edit.by, edit.fill_in, region, other))
    return measured, forwards
