"""Find where the disease lies in the cases of an audit, so that shortcuts are tested apart from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from camscope.audit.samples import AuditSample, is_drawn, union
from camscope.audit.settings import FEWEST
from camscope.study.config import AuditSection

KNOWN = 0.9
"""Smallest share of the cases with the label whose disease region must be known."""
_FIXED = 0.5  # smallest mean share of a region that another case's region covers, for a region at a fixed place
_REACHED = 0.1  # smallest share of the known lesions that overlap a region, for one that the disease reaches

Doubt = Literal["", "disease", "tissue", "unseen"]
"""What, other than the shortcut, may have changed the score.

"disease": the disease may lie in the shortcut. "tissue": it may too, but the shortcut is always at one place, which can
be compared in other patients. "unseen": no case shows whether the disease reaches into it. "": nothing.
"""


@dataclass(frozen=True)
class DiseasePlaces:
    """The places of the disease, and the shortcuts that may cover them.

    Attributes:
        lesions: the disease regions that show where the disease is; most cases without the label do not have them.
            A region such as the lungs, which all cases have, shows only where disease can be.
        overlaps: shortcuts that overlap a lesion in some case; their heat may be the disease's.
        doubts: shortcut -> the doubt, where the place of the disease is not known for nearly all cases with the label.
    """

    lesions: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()
    doubts: Mapping[str, Doubt] = field(default_factory=dict)


def disease_places(pool: Sequence[AuditSample], section: AuditSection) -> DiseasePlaces:
    """Find the places of the disease.

    Args:
        pool: cases of one label.
        section: the audit section of the study file.
    """
    absent = [subject.masks for subject in pool if not subject.truth]
    lesions = tuple(
        name for name in section.disease if is_drawn(name) and 2 * sum(name in masks for masks in absent) <= len(absent)
    )
    places = [
        (subject, union([subject.masks.get(name) for name in lesions], subject.visible.shape)) for subject in pool
    ]
    known = [(subject, lesion) for subject, lesion in places if lesion.any()]
    reached = {
        name: [bool((subject.masks[name] & lesion).any()) for subject, lesion in known if name in subject.masks]
        for name in section.shortcuts
    }
    present = sum(subject.truth for subject in pool)
    doubts: dict[str, Doubt] = {}
    if sum(subject.truth for subject, _ in known) < KNOWN * present:
        doubts = {name: _doubt(name, pool, reached[name]) for name in section.shortcuts}
    return DiseasePlaces(lesions, tuple(name for name, found in reached.items() if any(found)), doubts)


def _doubt(name: str, pool: Sequence[AuditSample], reached: Sequence[bool]) -> Doubt:
    """Return the doubt about a shortcut, given whether each known lesion reaches into it."""
    if is_drawn(name):
        return "tissue" if _is_fixed(name, pool) else "disease"
    if len(reached) < FEWEST:
        return "disease" if any(reached) else "unseen"
    return "disease" if np.mean(reached) >= _REACHED else ""


def _is_fixed(name: str, pool: Sequence[AuditSample]) -> bool:
    """Return whether a region covers, on average, at least half of the region of another case."""
    masks = [subject.masks[name] for subject in pool if name in subject.masks]
    frequency = np.mean(masks, axis=0) if masks else np.zeros(1)
    return float((frequency**2).sum()) >= _FIXED * float(frequency.sum())
