"""Choose the default layer with a probing pass of the network on test inputs.

The answer is the last feature map that keeps the places of the image and that every path from the image to the scores
passes through. It depends on the structure of the network and the shape of its input, never on weights or images.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from camscope.arguments import checked
from camscope.errors import LayerError
from camscope.models.candidate import Candidate
from camscope.models.placement import is_in_place, selects
from camscope.models.probe import Probe
from camscope.models.probe_cache import Cache, probed_once
from camscope.models.pyramid import levels_of_encoder, levels_of_pyramid
from camscope.trace import Layout
from camscope.trace.graph_paths import Paths, back_from, place_of, reaches
from camscope.trace.layer_path import JOINT
from camscope.trace.pytree import Input

_MOST_TRIALS = 12
_MOST_BRANCHES = 16
_DEEPEST = 24
_AS_MANY = 0.99
"""The part of the paths through a grid that may leave it on side paths: a class token that looks in from elsewhere."""
_NARROW = 8
"""Maximum number of channels at which a ReLU may set most places to 0."""
_STEM = 0.25
"""Share of the learned tensors that may belong to the stem of a network."""


@dataclass(frozen=True)
class LayerChoice:
    """The layer to explain.

    Attributes:
        layers: its name; several names where branches carry the score together.
        layouts: the axes of each.
        complete: whether every path from the image to the scores leads through these layers.
        in_place: whether the places of these layers are those of the image, according to the probe: not mirrored,
            shifted, padded or cropped inside the network, nor mixed.
    """

    layers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    complete: bool = True
    in_place: bool = True

    @property
    def name(self) -> str:
        """Return the names as one: "layer4", or "a.relu + b.relu"."""
        return JOINT.join(self.layers)


_choices: Cache[LayerChoice] = weakref.WeakKeyDictionary()
_layouts: Cache[ProbedLayouts] = weakref.WeakKeyDictionary()


@checked
def default_layer(net: nn.Module, x: Any, *, picture: Input = None, output: int | str | None = None) -> str:
    """Return the name of the default layer.

    The layer is the same for every image, batch size, dtype and set of weights. The choice costs one forward pass on
    five images and a part of the backward pass, and is cached for this network and input size.

    Args:
        net: any network; it is not changed.
        x: (B, C, *space) inputs, or a tuple, list or dict of inputs; only the shape of the images is used.
        picture: which of several inputs is the batch of images: its number, its key, or None for the first.
        output: which of several outputs holds the scores; None to choose as `camscope.trace.unwrap` does.

    Returns:
        A module's name, or a functional call such as "relu()". Several names, "members.0.layer4 + members.1.layer4",
        for an ensemble, for a fusion of branches, for a detector whose boxes come from grids of several sizes, and for
        a segmentation whose decoder reads several layers; their maps are added.

    Raises:
        LayerError: no feature map of the network keeps the places of the image; the message lists the five best
            candidates with their grid sizes.
        SettingError: the input that ``picture`` names is not a batch of images.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> default_layer(net, torch.randn(1, 3, 32, 32))
    '1'
    """
    return choose_layer(net, x, picture=picture, output=output).name


def choose_layer(net: nn.Module, x: Any, *, picture: Input = None, output: int | str | None = None) -> LayerChoice:
    """Choose the layer to explain, with its layout; see `default_layer`."""
    return probed_once(_choices, choice_of, net, x, picture, output)


@dataclass(frozen=True)
class ProbedLayouts:
    """Layouts of all layers with a grid, from the probing pass.

    Attributes:
        names: by the name of the layer.
        shapes: the shape of an output without its batch axis, and a layout that such an output has.
    """

    names: Mapping[str, Layout]
    shapes: Set[tuple[tuple[int, ...], Layout]]

    def layout_of(self, shape: Sequence[int], layer: str | None, possible: Iterable[Layout]) -> Layout | None:
        """Return which of several layouts an output has, by its layer or else its shape; None if it is not known."""
        if layer is not None:
            layout = self.names.get(layer)
            return layout if layout and (without_batch(shape, layout), layout) in self.shapes else None
        return next((option for option in possible if (without_batch(shape, option), option) in self.shapes), None)


def without_batch(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """Return the shape of an output without the axis of the batch."""
    return tuple(n for axis, n in enumerate(shape) if axis != layout.batch)


def probed_layouts(net: nn.Module, x: Any, *, picture: Input = None, output: int | str | None = None) -> ProbedLayouts:
    """Return the layouts of all layers of a network, from a cached probing pass; see `default_layer`."""
    return probed_once(_layouts, _read_layouts, net, x, picture, output)


def _read_layouts(probe: Probe) -> ProbedLayouts:
    layouts = {id(c.tensor): c.layout for c in probe.candidates}
    names = {event.name: layouts[id(event.tensor)] for event in probe.events if id(event.tensor) in layouts}
    return ProbedLayouts(names, {(without_batch(c.tensor.shape, c.layout), c.layout) for c in probe.candidates})


def choice_of(probe: Probe) -> LayerChoice:
    """Choose the layer to explain by a probing pass; see `default_layer`."""
    candidates = _find(probe)
    if not candidates or _is_stem(probe, candidates[0]):
        best = [
            f"{probe.name(candidate)!r} {candidate.grid}"
            for candidate in probe.candidates[::-1]
            if probe.is_readable(candidate)
        ][:5]
        options = ", ".join(best) if best else "none has a grid of the image's shape"
        moved = probe.candidates and not any(candidate.keeps_places for candidate in probe.candidates)
        why = ", since none keeps the places of the image where they are" if moved else ""
        raise LayerError(f"no layer of {probe.network} was found to explain{why}; name one with layer=: {options}")
    return LayerChoice(
        tuple(probe.name(candidate) for candidate in candidates),
        tuple(candidate.layout for candidate in candidates),
        complete=_is_complete(probe, candidates),
        in_place=is_in_place(probe, candidates),
    )


def _find(probe: Probe) -> list[Candidate]:
    """Return the layer to explain, or the layers of several branches.

    It is the last layer that keeps positions and that every path from image to scores passes through. If that layer is
    in the first half, the last layer with a collapsed axis is used, or that of each branch, or the last of the main
    branch. If a network mixes all positions, it is the last layer that every path passes through. If there is only a
    map of class scores, it is that map.
    """
    if probe.dense:
        if levels := levels_of_pyramid(probe):
            return levels
        end = _end_of_trunk(probe)
        return [] if end is None else levels_of_encoder(probe, end)
    last_first = probe.candidates[::-1]
    cuts = [c for c in last_first if probe.is_cut(c)]
    candidate = _last_in_place(probe, [c for c in cuts if not c.collapsed])
    if not _is_late(probe, candidate):
        candidate = _last_in_place(probe, cuts) or candidate
    if not _is_late(probe, candidate):
        if branches := _branches(probe):
            return branches
        candidate = _last_in_place(probe, _main_branch(probe)) or candidate
    if candidate is not None:
        return [candidate]
    in_place = itertools.islice((c for c in last_first if c.keeps_places), 2 * _MOST_TRIALS)
    candidate = next(itertools.chain(_answers(probe, in_place), _answers(probe, cuts[:_MOST_TRIALS])), None)
    candidate = candidate or next((c for c in _covered(probe, cuts[:_MOST_TRIALS]) if c.keeps_places), None)
    return [] if candidate is None else [candidate]


def _is_late(probe: Probe, candidate: Candidate | None) -> bool:
    """Return whether a layer lies in the second half of what the scores depend on."""
    last = next((c for c in reversed(probe.candidates) if probe.share(c) > 0), None)
    return candidate is not None and last is not None and candidate.clock > last.clock / 2


def _is_complete(probe: Probe, candidates: Sequence[Candidate]) -> bool:
    """Return whether every path leads through the layers, or through a tensor whose places lead through them alone."""
    if not reaches(probe.target, probe.images, without=[c.tensor for c in candidates]):
        return True
    (last, *siblings) = candidates
    before = [c for c in probe.candidates if c.clock < last.clock and c.grid == last.grid and probe.is_cut(c)]
    return not siblings and any(probe.carries_all(last, cut) for cut in before[-1:])


def _is_stem(probe: Probe, candidate: Candidate) -> bool:
    """Return whether a layer is the stem, and later tensors have places that could not be tested."""
    learned = [e for e in probe.events if e.learned and e.tensor.grad_fn is not None and probe.is_cut(e)]
    later = [e for e in learned if e.clock > candidate.clock]
    if len(learned) - len(later) >= _STEM * len(learned):
        return False
    in_place_ids = {id(c.tensor) for c in probe.candidates if c.keeps_places}
    unknown = [e for e in later if id(e.tensor) not in in_place_ids and _has_places(e.tensor, len(probe.images))]
    return bool(unknown) and not any(id(e.tensor) in in_place_ids for e in later)


def _has_places(tensor: Tensor, images: int) -> bool:
    """Return whether a tensor has more than one value per image and channel."""
    return tensor.ndim > 2 and tensor.numel() > images * max(tensor.shape[1:])


def _last_in_place(probe: Probe, last_first: Iterable[Candidate]) -> Candidate | None:
    """Return the first that is an answer and keeps places, or what carries all of its places further on.

    In a network with a class token the last whose patches act on the score is the end of the block before the last
    one; all that they do there, they do through the norm before the last attention.
    """
    in_place = (c for c in last_first if c.keeps_places)
    candidate = next(_answers(probe, itertools.islice(in_place, _MOST_TRIALS)), None)
    if candidate is None:
        return None
    later = itertools.takewhile(lambda c: c is not candidate, probe.candidates[::-1])
    alike = (c for c in later if (c.width, c.grid) == (candidate.width, candidate.grid) and c.keeps_places)
    closer = _answers(probe, itertools.islice(alike, 2 * _MOST_TRIALS))
    return next((c for c in closer if probe.carries_all(c, candidate)), candidate)


def _branches(probe: Probe) -> list[Candidate]:
    """Return the last layer of each of several branches that carry the scores together; nothing if they do not.

    None may feed another: then the sum of their maps, coarser ones laid over the finest grid, is the map of the score;
    for Grad-CAM of a mean of networks it is exact.
    """
    ends = _ends_of_branches(probe, Paths(probe.target, probe.images), _DEEPEST)
    ends = sorted({id(c.tensor): c for c in ends}.values(), key=lambda c: c.clock)
    if not 2 <= len(ends) <= _MOST_BRANCHES:
        return []
    if any(reaches(a.tensor, b.tensor) for a, b in itertools.permutations(ends, 2)):
        return []
    return [] if reaches(probe.target, probe.images, without=[c.tensor for c in ends]) else ends


def _ends_of_branches(probe: Probe, paths: Paths, depth: int) -> list[Candidate]:
    """Return the last layers in place on the way to an end of the graph, branch by branch."""
    cuts = [c for c in probe.candidates[::-1] if paths.through(c.tensor) == paths.all]
    candidate = _last_in_place(probe, cuts)
    if candidate is not None:
        return [candidate]
    if depth == 0:
        return []
    ends: list[Candidate] = []
    for head in itertools.islice(paths.heads(), _MOST_BRANCHES + 1):
        below = _ends_of_branches(probe, Paths(head, probe.images), depth - 1)
        if not below:
            return []
        ends += below
    return ends


def _main_branch(probe: Probe) -> list[Candidate]:
    """Return the candidates with more paths through than around them, last first, without layers inside blocks.

    A layer inside a block has fewer paths than the input of the block on the same grid.
    """
    most: dict[tuple[int, ...], float] = {}
    for candidate in probe.candidates:
        most[candidate.grid] = max(most.get(candidate.grid, 0.0), probe.share(candidate))
    return [c for c in probe.candidates[::-1] if probe.share(c) > max(0.5, _AS_MANY * most[c.grid])]


def _end_of_trunk(probe: Probe) -> Candidate | None:
    """Return the stage with the widest layer on the way to the smallest grid, for scores per pixel, box or query.

    That layer is a module's output that all paths from the first tensor of its grid lead through, and that all scores
    depend on: with heads on several grids, those of the finer ones too. What follows the stage (a decoder, a pyramid,
    a head) works places out again, and explains less than the backbone's end.
    """
    learned = (c for c in probe.candidates if c.learned and not _is_of_queries(probe, c))
    in_place = [c for c in learned if c.keeps_places and c.tells and not _holds_class_scores(probe, c)]
    in_place = [c for c in in_place if not c.collapsed] or in_place
    if not in_place:
        return None
    cells = [math.prod(c.grid) for c in in_place]
    down = in_place[: len(cells) - cells[::-1].index(min(cells))]
    best = sorted(range(len(down)), key=lambda i: (down[i].width, -cells[i], i), reverse=True)
    entries = {grid: _entry(down, grid) for grid in {c.grid for c in down}}
    ends = [down[i] for i in best if (entry := entries[down[i].grid]) is down[i] or probe.joins(entry, down[i])]
    widest, most = None, 0.0
    for end in ends[: 2 * _MOST_TRIALS]:
        if most < 1 and _covered(probe, [end]) and (share := probe.dependent_scores(end)) > most:
            widest, most = end, share
    return None if widest is None else _stage_around(probe, widest, in_place)


def _entry(down: Sequence[Candidate], grid: tuple[int, ...]) -> Candidate:
    """Return the first layer of a stage: attention on coarse keys has the grid of a later stage, and goes back."""
    of_grid = [candidate for candidate in down if candidate.grid == grid]
    finer = [candidate for candidate in down if math.prod(candidate.grid) > math.prod(grid)]
    before_grid = _places_before(of_grid)
    returned = _places_before([candidate for candidate in finer if place_of(candidate.tensor) in before_grid])
    return next((candidate for candidate in of_grid if place_of(candidate.tensor) not in returned), of_grid[0])


def _places_before(candidates: Sequence[Candidate]) -> set[Any]:
    """Return the places in the graph that some tensors are computed from."""
    places: set[Any] = set()
    for candidate in reversed(candidates):
        places.update(list(back_from(candidate.tensor, until=places)))
    return places


def _is_of_queries(probe: Probe, candidate: Candidate) -> bool:
    """Return whether a tensor holds tokens that look like a grid by chance: most tensors of as many keep no places."""
    if candidate.layout.grid is None:
        return False
    alike = [c for c in probe.candidates if c.layout.grid is not None and c.places == candidate.places]
    return sum(c.keeps_places for c in alike) < len(alike) / 2


def _stage_around(probe: Probe, inside: Candidate, in_place: Sequence[Candidate]) -> Candidate:
    """Return what the outermost module around a layer returns on the layer's grid: a block, a stage, the backbone.

    In networks with wide layers inside blocks, the end of a block is more informative.
    """
    of = {id(candidate.tensor): candidate for candidate in in_place}
    returned = {event.name.partition("#")[0]: of[id(event.tensor)] for event in probe.events if id(event.tensor) in of}
    parts = inside.name.partition("#")[0].split(".")
    block = inside
    for depth in range(len(parts) - 1, 0, -1):
        around = returned.get(".".join(parts[:depth]))
        if around is None or around.grid != inside.grid:
            break
        if around is not block and not (probe.joins(block, around) and probe.dependent_scores(around)):
            break
        block = around
    return block


def _answers(probe: Probe, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield the candidates that a score depends on at nearly all positions, and that hold features.

    Usually the first candidate is the result. It is near the scores, so the test costs a small part of a backward pass.
    """
    waiting = list(candidates)
    for part in (waiting[:1], waiting[1:]):
        yield from (candidate for candidate in _covered(probe, part) if not _holds_class_scores(probe, candidate))


def _covered(probe: Probe, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those where the gradient of all scores reaches half of the first image's places, of one score a tenth.

    A ReLU at the end silences many places for one class, and a pool the border. A maximum over the places, or the best
    k of them, leaves a few, which depend on the image: there any place will do.
    """
    for score, least in ((probe.target, 0.5), (probe.one, 0.1)):
        pairs = zip(candidates, probe.gradients(score, candidates), strict=True)
        shares = [(c, 0.0 if g is None else float((g[0] != 0).any(0).float().mean())) for c, g in pairs]
        enough = [(c, share, least if c.width > _NARROW else 0.1) for c, share in shares]
        candidates = [c for c, share, least in enough if share >= least or (share > 0 and selects(probe, c))]
    return list(candidates)


def _holds_class_scores(probe: Probe, candidate: Candidate) -> bool:
    """Return whether a candidate holds class scores: one channel per class, and each score depends on its own channel.

    Score maps with another order of axes, or without the axis of a single class, count too.
    """
    scores = probe.scores
    if probe.returned and scores.ndim > 2 and scores.numel() == candidate.tensor.numel():
        (gradient,) = probe.gradients(scores[0].flatten()[0], [candidate])
        return gradient is not None and int((gradient != 0).sum()) == 1
    if not probe.returned or scores.ndim not in (2, 4) or candidate.width != scores.shape[1]:
        return False
    (gradient,) = probe.gradients(scores[0, 0].sum(), [candidate])
    return gradient is not None and not bool(gradient[:, 1:].any())
