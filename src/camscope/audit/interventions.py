"""Interventions: a part of the input is changed, and the logit answers.

T1 and T2 remove a region or a cue, T3 does the same to a place that should not matter, and the effect is the
difference of the two changes. Inserting a cue, and showing a region alone, are further questions to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from camscope.array_types import Mask
from camscope.audit.samples import Array, AuditSample, PatchDonors, is_drawn
from camscope.cohort.fill_ins import FILL_INS, sham

Score = Callable[[Array], npt.NDArray[np.float64]]
"""(n, C, h, w) inputs -> (n,) logits of one label."""

LARGE = 0.15
"""Above this share of the picture a region has no place of its size beside it."""


@dataclass(frozen=True)
class Change:
    """What one intervention on one case did.

    Attributes:
        case: its number.
        region: that was changed.
        test: "remove", "exchange" (with another patient's, for large regions), "insert" (a cue) or "only" (all but
            the region hidden).
        fill_in: what took its place.
        region_logit: the logit with the region changed.
        sham_logit: the logit with the sham changed instead; NaN for "only".
    """

    case: int
    region: str
    test: str
    fill_in: str
    region_logit: float
    sham_logit: float


class _Edit(NamedTuple):
    test: str
    fill_in: str
    region: Array
    sham: Array | None


def changes(
    subject: AuditSample,
    regions: Sequence[str],
    *,
    donors: PatchDonors,
    mean: Array,
    large: Sequence[str],
    fill_ins: Sequence[str],
    seed: int,
) -> Iterator[tuple[str, _Edit]]:
    """Yield every edited input of one subject.

    Args:
        subject: whose input is edited.
        regions: that are asked about.
        donors: who lends pixels.
        mean: (C, h, w), the cohort's mean input, for what is hidden.
        large: those of the regions that are exchanged rather than removed, with as many donors as there are fill-ins.
        fill_ins: what takes the place of a region.
        seed: of shams and noise.

    Yields:
        The region and the edit.
    """
    for number, name in enumerate(regions):
        mask = subject.masks.get(name)
        if mask is None:
            if name.startswith("cue:"):
                yield from ((name, edit) for edit in _inserted(subject, name, donors))
            continue
        mask = mask & subject.seen
        rest = subject.seen & ~mask
        if not mask.any() or not rest.any():
            continue
        if name in large:
            edits = _exchanged(subject, mask, donors=donors, turns=len(fill_ins))
        else:
            given = {"mean": mean, "seed": seed + number, "seen": subject.seen}
            edits = _removed(subject, name, mask=mask, donors=donors, fill_ins=fill_ins, given=given)
        yield from ((name, edit) for edit in edits)
        alone = FILL_INS["mean"](subject.x, rest, mean=mean, seen=subject.seen)
        yield name, _Edit("only", "mean", alone, None)


def _removed(
    subject: AuditSample,
    name: str,
    *,
    mask: Mask,
    donors: PatchDonors,
    fill_ins: Sequence[str],
    given: Mapping[str, Any],
) -> Iterator[_Edit]:
    """Yield the region filled in, and a sham of its shape filled in alike."""
    place = sham(mask, subject.forbidden, seed=given["seed"] + 1000 * subject.case.number)
    if place is None:
        return
    lender = donors.pick(
        subject, lambda other: not is_drawn(name) or name not in other.masks, role=("remove", name, subject.truth)
    )
    for fill in fill_ins:
        fill = fill if fill != "donor" or lender is not None else "blur"
        region, other = (
            FILL_INS[fill](subject.x, where, donor=None if lender is None else lender.x, **given)
            for where in (mask, place)
        )
        yield _Edit("remove", fill, region, other)


def _exchanged(subject: AuditSample, mask: Mask, *, donors: PatchDonors, turns: int) -> Iterator[_Edit]:
    """Yield the region of another patient of the other truth, and as a sham that of one of the same truth."""
    for turn in range(turns):
        other = donors.pick(subject, lambda one: one.truth != subject.truth, role=("other", subject.truth), turn=turn)
        same = donors.pick(subject, lambda one: one.truth == subject.truth, role=("same", subject.truth), turn=turn)
        if other is None or same is None:
            return
        region, sham_ = (
            FILL_INS["donor"](subject.x, mask, donor=lender.x, seen=subject.seen) for lender in (other, same)
        )
        yield _Edit("exchange", f"donor {turn + 1}", region, sham_)


def _inserted(subject: AuditSample, name: str, donors: PatchDonors) -> Iterator[_Edit]:
    """Yield the cue of another patient put in, and as a sham the same place of one without it."""
    carrier = donors.pick(subject, lambda other: name in other.masks, role=("insert", name, subject.truth))
    free = donors.pick(subject, lambda other: name not in other.masks, role=("insert nothing", name, subject.truth))
    if carrier is None or free is None:
        return
    mask = carrier.masks[name] & subject.seen
    if not mask.any():
        return
    region, other = (
        FILL_INS["donor"](subject.x, mask, donor=lender.x, seen=subject.seen) for lender in (carrier, free)
    )
    yield _Edit("insert", "donor", region, other)


def measured_changes(
    subjects: Iterable[AuditSample],
    regions: Sequence[str],
    *,
    score: Score,
    donors: PatchDonors,
    mean: Array,
    large: Sequence[str],
    seed: int,
    fill_ins: Sequence[str] = ("impute", "donor"),
    batch_size: int = 64,
) -> tuple[list[Change], int]:
    """Apply every intervention to every subject.

    Args:
        subjects: the cases.
        regions: that are asked about.
        score: the model.
        donors: who lends pixels.
        mean: (C, h, w), the cohort's mean input.
        large: regions that are exchanged.
        seed: of everything random.
        fill_ins: what takes the place of a region, names of ``FILL_INS``.
        batch_size: inputs in one forward pass.

    Returns:
        The changes, and the number of inputs that went through the model.
    """
    found: list[Change] = []
    waiting: list[tuple[int, str, _Edit]] = []
    forwards = 0

    def flush() -> None:
        nonlocal forwards
        inputs = [x for _, _, edit in waiting for x in (edit.region, edit.sham) if x is not None]
        if not inputs:
            return
        forwards += len(inputs)
        logits = iter(score(np.stack(inputs)).tolist())
        for case, name, edit in waiting:
            region = next(logits)
            other = float("nan") if edit.sham is None else next(logits)
            found.append(Change(case, name, edit.test, edit.fill_in, region, other))
        waiting.clear()

    given: dict[str, Any] = {"donors": donors, "mean": mean, "large": large, "fill_ins": fill_ins, "seed": seed}
    for subject in subjects:
        for name, edit in changes(subject, regions, **given):
            waiting.append((subject.case.number, name, edit))
            if len(waiting) * 2 >= batch_size:
                flush()
    flush()
    return found, forwards
