"""Prepare the cases of an audit as inputs of a model, and choose their donors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from camscope.array_types import Mask
from camscope.cohort.case import Case
from camscope.cohort.regions import Shares, at_input, cell_shares, region, visible_shares
from camscope.images import Window, read
from camscope.models.preprocess import Preprocess
from camscope.study.measure import Places
from camscope.study.study import Study

Array = npt.NDArray[np.float32]

_DRAWN = ("mask", "inside", "cue")


@dataclass(frozen=True)
class AuditSample:
    """A case as the input of one model.

    Attributes:
        case: the case.
        truth: whether the label is present.
        x: (C, h, w) the input.
        visible: (h, w) true inside the image, false in padding.
        masks: region -> (h, w) mask on the input; only regions that the case has.
        declared: "mask:NAME" and "cue:NAME" -> (h, w) mask on the input, of all masks that the study file declares.
        shares: region -> share of each cell of the map's grid that the region covers; only regions that the case has.
        visible_cells: share of each cell that lies inside the image.
    """

    case: Case
    truth: bool
    x: Array = field(repr=False)
    visible: Mask = field(repr=False)
    masks: Mapping[str, Mask] = field(repr=False)
    declared: Mapping[str, Mask] = field(repr=False)
    shares: Mapping[str, Shares] = field(repr=False)
    visible_cells: Shares = field(repr=False)

    def lacks(self, name: str) -> bool:
        """Return whether the case does not have a drawn region; a cue that is present may lack its mask."""
        return name not in self.masks and not (name.startswith("cue:") and self.case.cues.get(name[len("cue:") :]))


def subjects(
    study: Study,
    label: str,
    cases: Iterable[Case],
    *,
    preprocess: Preprocess,
    regions: Sequence[str],
    grid: tuple[int, int],
) -> Iterator[AuditSample]:
    """Read cases and prepare them as inputs of a label's model; cases with unknown truth are left out.

    Args:
        study: the study.
        label: a label of the study.
        cases: the cases, without failed rows.
        preprocess: the preprocessing of the label's model.
        regions: names of the regions of the audit.
        grid: (h, w) of the maps.

    Yields:
        One sample per case, in order.
    """
    for case in cases:
        truth = case.truth[label]
        if truth is None:
            continue
        picture = read(case.source)
        tensor, window = preprocess(picture)
        size = preprocess.input_size
        scene = Places(case, study).scene(label, window, picture=picture)
        declared = [*(f"mask:{name}" for name in scene.masks), *(f"cue:{name}" for name in scene.cues)]
        on_image = {
            name: mask for name in dict.fromkeys([*regions, *declared]) if (mask := region(name, scene)) is not None
        }
        on_input = {name: _on_input(name, mask, window, size) for name, mask in on_image.items()}
        visible = at_input(scene.visible, window, size)
        yield AuditSample(
            case,
            truth,
            tensor.numpy(),
            visible,
            masks={name: m for name, m in on_input.items() if name in regions and m.any() and not m.all()},
            declared={name: on_input[name] for name in declared if name in on_input},
            shares={name: cell_shares(mask, window, grid) for name, mask in on_image.items() if name in regions},
            visible_cells=visible_shares(window, grid),
        )


def batch_for(size: tuple[int, int], *, most: int = 64) -> int:
    """Return the number of inputs (h, w) per forward pass: ``most`` of 224 x 224, fewer that are larger.

    >>> batch_for((224, 224)), batch_for((448, 448)), batch_for((96, 96))
    (64, 16, 64)
    """
    return min(most, max(1, most * 224**2 // (size[0] * size[1])))


def _on_input(name: str, mask: Mask, window: Window, size: tuple[int, int]) -> Mask:
    """Return a region on the input; drawn regions grow by one pixel, because resampling blurs their edge."""
    return at_input(mask, window, size, grow=int(is_drawn(name)))


def union(masks: Iterable[Mask | None], shape: tuple[int, ...]) -> Mask:
    """Return the union of masks (h, w); false everywhere if there are none."""
    result = np.zeros(shape, bool)
    for mask in masks:
        if mask is not None:
            result |= mask
    return result


def is_drawn(name: str) -> bool:
    """Return whether a region comes from a mask or cue, so that its presence and position differ between images."""
    return name.partition(":")[0] in _DRAWN


class Lender(Protocol):
    """A case that can be a donor."""

    @property
    def case(self) -> Case:
        """Return the case."""

    @property
    def truth(self) -> bool:
        """Return whether the label is present."""


AnyLender = TypeVar("AnyLender", bound=Lender)


def one_per_patient(lenders: Iterable[AnyLender], limit: int) -> list[AnyLender]:
    """Return one case per patient.

    For patients with cases of both truths, cases with and without the label are chosen in turn.

    Args:
        lenders: the cases.
        limit: largest number of cases.
    """
    by_patient: dict[str, dict[bool, AnyLender]] = {}
    for lender in lenders:
        by_patient.setdefault(lender.case.patient, {}).setdefault(lender.truth, lender)
    chosen: list[AnyLender] = []
    present = 0
    for sides in sorted(by_patient.values(), key=len):
        truth = next(iter(sides)) if len(sides) == 1 else 2 * present < len(chosen)
        chosen.append(sides[truth])
        present += truth
    return chosen[:limit]


class PatchDonors(Generic[AnyLender]):
    """Choose donors of pixels or properties: in each role, a patient is the donor of at most one other patient.

    If recipients shared donors, their effects would depend on the same few images, and intervals over recipients would
    be too narrow. With one donor patient per recipient patient, the effects of patients are independent.

    Args:
        pool: the cases; they are kept in memory.
        seed: random seed of the choice.
    """

    def __init__(self, pool: Sequence[AnyLender], *, seed: int) -> None:
        order = np.random.default_rng([seed, len(pool)]).permutation(len(pool))
        self._pool = [pool[i] for i in order]
        self._lent: dict[tuple[Hashable, str], str] = {}
        self._borrowed: dict[tuple[Hashable, str], str] = {}

    def pick(
        self, subject: AnyLender, condition: Callable[[AnyLender], bool], *, role: Hashable, turn: int = 0
    ) -> AnyLender | None:
        """Return a donor that meets a condition.

        A recipient patient keeps the same donor patient within a role. Donors may be of another group: what is the same
        in all images of a group, such as the frame of a site, would otherwise be replaced with itself.

        Args:
            subject: the recipient.
            condition: returns whether a case can be the donor.
            role: purpose of the donor; every role has its own pairs of patients.
            turn: number of the donor; different numbers give different images of the donor patient, if there are any.

        Returns:
            The donor; None if every suitable patient is already the donor of another patient.
        """
        patient = subject.case.patient
        fitting = [lender for lender in self._pool if lender.case.patient != patient and condition(lender)]
        recipient = (role, patient)
        if recipient not in self._borrowed:
            patients = (lender.case.patient for lender in fitting)
            free = next((name for name in patients if (role, name) not in self._lent), None)
            if free is None:
                return None
            self._borrowed[recipient], self._lent[role, free] = free, patient
        images = [lender for lender in fitting if lender.case.patient == self._borrowed[recipient]]
        return images[turn % len(images)] if images else None
