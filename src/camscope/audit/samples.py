"""The cases of an audit as inputs of a model, and where others come from that lend their pixels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from camscope.array_types import Mask
from camscope.cohort.case import Case
from camscope.cohort.regions import Shares, at_input, cell_shares, region, seen_shares
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
        truth: whether the label is there.
        x: (C, h, w) the network's input.
        seen: (h, w), true where the input shows the picture.
        masks: region -> (h, w) on the input; only those that the case has.
        forbidden: (h, w), every declared mask and all padding, where no sham may lie.
        shares: region -> share of each cell of the map's grid that it covers; only those that the case has.
        seen_cells: share of each cell that lies on the picture.
    """

    case: Case
    truth: bool
    x: Array = field(repr=False)
    seen: Mask = field(repr=False)
    masks: Mapping[str, Mask] = field(repr=False)
    forbidden: Mask = field(repr=False)
    shares: Mapping[str, Shares] = field(repr=False)
    seen_cells: Shares = field(repr=False)


def subjects(
    study: Study,
    label: str,
    cases: Iterable[Case],
    *,
    preprocess: Preprocess,
    regions: Sequence[str],
    grid: tuple[int, int],
) -> Iterator[AuditSample]:
    """Read cases and make them inputs of a label's model; cases whose truth is unknown are left out.

    Args:
        study: the study.
        label: one of its labels.
        cases: those whose rows did not fail.
        preprocess: of the label's model.
        regions: that are looked for in each.
        grid: (h, w) of the maps.

    Yields:
        One subject a case, in order.
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
        found = {
            name: mask for name in dict.fromkeys([*regions, *declared]) if (mask := region(name, scene)) is not None
        }
        on_input = {name: _on_input(name, mask, window, size) for name, mask in found.items()}
        seen = at_input(scene.seen, window, size)
        yield AuditSample(
            case,
            truth,
            tensor.numpy(),
            seen,
            masks={name: m for name, m in on_input.items() if name in regions and m.any() and not m.all()},
            forbidden=np.logical_or.reduce([~seen, *(on_input[name] for name in declared if name in on_input)]),
            shares={name: cell_shares(mask, window, grid) for name, mask in found.items() if name in regions},
            seen_cells=seen_shares(window, grid),
        )


def _on_input(name: str, mask: Mask, window: Window, size: tuple[int, int]) -> Mask:
    """Return a region on the input; drawn things a pixel wider, since resampling spreads them."""
    return at_input(mask, window, size, grow=int(is_drawn(name)))


def is_drawn(name: str) -> bool:
    """Return whether a region is something in the picture: not every picture has it, and it lies elsewhere in each."""
    return name.partition(":")[0] in _DRAWN


class Lender(Protocol):
    """A case that can lend to another."""

    @property
    def case(self) -> Case:
        """Return the case."""

    @property
    def truth(self) -> bool:
        """Return whether the label is there."""


AnyLender = TypeVar("AnyLender", bound=Lender)


def one_per_patient(lenders: Iterable[AnyLender], limit: int) -> list[AnyLender]:
    """Return one case of each patient, in turn with and without the label where a patient has both.

    Args:
        lenders: the cases.
        limit: most cases.
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
    """Cases that lend their pixels or properties: in each role a patient lends to one other patient at most.

    Donors are a sample as much as recipients are. If each recipient drew its donors freely, all effects would share
    what the few donors happen to look like, and intervals over recipients would be too narrow. With one donor for one
    recipient the effects of patients are independent of each other.

    Args:
        pool: the cases; they are kept in memory.
        seed: of the choice.
    """

    def __init__(self, pool: Sequence[AnyLender], *, seed: int) -> None:
        order = np.random.default_rng([seed, len(pool)]).permutation(len(pool))
        self._pool = [pool[i] for i in order]
        self._lent: dict[tuple[Hashable, tuple[str, ...], str], str] = {}
        self._borrowed: dict[tuple[Hashable, tuple[str, ...], str], str] = {}

    def pick(
        self, subject: AnyLender, wanted: Callable[[AnyLender], bool], *, role: Hashable, turn: int = 0
    ) -> AnyLender | None:
        """Return a donor for a subject: of its own donor patient in this role, in the same groups, and as wanted.

        Args:
            subject: who receives.
            wanted: what the donor must be.
            role: what the donor is for; every role has its own pairs of patients.
            turn: another number gives another picture of the donor patient, where there are several.

        Returns:
            The donor; None where every fitting patient lends to somebody else.
        """
        patient, group = subject.case.patient, subject.case.group
        fitting = [
            lender
            for lender in self._pool
            if lender.case.group == group and lender.case.patient != patient and wanted(lender)
        ]
        mine = (role, group, patient)
        if mine not in self._borrowed:
            patients = (lender.case.patient for lender in fitting)
            free = next((name for name in patients if (role, group, name) not in self._lent), None)
            if free is None:
                return None
            self._borrowed[mine], self._lent[role, group, free] = free, patient
        own = [lender for lender in fitting if lender.case.patient == self._borrowed[mine]]
        return own[turn % len(own)] if own else None
