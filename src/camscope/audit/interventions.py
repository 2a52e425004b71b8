"""Change a part of the input and measure the change of the log-odds.

T1 and T2 remove a region or a cue. T3, the sham, removes a region of the same shape elsewhere. The effect is the
difference of the two changes. A region at the same position in every image is also exchanged between patients: with the
region of a donor with the other label, and with the region of a donor with the other value of a cue. Further tests
insert a cue, hide everything but a region, swap a region with that of any patient with the same label, and blur out a
region that is exchanged.
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
from camscope.audit.samples import Array, AuditSample, PatchDonors, is_drawn, union
from camscope.cohort.fill_ins import FILL_INS, beside, sham

Score = Callable[[Array], npt.NDArray[np.float64]]
"""(n, C, h, w) inputs -> (n,) log-odds of one label."""

SAME_PLACE = "same place"
"""The fill-in whose sham is the same place of a patient without the region."""

WITHOUT_MEAN = ("only", "swap", "blur")
"""Tests that have no mean effect: without a sham, or of changes whose sign means nothing."""

LARGE = 0.15
"""Share of the image above which a region is too large for a sham beside it."""


@dataclass(frozen=True)
class Change:
    """The result of one intervention on one case.

    Attributes:
        case: number of the case.
        region: name of the changed region.
        test: "remove", "exchange" (with the region of a donor), "insert" (a cue), "only" (everything but the region is
            hidden), "swap" (with the region of a donor with the same label) or "blur" (the region is blurred out).
        by: what differs between the donors of an exchange: "label", or a column such as "cue:token" or
            "property:contrast"; "" for other tests.
        fill_in: name of the fill-in, or the number of the donor; "same place" for an imputation whose sham is the same
            place of another patient.
        region_log_odds: the log-odds with the region changed.
        sham_log_odds: the log-odds with the sham: the same change elsewhere (for "swap", of the equally large part
            beside the region, NaN if there is none), or for an exchange the region of a donor who does not differ; NaN
            for "only" and "blur". For "same place", the log-odds of the case plus the change of the other patient's.
    """

    case: int
    region: str
    test: str
    by: str
    fill_in: str
    region_log_odds: float
    sham_log_odds: float


class Edit(NamedTuple):
    """One edit of an input, with ``test``, ``by`` and ``fill_in`` of its `Change`; ``sham`` is None if there is none.

    ``lender`` is the number of the case whose image the sham edits; None for the same case.
    """

    test: str
    by: str
    fill_in: str
    region: Array
    sham: Array | None
    lender: int | None = None


@dataclass(frozen=True)
class RegionEditor:
    """Edit the regions of samples.

    Attributes:
        regions: names of the regions of the audit.
        donors: the donors of pixels.
        mean: (C, h, w) the cohort's mean input, which replaces hidden parts.
        seed: random seed of shams and noise.
        large: the regions that are too large to be removed; they are exchanged.
        lesions: the regions that show where the disease is. They are left out of all other regions, so that removing
            a drain does not remove the lesion under it.
        disease: the disease regions. Cues, and other drawn shortcuts, are left out of them, so that removing a lesion
            does not remove the drain in it.
        objects: drawn shortcuts, such as "cue:token" and "mask:device".
        fill_ins: names in ``FILL_INS`` that replace a region; an exchange uses as many donors as there are fill-ins.
    """

    regions: Sequence[str]
    donors: PatchDonors[AuditSample]
    mean: Array
    seed: int
    large: Sequence[str] = ()
    lesions: Sequence[str] = ()
    disease: Sequence[str] = ()
    objects: Sequence[str] = ()
    fill_ins: Sequence[str] = ("impute", "donor")

    def edits(self, subject: AuditSample) -> Iterator[tuple[int, str, Edit]]:
        """Yield the case number, the region and the edit of every edited input of one sample."""
        case = subject.case.number
        for number, name in enumerate(self.regions):
            if name not in subject.masks:
                if name in self.objects and subject.lacks(name):
                    yield from ((case, name, edit) for edit in self._inserted(subject, name))
                continue
            mask = self._mask(subject, name)
            rest = subject.visible & ~mask
            if 2 * mask.sum() < (subject.masks[name] & subject.visible).sum() or not mask.any() or not rest.any():
                continue
            if name in self.large or not is_drawn(name):
                yield from ((case, name, edit) for edit in self._exchanged(subject, name, mask))
            if not is_drawn(name):
                yield from ((case, name, edit) for edit in self._swapped(subject, name, mask))
            if name in self.large:  # an exchange replaces what all images have there with itself
                blurred = FILL_INS["blur"](subject.x, mask, visible=subject.visible)
                yield case, name, Edit("blur", "", "blur", blurred, None)
            else:
                yield from ((case, name, edit) for edit in self._removed(subject, name, mask, self.seed + number))
            alone = FILL_INS["mean"](subject.x, rest, mean=self.mean, visible=subject.visible)
            yield case, name, Edit("only", "", "mean", alone, None)

    def _mask(self, subject: AuditSample, name: str) -> Mask:
        """Return a region inside the image: a lesion without cues, and any other region without lesions."""
        mask = subject.masks[name] & subject.visible
        mask = mask if name in self.lesions else mask & ~self._lesion(subject)
        return mask & ~self._objects(subject, mask) if name in self.disease else mask

    def _lesion(self, subject: AuditSample) -> Mask:
        return union([subject.masks.get(name) for name in self.lesions], subject.visible.shape)

    def _objects(self, subject: AuditSample, mask: Mask) -> Mask:
        """Return the cues of a case; and other drawn shortcuts that cover less than half of a mask."""
        cues = [m for name, m in subject.declared.items() if name.startswith("cue:")]
        others = [m for name in self.objects if (m := subject.masks.get(name)) is not None]
        return union([*cues, *(m for m in others if 2 * (m & mask).sum() < mask.sum())], mask.shape)

    def _removed(self, subject: AuditSample, name: str, mask: Mask, seed: int) -> Iterator[Edit]:
        """Yield the input with the region filled in; the sham fills in the same shape elsewhere.

        A drawn region is also compared with a sham at the same place of a patient with the same label without it:
        tissue that lies under the region in all patients then changes both log-odds. This is the only sham of a region
        that fits nowhere else.
        """
        place = _elsewhere(subject, name, mask, seed=seed + 1000 * subject.case.number)
        settings: dict[str, Any] = {"mean": self.mean, "seed": seed, "visible": subject.visible}
        drawn = is_drawn(name)

        def lends(other: AuditSample, *, equal: bool = False) -> bool:
            free = not drawn or (other.lacks(name) and not (self._lesion(other) & mask).any())
            if name in self.disease:
                free = free and not (self._objects(other, mask) & mask).any()
            return free and (not equal or other.truth == subject.truth)

        role = name, subject.truth
        equal = self.donors.pick(subject, partial(lends, equal=True), role=("remove, equal", *role)) if drawn else None
        lender = equal or self.donors.pick(subject, lends, role=("remove", *role))
        for fill in self.fill_ins if place is not None else ():
            fill = fill if fill != "donor" or lender is not None else "blur"
            region, other = (
                FILL_INS[fill](subject.x, where, donor=None if lender is None else lender.x, **settings)
                for where in (mask, place)
            )
            yield Edit("remove", "", fill, region, other)
        # Of the other label, the disease itself would differ: this is right for a lesion alone.
        healthy = equal or (lender if place is None and name in self.lesions else None)
        if healthy is not None:
            region, other = (FILL_INS["impute"](x, mask, **settings) for x in (subject.x, healthy.x))
            yield Edit("remove", "", SAME_PLACE, region, other, healthy.case.number)

    def _exchanged(self, subject: AuditSample, name: str, mask: Mask) -> Iterator[Edit]:
        """Yield the input with the region of a donor who differs in the label or in a cue.

        The sham uses a donor who does not differ. The donors of an exchange by a cue have the same label as the
        recipient. The lesions of both donors are left out too.
        """
        truth, values = subject.truth, subject.case.cues
        cues = [] if is_drawn(name) else [cue for cue, value in values.items() if value is not None]
        for by in ("label", *(f"cue:{cue}" for cue in cues)):
            cue = by.removeprefix("cue:")
            for turn in range(len(self.fill_ins)):

                def lends(donor: AuditSample, *, differs: bool, by: str = by, cue: str = cue) -> bool:
                    if by == "label":
                        return (donor.truth != truth) == differs
                    value = donor.case.cues.get(cue)
                    return donor.truth == truth and value is not None and (value != values[cue]) == differs

                role = (by, truth, values.get(cue))
                other = self.donors.pick(subject, partial(lends, differs=True), role=("other", *role), turn=turn)
                same = self.donors.pick(subject, partial(lends, differs=False), role=("same", *role), turn=turn)
                if other is None or same is None:
                    break
                kept = self._shared(name, mask, subject, other, same)
                if 2 * kept.sum() < mask.sum() or not kept.any():
                    continue
                region, sham_ = (
                    FILL_INS["donor"](subject.x, kept, donor=lender.x, visible=subject.visible)
                    for lender in (other, same)
                )
                yield Edit("exchange", by, f"donor {turn + 1}", region, sham_)

    def _shared(self, name: str, mask: Mask, *samples: AuditSample) -> Mask:
        """Return the part of a mask that the region covers in all samples, without what they have there beside it.

        The outside of the lungs of one patient holds some of the lungs of another.
        """
        for sample in samples:
            mask = mask & sample.masks.get(name, mask)
            if name not in self.lesions:
                mask = mask & ~self._lesion(sample)
            if name in self.disease:
                mask = mask & ~self._objects(sample, mask)
        return mask

    def _swapped(self, subject: AuditSample, name: str, mask: Mask) -> Iterator[Edit]:
        """Yield the input with the region of a donor with the same label; the sham has the donor's part beside it.

        An object in the region that is as frequent with the label as without it changes single cases, although no
        exchange by the label shows it.
        """
        for turn in range(len(self.fill_ins)):
            donor = self.donors.pick(
                subject, lambda d: d.truth == subject.truth, role=("swap", subject.truth), turn=turn
            )
            if donor is None:
                return
            kept = self._shared(name, mask, donor)
            if 2 * kept.sum() < mask.sum() or not kept.any():
                continue
            lend = partial(FILL_INS["donor"], subject.x, donor=donor.x, visible=subject.visible)
            part = beside(kept, subject.visible & ~self._lesion(subject) & ~self._lesion(donor))
            yield Edit("swap", "", f"donor {turn + 1}", lend(kept), None if part is None else lend(part))

    def _inserted(self, subject: AuditSample, name: str) -> Iterator[Edit]:
        """Yield the input with the cue of another patient; the sham inserts the same part of a patient without it."""
        carrier = self.donors.pick(subject, lambda other: name in other.masks, role=("insert", name, subject.truth))
        if carrier is None:
            return
        mask = self._mask(carrier, name) & subject.visible & ~self._lesion(subject)

        def lends(other: AuditSample) -> bool:
            return other.lacks(name) and not (self._lesion(other) & mask).any()

        free = self.donors.pick(subject, lends, role=("insert nothing", name, subject.truth))
        if free is None or 2 * mask.sum() < carrier.masks[name].sum():
            return
        region, other = (
            FILL_INS["donor"](subject.x, mask, donor=lender.x, visible=subject.visible) for lender in (carrier, free)
        )
        yield Edit("insert", "", "donor", region, other)


def _elsewhere(subject: AuditSample, name: str, mask: Mask, *, seed: int) -> Mask | None:
    """Move a region's shape to another position, outside all other declared masks and cues.

    A region that lies in a declared mask, such as a lesion in the lungs, stays inside this mask if there is room, so
    that the sham replaces the same tissue.
    """
    others = {other: declared for other, declared in subject.declared.items() if other != name}
    around = {o for o, m in others.items() if o.startswith("mask:") and 2 * (m & mask).sum() >= mask.sum()}
    shape = mask.shape
    forbidden = ~subject.visible | union([m for other, m in others.items() if other not in around], shape)
    outside = union([~others[other] for other in around], shape)
    within = sham(mask, forbidden | outside, seed=seed) if around else None
    return within if within is not None else sham(mask, forbidden, seed=seed)


def scored(
    edits: Iterable[tuple[int, str, Edit]],
    *,
    score: Score,
    log_odds: Mapping[int, float] | None = None,
    batch_size: int = 64,
) -> tuple[list[Change], int]:
    """Compute the log-odds of edited inputs.

    Args:
        edits: case number, region name, and edit.
        score: function that returns the log-odds of inputs.
        log_odds: case number -> log-odds of the unedited input; only shams of other cases need them.
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
        scores = iter(score(np.stack(inputs)).tolist())
        for case, name, edit in batch:
            region = next(scores)
            other = float("nan") if edit.sham is None else next(scores)
            if edit.lender is not None:
                assert log_odds is not None
                other += log_odds[case] - log_odds[edit.lender]
            measured.append(Change(case, name, edit.test, edit.by, edit.fill_in, region, other))
    return measured, forwards
