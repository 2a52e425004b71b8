"""Which layer to explain when none is named: decided by what the network does, not by its name.

The answer is the last tensor that still has a place for each part of the picture and through which everything that
the score owes to those places must pass. One forward pass on two small pictures, the second with a changed corner,
tells: the tensors in order, their shapes, the autograd graph between them, and where the corner shows.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from camscope.errors import LayerError
from camscope.trace import Layout, unchanged, unwrap
from camscope.trace.layout import grid_of, guess_layout
from camscope.trace.structure import first_tensor, map_tensors

_MOST_TRIALS = 12
_chosen: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], str]] = weakref.WeakKeyDictionary()


def default_layer(net: nn.Module, x: Any, *, picture: int = 0) -> str:
    """Name the layer that is explained when none is given.

    The choice costs one forward and one backward pass on two pictures, and is kept for this network and input size.

    Args:
        net: any network.
        x: (B, C, *space) inputs, or a tuple of inputs; the first of the batch is used.
        picture: which of several inputs is the picture.

    Returns:
        A module's name, or a functional call such as "relu()".

    Raises:
        LayerError: no tensor of the network has a place for each part of the picture; the message lists the five
            best candidates with their grid sizes.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> default_layer(net, torch.randn(1, 3, 32, 32))
    '1'
    """
    pictures = x[picture] if isinstance(x, tuple) else x
    known = _chosen.setdefault(net, {})
    key = tuple(pictures.shape[1:])
    if key not in known:
        with torch.inference_mode(mode=False), torch.enable_grad():
            known[key] = _choose(net, _probe(x, picture), picture)
    return known[key]


@dataclass(eq=False)
class _Event:
    """A tensor that a module returned, or a function that a module called."""

    name: str
    tensor: Tensor
    version: int
    clock: int
    learned: bool
    layout: Layout = field(default_factory=Layout)


@dataclass
class _Facts:
    """What a probing pass started from and ended in: leaf pictures, scores, and one number made of all scores."""

    pictures: Tensor
    scores: Tensor
    target: Tensor


def _choose(net: nn.Module, x: Any, picture: int) -> str:
    candidates: list[_Event] = []
    for as_it_is in (True, False):
        events, facts = _watch(net, x, picture, {} if as_it_is else _without_zeros(net))
        candidates = [c for e in events if (c := _as_candidate(e, facts)) is not None]
        found = _find(candidates, facts)
        if found is not None:
            return _outermost(found, events)
    best = [f"{c.name!r} {grid_of(c.tensor.shape, c.layout)}" for c in candidates[::-1]][:5]
    listed = ", ".join(best) if best else "none has a grid of the picture's shape"
    raise LayerError(f"no layer of {type(net).__name__} was found to explain; name one with layer=: {listed}")


def _as_candidate(event: _Event, facts: _Facts) -> _Event | None:
    """The event with its layout, if its tensor has a grid, was not overwritten, and is more than a pool or a view."""
    tensor = event.tensor
    layout = guess_layout(tensor.shape, facts.pictures.shape)
    if layout is None or min(grid_of(tensor.shape, layout)) < 2:
        return None
    if tensor._version != event.version or tensor.grad_fn is None or "Pool" in tensor.grad_fn.name():
        return None
    if tensor._is_view() and not event.learned:
        return None
    return replace(event, layout=layout)


def _holds_verdicts(event: _Event, scores: Tensor) -> bool:
    """Whether it has a channel for each class, and a class's score comes from its own channel: no features."""
    channels = event.tensor.shape[event.layout.channel]
    if scores.ndim != 2 or channels != scores.shape[1]:
        return False
    gradient = _gradient(scores[0, 0], event.tensor)
    return gradient is not None and not bool(event.layout.read(gradient)[:, 1:].any())


def _find(candidates: list[_Event], facts: _Facts) -> _Event | None:
    """The last candidate that all the places of an earlier cut lead through, and that keeps places in place.

    A network that mixes all places on the way (LeViT's downsampling) keeps none: then the last cut is the answer. One
    of several branches (CrossViT) has no cut: then it is the last tensor that every place still acts through. And where
    nothing but a map of verdicts is there, that is the answer.
    """
    last_first = candidates[::-1]
    in_place = [c for c in last_first if _keeps_corner(c)]
    cuts = (c for c in in_place if _is_cut(c, facts))
    for cut in itertools.islice(cuts, _MOST_TRIALS):
        if _is_answer(cut, facts):
            later = itertools.takewhile(lambda c, cut=cut: c is not cut, in_place)  # type: ignore[misc]
            closer = (c for c in later if _width(c) == _width(cut) and _is_answer(c, facts))
            return next((c for c in closer if _carries_all(c, cut, facts)), cut)
    cuts = (c for c in last_first if _is_cut(c, facts))
    for candidate in itertools.chain(itertools.islice(cuts, _MOST_TRIALS), in_place[: 2 * _MOST_TRIALS]):
        if _is_answer(candidate, facts):
            return candidate
    return next((c for c in in_place if _is_cut(c, facts) and _covers(c, facts.target)), None)


def _is_cut(event: _Event, facts: _Facts) -> bool:
    """Whether every way from the pictures to the scores leads through this tensor."""
    return not _reaches(facts.target, facts.pictures, without=event.tensor)


def _is_answer(event: _Event, facts: _Facts) -> bool:
    return _covers(event, facts.target) and not _holds_verdicts(event, facts.scores)


def _width(event: _Event) -> int:
    return event.tensor.shape[event.layout.channel]


def _covers(event: _Event, target: Tensor) -> bool:
    """Whether the gradient reaches at least three quarters of the places."""
    gradient = _gradient(target, event.tensor)
    return gradient is not None and bool((event.layout.read(gradient) != 0).any(1).float().mean() >= 0.75)


def _carries_all(candidate: _Event, cut: _Event, facts: _Facts) -> bool:
    """Whether the places of ``cut`` lead to the scores through ``candidate`` alone."""
    handle = candidate.tensor.register_hook(torch.zeros_like)
    try:
        left = _gradient(facts.target, cut.tensor)
    finally:
        handle.remove()
    return left is None or not bool(cut.layout.read(left).any())


def _gradient(score: Tensor, tensor: Tensor) -> Tensor | None:
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(score, tensor, retain_graph=True, allow_unused=True)
    return gradient


def _reaches(scores: Tensor, pictures: Tensor, *, without: Tensor) -> bool:
    """Whether the autograd graph leads from the scores to the pictures on a way around one tensor."""
    source = torch.autograd.graph.get_gradient_edge(pictures).node
    blocked = torch.autograd.graph.get_gradient_edge(without)
    start = torch.autograd.graph.get_gradient_edge(scores)
    waiting, seen = [start.node], set()
    while waiting:
        node = waiting.pop()
        if node == source:
            return True
        for following, output in node.next_functions:
            if following is None or following in seen or (following == blocked.node and output == blocked.output_nr):
                continue
            seen.add(following)
            waiting.append(following)
    return False


def _keeps_corner(event: _Event) -> bool:
    """Whether the change in the second picture's top right corner shows most in that corner of the grid.

    On fewer than 4 cells a side every cell sees most of the picture, and nothing can be told.
    """
    grids = event.layout.read(event.tensor.detach()).float()
    if grids.ndim != 4 or min(grids.shape[2:]) < 4:
        return True
    change = (grids[1] - grids[0]).abs().sum(0)
    h, w = (max(1, n // 2) for n in change.shape)
    corners = [change[:h, :w].mean(), change[-h:, :w].mean(), change[-h:, -w:].mean()]
    return bool(change[:h, -w:].mean() > max(corners))


def _outermost(event: _Event, events: list[_Event]) -> str:
    """The outermost module that hands the very tensor on before anything else is computed."""
    same = [e for e in events if e.tensor is event.tensor and e.version == event.version]
    first = same[0]
    around = [e for e in same if e.clock == first.clock and (first.name + ".").startswith(e.name + ".")]
    return min((e.name for e in around if e.name), key=len, default=first.name)


def _probe(x: Any, picture: int) -> Any:
    """Two copies of the first image, the top right corner of the second one replaced by its mirror image and noise."""
    pair = map_tensors(x, lambda t: torch.cat([t[:1], t[:1]]).detach().clone())
    pictures = pair[picture] if isinstance(pair, tuple) else pair
    if pictures.is_floating_point():
        h, w = (max(1, n // 4) for n in pictures.shape[-2:])
        corner = pictures[1, ..., :h, -w:]
        noise = torch.randn(corner.shape, generator=torch.Generator().manual_seed(0)).to(corner)
        corner.copy_(corner.flip(-1) + noise * pictures.std().clamp_min(0.5))
    return pair


class _Functions(TorchFunctionMode):
    """Lists the results of the functions that modules call directly, and counts every call."""

    def __init__(self, events: list[_Event]) -> None:
        super().__init__()
        self.events, self.clock = events, 0
        self.owners: list[str] = []
        self.counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_set_grad_enabled":
            return None  # a network's own no_grad() would hide how it is connected
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "__").rstrip("_")
        if name.startswith("__"):
            return result
        self.clock += 1
        if isinstance(result, Tensor) and self.owners:
            place = f"{self.owners[-1]}.{name}()".lstrip(".")
            call = self.counts.get(place, 0)
            self.counts[place] = call + 1
            if result.is_floating_point() and not result._is_view():
                self.events.append(_Event(f"{place}#{call}", result, result._version, self.clock, learned=False))
        return result

    def short(self, name: str) -> str:
        """A call's name without its number where it was the last of its kind."""
        place, _, call = name.partition("#")
        return place if call and int(call) == self.counts[place] - 1 else name


def _watch(net: nn.Module, x: Any, picture: int, parameters: Mapping[str, Tensor]) -> tuple[list[_Event], _Facts]:
    """Run the network with the graph kept, and list what every module returned and every function gave, in order."""
    events: list[_Event] = []
    names = {module: name for name, module in net.named_modules()}
    functions = _Functions(events)

    def enter(module: nn.Module, _: Any) -> None:
        functions.owners.append(names[module])

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        functions.owners.pop()
        first = first_tensor(output)
        if first is not None and names[module]:
            learned = next(module.parameters(), None) is not None
            events.append(_Event(names[module], first.tensor, first.tensor._version, functions.clock, learned))

    with contextlib.ExitStack() as stack:
        stack.enter_context(unchanged(net))
        for module in net.modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        leaves = map_tensors(x, lambda t: t.requires_grad_(t.is_floating_point()))
        inputs = map_tensors(leaves, torch.clone)
        with functions:
            returned = functional_call(net, dict(parameters), inputs)
    for event in events:
        event.name = functions.short(event.name)
    scores = unwrap(returned)
    weights = torch.linspace(1, 2, scores[0].numel(), device=scores.device).view(scores[0].shape)
    return events, _Facts(leaves[picture] if isinstance(leaves, tuple) else leaves, scores, (scores * weights).sum())


def _without_zeros(net: nn.Module) -> dict[str, Tensor]:
    """Stand-ins for the parameters that are all zero, which hide how an untrained network is connected."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(p.shape, generator=generator).mul(0.1).to(p)
        for name, p in net.named_parameters()
        if p.is_floating_point() and not p.detach().any() and not name.endswith("bias")
    }
