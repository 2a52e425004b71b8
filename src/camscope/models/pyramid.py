"""Layers on grids of several sizes that carry the scores together: a detector's pyramid, an encoder with skips."""

from __future__ import annotations

import math
from collections.abc import Sequence

from camscope.models.candidate import Candidate
from camscope.models.probe import Probe
from camscope.trace.boxes import has_boxes
from camscope.trace.graph_paths import back_from, first_met, place_of, reaches

_MOST = 32


def levels_of_pyramid(probe: Probe) -> list[Candidate]:
    """Return the levels of a detector with boxes from grids of several sizes; empty for other networks.

    A level is the last layer that both the position and the score of a box depend on: the end of the pyramid, before
    the heads branch. Each box comes from one level (ODAM, ICLR 2023, explains boxes there), so the map of all levels
    equals that of the box's level. If all scores pass through the coarsest grid, there is one level, and no pyramid. A
    level that is computed only from another one is left out, since its boxes appear there.
    """
    if not has_boxes(probe.scores.shape):
        return []
    score, images = probe.scores[..., 4].sum(), probe.images
    shared = _before_heads(probe)[::-1]
    cut = next((c for c in shared if not reaches(score, images, without=[c.tensor])), None)
    if cut is not None and math.prod(cut.grid) <= min(math.prod(c.grid) for c in shared):
        return []
    levels: list[Candidate] = []
    for c in shared:
        if reaches(score, c.tensor, without=[level.tensor for level in levels]):
            levels.append(c)
        if len(levels) > _MOST:
            return []
    if reaches(score, images, without=[c.tensor for c in levels]):
        return []
    roots = [c for c in levels[::-1] if reaches(c.tensor, images, without=[o.tensor for o in levels if o is not c])]
    return roots if len(roots) > 1 else []


def levels_of_encoder(probe: Probe, end: Candidate) -> list[Candidate]:
    """Return the layers of an encoder that its decoder reads, the coarsest last, or only the end of the encoder.

    If connections skip the end of an encoder (U-Net, FPN, SegFormer), the score of a pixel may not depend on that end.
    All layers that the decoder reads carry the score together: every path from the score back to the image passes
    through one of them first.
    """
    before = set(back_from(end.tensor))
    inside = [c for c in probe.candidates if c.keeps_places and not c.collapsed and place_of(c.tensor) in before]
    met = {id(tensor) for tensor in first_met(probe.target, [*(c.tensor for c in inside), end.tensor])}
    levels = [c for c in inside if id(c.tensor) in met]
    return [*levels, end] if id(end.tensor) in met and len(levels) <= _MOST else [end]


def _before_heads(probe: Probe) -> Sequence[Candidate]:
    """Return the layers in place that lie in no head: a module whose parts act on boxes' places or on scores alone.

    Queries, and levels that were joined, are tokens and no grids of a pyramid.
    """
    whole = [c for c in probe.candidates if c.learned and c.layout.grid is None]
    in_place = {probe.name(c): c for c in whole if c.keeps_places and not c.collapsed}
    ends = probe.scores[..., :4].sum(), probe.scores[..., 4].sum()
    gradients = [probe.gradients(end, list(in_place.values())) for end in ends]
    on_one: set[str] = set()
    on_both: set[str] = set()
    for name, *acting in zip(in_place, *gradients, strict=True):
        acts = [gradient is not None and bool(gradient.any()) for gradient in acting]
        if any(acts):
            (on_both if all(acts) else on_one).add(name.rpartition(".")[0] + ".")
    heads = tuple(on_one - on_both)
    return [c for name, c in in_place.items() if not name.startswith(heads)]
