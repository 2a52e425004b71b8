"""Check that positions in a layer match the image: a network may mirror, shift, pad or crop it internally."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

from camscope.models.candidate import Candidate
from camscope.models.probe import Probe
from camscope.trace.graph_paths import back_from, place_of

_FEW = 5
"""Cells on an axis below which the test is inconclusive."""
_NEAR, _FAR = 0.125, 0.875
"""Centres of the two changed ends of an axis; each end is a quarter of the axis."""
_SHIFT = 0.04
"""Tolerance of the middle of all changes, as a share of the axis, plus three quarters of a cell."""
_STRETCH = 0.08
"""Tolerance of the distance of the ends, as a share of the axis, plus one and a half cells."""
_WIDE = 0.12
"""Standard deviation of the position of a change at which it counts as spread; a quarter of an axis has 0.07."""
_LOST = 1e-4
"""Share of the largest change; smaller changes are ignored."""
_SELECTS = re.compile("Amax|Amin|Max|Min|Topk|Kthvalue|Sort|Median|AdaptiveMax")


def is_in_place(probe: Probe, found: Sequence[Candidate]) -> bool:
    """Return whether changes in the corners of the image appear in the same corners of some layers.

    Each layer is tested separately: there the changes may have spread, but not moved. The finest layer before them is
    tested too: there the changes have not spread, and the ends of each axis must be where they are in the image.
    """
    before = (c for c in probe.candidates if c.clock <= found[0].clock and probe.is_cut(c))
    finest_first = sorted(before, key=lambda c: -math.prod(c.grid))
    finest = next((c for c in finest_first if c.tells and c.keeps_places), found[0])
    return (
        all(c.keeps_places and _is_centred(c) for c in (*found, finest))
        and _has_all_corners(finest)
        and _spans_the_image(finest)
    )


def _ends(candidate: Candidate) -> list[tuple[int, float, float, float]]:
    """Return for each axis its cells, where changes near its beginning and its end lie, and their width, in [0, 1]."""
    change = candidate.change.abs().sum(1)
    ends = []
    for back in range(1, min(len(candidate.grid), len(candidate.space)) + 1):
        cells = candidate.grid[-back]
        if cells < _FEW:
            continue
        along = change.movedim(-back, -1).flatten(1, -2).sum(1) if change.ndim > 2 else change
        places = (torch.arange(cells, device=change.device) + 0.5) / cells
        centres = (along * places).sum(1) / along.sum(1).clamp_min(1e-30)
        first = torch.tensor([corner[-back] for corner in candidate.corners], device=change.device)
        away = (places - centres[:, None]).square()
        width = ((along * away).sum(1) / along.sum(1).clamp_min(1e-30)).sqrt()
        ends.append((cells, float(centres[first].mean()), float(centres[~first].mean()), float(width.mean())))
    return ends


def _is_centred(candidate: Candidate) -> bool:
    return all(abs((near + far) / 2 - 0.5) <= _SHIFT + 0.75 / cells for cells, near, far, _ in _ends(candidate))


def _spans_the_image(candidate: Candidate) -> bool:
    """Return whether the ends are as far apart as in the image; True if changes have spread too widely."""
    expected = _FAR - _NEAR
    return all(
        width > _WIDE or abs(far - near - expected) <= _STRETCH + 1.5 / cells
        for cells, near, far, width in _ends(candidate)
    )


def _has_all_corners(candidate: Candidate) -> bool:
    totals = candidate.change.abs().flatten(1).sum(1)
    return bool((totals > _LOST * totals.max()).all())


def selects(probe: Probe, candidate: Candidate) -> bool:
    """Return whether a maximum, or another choice of values, lies between a layer and the scores.

    Where tokens of their own stand beside the grid, as a class token, the score does not come from the choice alone.
    """
    if candidate.layout.prefix or candidate.has_more_tokens:
        return False
    place = place_of(candidate.tensor)
    between = (node for node, output in back_from(probe.target, until={place}) if (node, output) != place)
    return any(_SELECTS.match(node.name()) for node in between)
