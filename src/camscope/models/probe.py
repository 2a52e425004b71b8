"""Probing pass: record every tensor of a network for an image and for changes to it.

The network is a copy with test weights and runs on test images (`stand_ins`). So the result depends only on its
structure and the shape of its input, not on images, batch or weights. The autograd graph is kept to find the tensors
that the scores depend on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import LayerError
from camscope.models.candidate import Candidate
from camscope.models.stand_ins import StandIns, probe_inputs
from camscope.models.watch import Event, version_of, watch
from camscope.trace import tensors
from camscope.trace.graph_paths import Paths, nodes_from, place_of, reaches
from camscope.trace.layout import find_layout, fits, is_last, possible_layouts
from camscope.trace.pytree import map_tensors, picture_of
from camscope.trace.replica import replicate

_MOVES = re.compile("Pool|PadNd|Pow|Exp(?!and)|Log(?!Sigmoid)|Sqrt")
"""Steps of the graph that learn nothing: pooling, with the powers of generalised means, and padding."""
_MOST_TOKENS = 16
"""Maximum number of class and register tokens next to those of a signal."""
_REDUCES = re.compile("Pool|Mean|Sum|Max|Min|Median|Amax|Amin|Logsumexp")
"""Steps that may reduce an axis without learned weights."""


class Probe:
    """One probing pass of a network.

    Attributes:
        network: the name of the network's class.
        images: (1 + n, C, *space) an image, and the same with each of n corners changed; leaves of the graph.
        scores: what the network returned, before a last softmax or sigmoid; where that does not depend on the images
            (nothing was detected), the last tensor that a module with parameters returned.
        returned: whether the scores are what the network returned.
        target: the sum of all scores, each with another weight.
        one: a single class's score, of all images; the target where the scores are not one row per image.
        dense: whether there are many rows of scores per image: one per pixel, box or query.
        events: every tensor in order.
        candidates: those that have a place for each part of the image.
    """

    def __init__(self, net: nn.Module, x: Any, *, picture: int = 0, output: int | str | None = None) -> None:
        """Run a copy of the network.

        Args:
            net: any network; it is only read.
            x: (B, C, *space) inputs, or a tuple, list or dict of inputs; of the images only the shape is used.
            picture: number of the images among the tensors of the inputs.
            output: which of several outputs holds the scores.
        """
        self.network = type(net).__name__
        shape = picture_of(x, picture).shape
        self.frames_first = _has_frames_first(net, shape)
        self._space = [1, *range(3, len(shape))] if self.frames_first else list(range(2, len(shape)))
        returned, scores = self._run(net, x, picture, output)
        self._last = is_last(net)
        is_list = isinstance(returned, list)
        are_rows = is_list and all(isinstance(item, Tensor) for item in returned) and len(scores) == len(self.images)
        self.dense = scores.ndim > 2 or (is_list and not are_rows)
        learned = (event.tensor for event in reversed(self.events) if event.learned)
        ends = itertools.chain([scores], tensors(returned), learned)
        self.scores = next(filter(self._depends_on_images, ends), scores)
        if not self.scores.requires_grad:
            raise LayerError(
                f"the scores of {self.network} have no gradient by its images (quantised weights, argmax, NumPy or "
                "detach inside), so no layer can be chosen; use a method that needs none, such as occlusion or rise, "
                "or name a layer with layer= for a method that needs activations alone"
            )
        self.returned = self.scores is scores
        self.target = _weighted(self.scores)
        self.one = (
            self.target
            if self.dense or not self.returned
            else self.scores.flatten(1)[:, int(self.scores[0].argmax())].sum()
        )
        self._paths = Paths(self.target, self.images)
        self._grids: set[tuple[int, ...]] = set()
        self._prefixes: dict[tuple[int, tuple[int, ...]], int] = {}
        self._orders: dict[int, bool] = {}
        self._with_places = self._nodes_with_places()
        self.candidates = self._candidates()

    def _run(self, net: nn.Module, x: Any, picture: int, output: int | str | None) -> tuple[Any, Tensor]:
        """Run a copy in float32; in its own dtype where its code casts to that; on the user's image, as the last way.

        A network may check the range of its images, and refuse ours.
        """
        own_dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
        *ways, last = dict.fromkeys(
            [(torch.float32, False), (own_dtype, False), (torch.float32, True), (own_dtype, True)]
        )
        for dtype, users_image in ways:
            with contextlib.suppress(Exception):
                return self._run_in(dtype, net, x, picture, output, users_image=users_image)
        return self._run_in(last[0], net, x, picture, output, users_image=last[1])

    def _run_in(
        self, dtype: torch.dtype, net: nn.Module, x: Any, picture: int, output: int | str | None, *, users_image: bool
    ) -> tuple[Any, Tensor]:
        """Run a copy in one dtype."""
        batch = len(picture_of(x, picture))
        inputs, self._corners = probe_inputs(
            x, picture, space=self._space, batch=batch, dtype=dtype, users_image=users_image
        )
        leaves = map_tensors(inputs, lambda tensor: tensor.requires_grad_(tensor.is_floating_point()))
        self.images = picture_of(leaves, picture)
        copy = replicate(net, StandIns(net, dtype), dtype=dtype)
        self.events, returned, scores = watch(copy, leaves, batch=len(self.images), output=output)
        if scores.ndim < 2:
            scores = scores.reshape(len(self.images) if scores.numel() == len(self.images) else 1, -1)
        return returned, scores

    @property
    def space(self) -> tuple[int, ...]:
        """Return the number of pixels per axis."""
        return tuple(self.images.shape[axis] for axis in self._space)

    def _depends_on_images(self, tensor: Tensor) -> bool:
        if tensor.numel() == 0 or not tensor.is_floating_point() or tensor.grad_fn is None:
            return False
        if self.dense and len(tensor) == len(self.images) and torch.equal(tensor[0], tensor[1]):
            return False  # no boxes in either
        return reaches(tensor, self.images)

    def _candidates(self) -> list[Candidate]:
        """Return each tensor with a grid once, where it was first returned; an activation in place is its layer's."""
        learned = {id(event.tensor) for event in self.events if event.learned}
        candidates: dict[int, Candidate] = {}
        for candidate in filter(None, map(self._candidate, self.events)):
            candidate.learned = id(candidate.tensor) in learned
            candidates.setdefault(id(candidate.tensor), candidate)
            if candidate.layout.grid is None:
                self._grids.add(candidate.grid)
        return list(candidates.values())

    def _candidate(self, event: Event) -> Candidate | None:
        """Return the event with its layout, if its tensor has a grid, is its own, and was not overwritten.

        Of several layouts the first is taken in which places are kept. Tokens after the grid are only believed in where
        the network had that very grid before, as after the convolution that makes patches.
        """
        tensor = event.tensor
        if version_of(tensor) != event.version or tensor.grad_fn is None or (tensor._is_view() and not event.learned):
            return None
        if (
            _MOVES.search(_made_by(tensor))
            or _is_floor(tensor)
            or place_of(tensor)[0] not in self._with_places
            or _is_leaf_copy(tensor)
        ):
            return None
        images, space = self.images.shape, self.space
        if self.frames_first:
            images = torch.Size((images[0], images[2], images[1], *images[3:]))
        first: Candidate | None = None
        for any_stride in (False, True):
            options = dict.fromkeys(possible_layouts(tensor.shape, images, last=self._last, any_stride=any_stride))
            layouts = [
                layout for layout in options if layout.frames == 1 or layout.frame_major == self._is_frame_major(tensor)
            ]
            readings = (
                Candidate(**vars(event), layout=layout, space=space, corners=self._corners) for layout in layouts
            )
            possible = [
                reading
                for reading in readings
                if _is_grid(reading) and (not reading.has_more_tokens or reading.grid in self._grids)
            ]
            if len(possible) == 1 and possible[0].layout.grid is None:
                return possible[0]
            first = first or next(iter(possible), None)
            in_place = [reading for reading in possible if reading.keeps_places]
            if in_place and in_place[0].layout.grid is None:
                return self._best_of_axes(in_place)
            if in_place:
                return self._best_of_tokens(in_place[0], possible)
        return first

    def _best_of_axes(self, readings: Sequence[Candidate]) -> Candidate:
        """Return which of several readings of the axes shows the corners most clearly, for signals, where many fit.

        The halves of a bidirectional LSTM's features answer to the start and end of a signal, as its places do. Tokens
        of a signal, (B, N, K), that are a few more than an earlier grid has places are that grid and class tokens.
        """
        if len(self.space) > 1:
            return readings[0]
        clearest = max(
            (reading for reading in readings if reading.layout.grid is None), key=lambda reading: reading.contrast
        )
        if clearest.layout.channel == 1 or clearest.grid in self._grids:
            return clearest
        tokens = [
            dataclasses.replace(clearest, layout=dataclasses.replace(clearest.layout, grid=grid, prefix=prefix))
            for grid in self._grids
            if 0 < (extra := clearest.grid[0] - grid[0]) <= _MOST_TOKENS
            for prefix in (extra, 0)
        ]
        return max(
            (reading for reading in tokens if reading.keeps_places),
            key=lambda reading: reading.at_corners,
            default=clearest,
        )

    def _is_frame_major(self, tensor: Tensor) -> bool:
        """Return whether the second row of a batch of frames is of the second image, and not the first one's."""
        rows = tensor.shape[0]
        if rows not in self._orders:
            second = tensor[1].sum() if rows > 1 else tensor.sum()
            (gradient,) = torch.autograd.grad(second, self.images, retain_graph=True, allow_unused=True)
            of = [] if gradient is None else gradient.flatten(1).any(1).nonzero().flatten().tolist()
            self._orders[rows] = of == [1]
        return self._orders[rows]

    def _nodes_with_places(self) -> set[Any]:
        """Return the nodes of the graph that the images reach other than through means over all of their places."""
        tensors = [event.tensor for event in self.events if event.tensor.grad_fn is not None]
        collapsed = [tensor for tensor in tensors if _is_collapsed(tensor, axes=min(2, len(self.space)))]
        return nodes_from(self.images, tensors, without=collapsed)

    def _best_of_tokens(self, first: Candidate, possible: Sequence[Candidate]) -> Candidate:
        """Return which of several readings of tokens as one grid has the corners where they are.

        Tokens before and after the grid shift it by a cell or more. What is found for the first tensor, whose places
        are not mixed yet, holds for the later ones with as many tokens.
        """
        readings = [
            reading
            for reading in possible
            if reading.layout.grid is not None and reading.grid == first.grid and reading.keeps_places
        ]
        if len(readings) < 2:
            return first
        key = (first.places, first.grid)
        if key not in self._prefixes:
            self._prefixes[key] = max(readings, key=lambda reading: reading.at_corners).layout.prefix
        return next((reading for reading in readings if reading.layout.prefix == self._prefixes[key]), first)

    def is_cut(self, event: Event) -> bool:
        """Return whether every path from the images to the scores leads through a tensor."""
        return self._paths.through(event.tensor) == self._paths.all

    def is_readable(self, candidate: Candidate) -> bool:
        """Return whether a user who names a layer gets its map: its shape says where its axes lie."""
        try:
            find_layout(candidate.tensor.shape, self.images.shape, layer=candidate.name, last=self._last)
        except LayerError:
            return False
        return True

    def share(self, event: Event) -> float:
        """Return the share of the paths from the images to the scores that leads through a tensor, in [0, 1]."""
        return self._paths.through(event.tensor) / max(1, self._paths.all)

    def gradients(self, score: Tensor, candidates: Sequence[Candidate]) -> list[Tensor | None]:
        """Return derivatives of a score as (images, K, *grid), from one backward pass; None where there is none."""
        layer_tensors = [candidate.tensor for candidate in candidates]
        derivatives = (
            torch.autograd.grad(score, layer_tensors, retain_graph=True, allow_unused=True) if layer_tensors else ()
        )
        pairs = zip(derivatives, candidates, strict=True)
        return [None if gradient is None else candidate.layout.read(gradient) for gradient, candidate in pairs]

    def dependent_scores(self, candidate: Candidate) -> float:
        """Return the share of some scores, evenly drawn from all, that depend on a candidate."""
        images = len(self.images)
        if len(self.scores) != images:  # one row per box, of all images together
            return 1.0
        flat = self.scores.reshape(images, -1)
        places = torch.linspace(0, flat.shape[1] - 1, 2 * images).round().long().to(flat.device)
        depend = 0.0
        for part in places.split(images):
            (gradient,) = self.gradients(flat.gather(1, part[:, None]).sum(), [candidate])
            depend += 0.0 if gradient is None else float(gradient.flatten(1).any(1).float().mean())
        return depend / 2

    def carries_all(self, candidate: Candidate, source: Candidate) -> bool:
        """Return whether the places of ``source`` lead to the scores through ``candidate`` alone."""
        handle = candidate.tensor.register_hook(torch.zeros_like)
        try:
            (gradient,) = self.gradients(self.target, [source])
        finally:
            handle.remove()
        return gradient is None or not bool(gradient.any())

    def joins(self, first: Event, last: Event) -> bool:
        """Return whether every path from one tensor to the scores leads through another."""
        return not reaches(self.target, first.tensor, without=[last.tensor])

    def name(self, event: Event) -> str:
        """Return the outermost module that hands the very tensor on before anything else is computed."""
        aliases = [e for e in self.events if e.tensor is event.tensor and e.version == event.version]
        first = aliases[0]
        at_once = (e for e in aliases if e.clock == first.clock)
        around = [e for e in at_once if e is first or e.name.partition("#")[0] in first.around]
        return min(around, key=lambda e: len(e.around)).name


def _weighted(scores: Tensor) -> Tensor:
    """Return the sum of all scores, each with another weight."""
    per_picture = scores.shape[1:].numel()
    weights = torch.linspace(1, 2, per_picture, device=scores.device)
    return (scores.reshape(-1, per_picture) * weights).sum()


def _made_by(tensor: Tensor) -> str:
    """Return the name of the step that computed a tensor; of a view, that of the tensor which it views."""
    step = (tensor if tensor._base is None else tensor._base).grad_fn
    return "" if step is None else step.name()


def _is_floor(tensor: Tensor) -> bool:
    """Return whether a tensor was only kept above a small number, as before the power of a generalised mean."""
    return "Clamp" in _made_by(tensor) and (getattr(tensor.grad_fn, "_saved_min", None) or 0) > 0


def _is_collapsed(tensor: Tensor, *, axes: int) -> bool:
    """Return whether a tensor is a mean, sum or maximum over all places of an image or of its frames."""
    step = tensor.grad_fn
    if step is None or not _REDUCES.search(step.name()):
        return False
    over = getattr(step, "_saved_dim", ())
    return all(cells == 1 for cells in tensor.shape[2:]) or (isinstance(over, tuple) and len(over) >= axes > 1)


def _is_leaf_copy(tensor: Tensor) -> bool:
    """Return whether a tensor is a copy of the images, as an encoder returns before its features."""
    step = tensor.grad_fn
    while step is not None and "Clone" in step.name():
        step = step.next_functions[0][0]
    return step is not None and "AccumulateGrad" in step.name()


def _is_grid(candidate: Candidate) -> bool:
    """Return whether a tensor has several places, and one axis without places only where a layer learned that.

    Features per frame or slice have no places in the image.
    """
    grid = candidate.grid[-len(candidate.space) :]
    if math.prod(candidate.grid) < 2 or sum(cells < 2 for cells in grid) > 1:
        return False
    if min(grid) >= 2:
        return True
    if fits(grid, candidate.space) or math.prod(candidate.grid) < 4:
        return False  # the whole image is nearly one cell
    return not _REDUCES.search(_made_by(candidate.tensor))


def _has_frames_first(net: nn.Module, shape: torch.Size) -> bool:
    """Return whether 5-D inputs are (B, T, C, H, W): the channels are those that the first convolution takes."""
    if len(shape) != 5 or shape[1] == shape[2]:
        return False
    kernels = (parameter for parameter in net.parameters() if parameter.ndim in (4, 5))
    first = next(kernels, None)
    channels = None if first is None else first.shape[1]
    if channels in (shape[1], shape[2]):
        return channels == shape[2]
    return shape[2] in (1, 3) and shape[1] not in (1, 3)
