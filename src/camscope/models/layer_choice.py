"""Which layer to explain when none is named: decided by what the network does, not by its name.

The answer is the last tensor that still has a place for each part of the picture and through which everything that
the score owes to those places must pass; a probing pass tells.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from camscope.errors import LayerError
from camscope.models.device import hand_back
from camscope.models.probe import Candidate, Probe
from camscope.trace.structure import picture_of

_MOST_TRIALS = 12
_AS_MANY = 0.99
"""The part of the ways through a grid that may leave it on side paths: a class token that looks in from elsewhere."""
_chosen: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], str]] = weakref.WeakKeyDictionary()


def default_layer(net: nn.Module, x: Any, *, picture: int = 0) -> str:
    """Name the layer that is explained when none is given.

    The choice costs one forward pass on five pictures and a part of the backward pass, and is kept for this network
    and input size.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or a tuple of inputs; the first of the batch is used.
        picture: which of several inputs is the picture.

    Returns:
        A module's name, or a functional call such as "relu()".

    Raises:
        LayerError: no tensor of the network has a place for each part of the picture; the message lists the five
            best candidates with their grid sizes.
        SettingError: the input that should be the picture is none.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> default_layer(net, torch.randn(1, 3, 32, 32))
    '1'
    """
    pictures = picture_of(x, picture)
    known = _chosen.setdefault(net, {})
    key = tuple(pictures.shape[1:])
    if key not in known:
        with torch.inference_mode(mode=False), torch.enable_grad():
            known[key] = _choose(net, x, picture)
        hand_back()
    return known[key]


def _choose(net: nn.Module, x: Any, picture: int) -> str:
    """The answer for the network as it is, or else, where its signals die away or zeros cut it, for it revived."""
    probe = Probe(net, x, picture=picture)
    if not _is_alive(probe) or (found := _find(probe)) is None:
        del probe
        probe = Probe(net, x, picture=picture, revived=True)
        found = _find(probe)
    if found is not None:
        return probe.name(found)
    best = [f"{probe.name(c)!r} {c.grid}" for c in probe.candidates[::-1]][:5]
    listed = ", ".join(best) if best else "none has a grid of the picture's shape"
    raise LayerError(f"no layer of {type(net).__name__} was found to explain; name one with layer=: {listed}")


def _is_alive(probe: Probe) -> bool:
    """Whether what happens in the picture is still to be seen in the last tensor that everything leads through."""
    last = next((c for c in reversed(probe.candidates) if probe.is_cut(c)), None)
    return last is None or last.tells


def _find(probe: Probe) -> Candidate | None:
    """The layer to explain.

    It is the last one that every way from picture to scores leads through and that keeps places in place. Where that
    lies in the first half, the network has branches, and it is the last of the main branch. A network that mixes all
    places on the way keeps none: then it is the last that every way leads through. Where nothing but a map of verdicts
    is there, that is the answer.
    """
    if probe.dense:
        return _end_of_trunk(probe)
    last_first = probe.candidates[::-1]
    cuts = [c for c in last_first if probe.is_cut(c)]
    found = _last_in_place(probe, cuts)
    if found is None or found.clock < probe.candidates[-1].clock / 2:
        found = _last_in_place(probe, _main_branch(probe)) or found
    if found is not None:
        return found
    in_place = itertools.islice((c for c in last_first if c.keeps_corners), 2 * _MOST_TRIALS)
    found = next(itertools.chain(_answers(probe, cuts[:_MOST_TRIALS]), _answers(probe, in_place)), None)
    return found or next((c for c in _covered(probe, cuts[:_MOST_TRIALS]) if c.keeps_corners), None)


def _last_in_place(probe: Probe, last_first: Iterable[Candidate]) -> Candidate | None:
    """The first that is an answer and keeps corners, or what carries all of its places further on.

    In a network with a class token the last whose patches act on the score is the end of the block before the last
    one; all that they do there, they do through the norm before the last attention.
    """
    in_place = (c for c in last_first if c.keeps_corners)
    found = next(_answers(probe, itertools.islice(in_place, _MOST_TRIALS)), None)
    if found is None:
        return None
    later = itertools.takewhile(lambda c: c is not found, probe.candidates[::-1])
    alike = (c for c in later if (c.width, c.grid) == (found.width, found.grid) and c.keeps_corners)
    closer = _answers(probe, itertools.islice(alike, 2 * _MOST_TRIALS))
    return next((c for c in closer if probe.carries_all(c, found)), found)


def _main_branch(probe: Probe) -> list[Candidate]:
    """Those that more ways lead through than around, last first, without the insides of blocks.

    What is inside a block has fewer ways through it than what leads into the block, on the same grid.
    """
    most: dict[tuple[int, ...], float] = {}
    for candidate in probe.candidates:
        most[candidate.grid] = max(most.get(candidate.grid, 0.0), probe.share(candidate))
    return [c for c in probe.candidates[::-1] if probe.share(c) > max(0.5, _AS_MANY * most[c.grid])]


def _end_of_trunk(probe: Probe) -> Candidate | None:
    """Where scores are many a picture (a mask, boxes): the stage with the widest layer on the way to the smallest grid.

    That layer is a module's output that all ways from the first tensor of its grid lead through. What follows the
    stage (a decoder, a pyramid, a head) works places out again, and explains less than the backbone's end.
    """
    learned = (c for c in probe.candidates if c.learned)
    in_place = [c for c in learned if c.keeps_corners and c.tells and not _holds_verdicts(probe, c)]
    if not in_place:
        return None
    cells = [c.tensor.shape.numel() // (c.width * len(probe.pictures)) for c in in_place]
    down = in_place[: len(cells) - cells[::-1].index(min(cells))]
    best = sorted(range(len(down)), key=lambda i: (down[i].width, -cells[i], i), reverse=True)
    entries: dict[tuple[int, ...], Candidate] = {}
    for candidate in down:
        entries.setdefault(candidate.grid, candidate)
    ends = (down[i] for i in best if (entry := entries[down[i].grid]) is down[i] or probe.joins(entry, down[i]))
    widest = next((end for end in ends if _covered(probe, [end])), None)
    return None if widest is None else _stage_around(probe, widest, in_place)


def _stage_around(probe: Probe, inside: Candidate, in_place: Sequence[Candidate]) -> Candidate:
    """What the outermost module around a layer returns on the layer's grid: a block, a stage, the backbone.

    Networks that widen inside of their blocks tell more at a block's end.
    """
    of = {id(candidate.tensor): candidate for candidate in in_place}
    returned = {e.name.partition("#")[0]: of[id(e.tensor)] for e in probe.events if id(e.tensor) in of}
    parts = inside.name.partition("#")[0].split(".")
    found = inside
    for depth in range(len(parts) - 1, 0, -1):
        around = returned.get(".".join(parts[:depth]))
        if around is None or around.grid != inside.grid or not (around is found or probe.joins(found, around)):
            break
        found = around
    return found


def _answers(probe: Probe, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Those that a score depends on in nearly all places, and that hold features.

    The first is most often the one, and near the scores: what is asked of it costs a small part of a backward pass.
    """
    waiting = list(candidates)
    for part in (waiting[:1], waiting[1:]):
        yield from (c for c in _covered(probe, part) if not _holds_verdicts(probe, c))


def _covered(probe: Probe, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those where the gradient of all scores reaches three quarters of the first picture's places, of one a tenth.

    A ReLU at the end silences many places for one class, a maximum over the places all but one.
    """
    for score, least in ((probe.target, 0.75), (probe.one, 0.1)):
        pairs = zip(candidates, probe.gradients(score, candidates), strict=True)
        candidates = [c for c, g in pairs if g is not None and (g[0] != 0).any(0).float().mean() >= least]
    return list(candidates)


def _holds_verdicts(probe: Probe, candidate: Candidate) -> bool:
    """Whether it has a channel for each class, and a class's score comes from its own channel: no features."""
    scores = probe.scores
    if scores.ndim not in (2, 4) or candidate.width != scores.shape[1]:
        return False
    (gradient,) = probe.gradients(scores[0, 0].sum(), [candidate])
    return gradient is not None and not bool(gradient[:, 1:].any())
