"""Find where the disease lies in the cases of an audit, so that shortcuts are tested apart from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from camscope.audit.samples import AuditSample, is_drawn, union
from camscope.study.config import AuditSection

KNOWN = 0.9
"""Smallest share of the cases with the label whose disease region must be known."""
_FIXED = 0.5  # smallest mean share of a region that another case's region covers, for a region at a fixed place


@dataclass(frozen=True)
class DiseasePlaces:
    """The places of the disease, and the shortcuts that may cover them.

    Attributes:
        lesions: the disease regions that show where the disease is; most cases without the label do not have them.
            A region such as the lungs, which all cases have, shows only where disease can be.
        overlaps: shortcuts that overlap a lesion in some case; their heat may be the disease's.
        uncertain: drawn shortcuts under which the disease may lie unseen: they are in varying places, and the place of
            the disease is not known for nearly all cases with the label. A shortcut that is always at the same place is
            compared with this place in other patients.
    """

    lesions: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()


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
    drawn = [union([subject.masks.get(name) for name in lesions], subject.visible.shape) for subject in pool]
    overlaps = tuple(
        name
        for name in section.shortcuts
        if any(
            (subject.masks[name] & lesion).any()
            for subject, lesion in zip(pool, drawn, strict=True)
            if name in subject.masks
        )
    )
    present = [bool(lesion.any()) for subject, lesion in zip(pool, drawn, strict=True) if subject.truth]
    moving = (name for name in section.shortcuts if is_drawn(name) and not _is_fixed(name, pool))
    return DiseasePlaces(lesions, overlaps, () if np.mean(present or [False]) >= KNOWN else tuple(moving))


def _is_fixed(name: str, pool: Sequence[AuditSample]) -> bool:
    """Return whether a region covers, on average, at least half of the region of another case."""
    masks = [subject.masks[name] for subject in pool if name in subject.masks]
    frequency = np.mean(masks, axis=0) if masks else np.zeros(1)
    return float((frequency**2).sum()) >= _FIXED * float(frequency.sum())
