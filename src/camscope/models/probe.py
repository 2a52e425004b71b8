"""A probing pass: what a network does with a picture and changes to it, told tensor by tensor.

One forward pass on a picture and the same with each of its corners changed, with the autograd graph kept: the tensors
in order, their shapes, where the corners show in them, and which of them the scores depend on.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from camscope.trace import Layout, tensors, tracing, unwrap
from camscope.trace.layout import grid_of, guess_layout, is_last
from camscope.trace.structure import first_tensor, map_tensors, picture_of

_CORNERS = tuple(itertools.product((True, False), (True, False)))
"""The corners of a picture: whether at the top, and whether at the left."""
_MARGIN = 1.1
"""How much more a changed corner must show in its own corner of a grid than in another: less is chance."""
_NOISE = 0.6
"""Of the picture's own deviation: more upsets attention everywhere, and less drowns in what gates do everywhere."""
_MOVES = re.compile("Pool|PadNd")
"""Steps of the graph that compute nothing of their own: pools and padding."""
_COPIES = {"contiguous", "clone", "to"}
"""Functions that hand the same values on, in another place or order of memory."""
_SHIFTS = ("bias", "beta")
"""Parameters that are added, as PyTorch and Keras call them: at zero they hide nothing."""
_RESOLVED = 1e-4
"""The least relative change that single precision can tell from rounding after many layers."""


@dataclass(eq=False)
class Event:
    """A tensor that a module returned, or a function that a module called.

    Attributes:
        name: of the module, or of the call, as `Address` reads it.
        tensor: what was returned, in the graph.
        version: of the tensor at that time.
        clock: number of function calls before.
        learned: whether a module with parameters returned it.
    """

    name: str
    tensor: Tensor
    version: int
    clock: int
    learned: bool


@dataclass(eq=False)
class Candidate(Event):
    """An event whose tensor has a place for each part of the picture."""

    layout: Layout = field(default_factory=Layout)

    @property
    def grid(self) -> tuple[int, ...]:
        """(h, w), or as many axes as the picture has."""
        return grid_of(self.tensor.shape, self.layout)

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.tensor.shape[self.layout.channel]

    @cached_property
    def change(self) -> Tensor:
        """(4, K, *grid) what a changed corner of the picture changes, beyond what it changes everywhere."""
        grids = self.layout.read(self.tensor.detach()).float()
        change = grids[1:] - grids[:1]
        everywhere = change.flatten(2).median(2).values
        return change - everywhere.view(*everywhere.shape, *[1] * (change.ndim - 2))

    @cached_property
    def tells(self) -> bool:
        """Whether the changed corners show at all: signals die away in some networks as they are made."""
        largest = float(self.change.abs().max())
        return largest > max(1e-30, _RESOLVED * float(self.tensor.detach().abs().max()))

    @cached_property
    def keeps_corners(self) -> bool:
        """Whether each changed corner of the picture shows in that corner of the grid, more than changes elsewhere do.

        Some places answer more than others to whatever is changed, at the rim and where gates scale what is large.
        So each quarter's share of a change is compared with its mean share of all four. On fewer than 4 cells a side
        every cell sees most of the picture, and nothing can be told; yet as few tokens may be no places at all.
        """
        change = self.change.abs().sum(1)
        if change.ndim != 3 or (min(change.shape[1:]) < 4 and self.layout.grid is None):
            return True
        quarters = torch.stack([_at(change, corner, 2).mean((1, 2)) for corner in _CORNERS], 1)
        shares = quarters / quarters.sum(1, keepdim=True).clamp_min(1e-30)
        answers = shares / shares.mean(0).clamp_min(1e-30)
        elsewhere = answers.masked_fill(torch.eye(len(_CORNERS), dtype=torch.bool, device=answers.device), 0)
        return bool((answers.diagonal() >= _MARGIN * elsewhere.amax(1)).all())


class Probe:
    """One probing pass of a network.

    Attributes:
        pictures: (5, C, *space) the picture, and the same with each corner changed; leaves of the graph.
        scores: what the network returned, before a last softmax or sigmoid; where that does not depend on the pictures
            (nothing was detected), the last tensor that a module with parameters returned.
        target: the sum of all scores, each with another weight.
        one: a single class's score, of all pictures; the target where the scores are not one row a picture.
        dense: whether there are many rows of scores a picture: one a pixel, a box or a query.
        events: every tensor in order.
        candidates: those that have a place for each part of the picture.
    """

    def __init__(self, net: nn.Module, x: Any, *, picture: int = 0, revived: bool = False) -> None:
        """Run the network.

        Args:
            net: any network; it is left bit-identical.
            x: (B, C, *space) inputs, or a tuple of inputs; the first of the batch is used.
            picture: which of several inputs is the picture.
            revived: give stand-ins to the parameters that are all zero, and to batch norms the statistics of these
                pictures: both hide how a network is connected that was never trained.
        """
        leaves = map_tensors(_altered(x, picture), lambda t: t.requires_grad_(t.is_floating_point()))
        self.pictures = picture_of(leaves, picture)
        self.events, returned, given = _watch(net, leaves, revived=revived)
        self._last = is_last(net)
        self.dense = given.ndim > 2 or isinstance(returned, list)
        learned = (event.tensor for event in reversed(self.events) if event.learned)
        ends = itertools.chain([given], tensors(returned), learned)
        self.scores = next(filter(self._depends_on_pictures, ends), given)
        self.target = _weighted(self.scores)
        self.one = self.target if self.dense else self.scores.flatten(1)[:, int(self.scores[0].argmax())].sum()
        self._paths = _Paths(self.target, self.pictures)
        self.candidates = self._candidates()

    def _depends_on_pictures(self, tensor: Tensor) -> bool:
        if tensor.numel() == 0 or not tensor.is_floating_point() or tensor.grad_fn is None:
            return False
        if self.dense and len(tensor) == len(self.pictures) and torch.equal(tensor[0], tensor[1]):
            return False  # no box was found in either
        return _reaches(tensor, self.pictures)

    def _candidates(self) -> list[Candidate]:
        """Each tensor with a grid once, where it was first returned; an activation in place is its layer's output."""
        learned = {id(event.tensor) for event in self.events if event.learned}
        found: dict[int, Candidate] = {}
        for candidate in filter(None, map(self._candidate, self.events)):
            candidate.learned = id(candidate.tensor) in learned
            found.setdefault(id(candidate.tensor), candidate)
        return list(found.values())

    def _candidate(self, event: Event) -> Candidate | None:
        """The event with its layout, if its tensor has a grid, was not overwritten, and is no pool and no mere view."""
        tensor = event.tensor
        layout = guess_layout(tensor.shape, self.pictures.shape, last=self._last)
        if layout is None or min(grid_of(tensor.shape, layout)) < 2:
            return None
        if _version(tensor) != event.version or tensor.grad_fn is None or _MOVES.search(_made_by(tensor)):
            return None
        if tensor._is_view() and not event.learned:
            return None
        return Candidate(**vars(event), layout=layout)

    def is_cut(self, event: Event) -> bool:
        """Whether every way from the pictures to the scores leads through a tensor."""
        return self._paths.through(get_gradient_edge(event.tensor)) == self._paths.all

    def share(self, event: Event) -> float:
        """How many of the ways from the pictures to the scores lead through a tensor, in [0, 1]."""
        return self._paths.through(get_gradient_edge(event.tensor)) / max(1, self._paths.all)

    def gradients(self, score: Tensor, candidates: Sequence[Candidate]) -> list[Tensor | None]:
        """Derivatives of a score as (pictures, K, *grid), in one backward pass; None for a tensor that it needs not."""
        wanted = [candidate.tensor for candidate in candidates]
        found = torch.autograd.grad(score, wanted, retain_graph=True, allow_unused=True) if wanted else ()
        pairs = zip(found, candidates, strict=True)
        return [None if gradient is None else candidate.layout.read(gradient) for gradient, candidate in pairs]

    def carries_all(self, candidate: Candidate, source: Candidate) -> bool:
        """Whether the places of ``source`` lead to the scores through ``candidate`` alone."""
        handle = candidate.tensor.register_hook(torch.zeros_like)
        try:
            (left,) = self.gradients(self.target, [source])
        finally:
            handle.remove()
        return left is None or not bool(left.any())

    def joins(self, first: Event, last: Event) -> bool:
        """Whether every way from one tensor to the scores leads through another."""
        return not _reaches(self.target, first.tensor, without=last.tensor)

    def name(self, event: Event) -> str:
        """The outermost module that hands the very tensor on before anything else is computed."""
        same = [e for e in self.events if e.tensor is event.tensor and e.version == event.version]
        first = same[0]
        at_once = (e for e in same if e.clock == first.clock)
        around = [e for e in at_once if (first.name + ".").startswith(e.name.partition("#")[0] + ".") or e is first]
        return min((e.name for e in around), key=len)


def _weighted(scores: Tensor) -> Tensor:
    """The sum of all scores, each with another weight."""
    per_picture = scores.shape[1:].numel()
    weights = torch.linspace(1, 2, per_picture, device=scores.device)
    return (scores.reshape(-1, per_picture) * weights).sum()


def _made_by(tensor: Tensor) -> str:
    """Name of the step of the graph that computed a tensor; of a view, that of the tensor which it views."""
    step = (tensor if tensor._base is None else tensor._base).grad_fn
    return "" if step is None else step.name()


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; tensors made in inference mode do not count that."""
    try:
        return tensor._version
    except RuntimeError:
        return 0


def _altered(x: Any, picture: int) -> Any:
    """Copies of the first image; in all but the first a corner is replaced by its mirror image and noise."""
    copies = map_tensors(x, lambda t: torch.cat([t[:1]] * (1 + len(_CORNERS))).detach().clone())
    pictures = picture_of(copies, picture)
    if pictures.is_floating_point():
        generator, level = torch.Generator().manual_seed(0), _NOISE * pictures.std()
        for one, place in zip(pictures[1:], _CORNERS, strict=True):
            corner = _at(one, place, 4)
            noise = torch.randn(corner.shape, generator=generator).to(corner)
            corner.copy_(corner.flip(-1) + noise * (level if level > 0 else 0.5))
    return copies


def _at(values: Tensor, corner: tuple[bool, bool], part: int) -> Tensor:
    """A corner of (..., h, w): the n-th part of either side."""
    (top, left), (h, w) = corner, (max(1, n // part) for n in values.shape[-2:])
    return values[..., slice(h) if top else slice(-h, None), slice(w) if left else slice(-w, None)]


class _Functions(TorchFunctionMode):
    """Lists the results of the functions that modules call directly, and counts every call."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self.events, self.clock = events, 0
        self.begun: int | None = None
        self.owners: list[str] = []
        self.counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_set_grad_enabled":
            return None  # a network's own no_grad() would hide how it is connected
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "__").rstrip("_")
        if name.startswith("__") or name in _COPIES:
            return result
        self.clock += 1
        if isinstance(result, Tensor) and self.owners:
            place = self.numbered(f"{self.owners[-1]}.{name}()".lstrip("."))
            if result.is_floating_point() and not result._is_view():
                self.events.append(Event(place, result, _version(result), self.clock, learned=False))
        return result

    def numbered(self, place: str) -> str:
        """A place's name with the number of this call."""
        call = self.counts.get(place, 0)
        self.counts[place] = call + 1
        return f"{place}#{call}"

    def short(self, name: str) -> str:
        """A call's name without its number where it was the last of its kind."""
        place, _, call = name.partition("#")
        return place if call and int(call) == self.counts[place] - 1 else name


def _watch(net: nn.Module, leaves: Any, *, revived: bool) -> tuple[list[Event], Any, Tensor]:
    """Run the network with the graph kept, and list what every module returned and every function gave, in order.

    Also what the network returned, and the scores in it before a last softmax, which hides gradients where it is sure.
    """
    events: list[Event] = []
    names = {module: name for name, module in net.named_modules()}
    functions = _Functions(events)

    def enter(module: nn.Module, args: Any) -> None:
        functions.owners.append(names[module])
        if functions.begun is None and next(module.parameters(recurse=False), None) is not None:
            functions.begun = len(events)
        if revived and isinstance(module, _BatchNorm):
            _settle(module, args[0].detach())

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        functions.owners.pop()
        first = first_tensor(output)
        if first is not None and names[module]:
            learned = next(module.parameters(), None) is not None
            place = functions.numbered(names[module])
            events.append(Event(place, first.tensor, _version(first.tensor), functions.clock, learned))

    with contextlib.ExitStack() as stack:
        recording = stack.enter_context(tracing(net, []))
        for module in net.modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        inputs = map_tensors(leaves, torch.clone)
        with functions:
            returned = functional_call(net, dict(_stand_ins(net)) if revived else {}, inputs)
    del events[: functions.begun or 0]  # before its first weights a network only prepares its pictures
    for event in events:
        event.name = functions.short(event.name)
    return events, returned, recording.logits(unwrap(returned))[0]


def _settle(norm: _BatchNorm, values: Tensor) -> None:
    """Give a batch norm the statistics of its input; `unchanged` puts its own back."""
    axes = [axis for axis in range(values.ndim) if axis != 1]
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean = values.mean(axes).to(norm.running_mean)
        norm.running_var = values.var(axes, unbiased=False).to(norm.running_var)


def _stand_ins(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Random values for the parameters that are all zero, which hide how an untrained network is connected."""
    generator = torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        if p.is_floating_point() and not p.detach().any() and not name.endswith(_SHIFTS):
            yield name, torch.randn(p.shape, generator=generator).mul(0.1).to(p)


def _reaches(scores: Tensor, start: Tensor, *, without: Tensor | None = None) -> bool:
    """Whether the autograd graph leads from the scores back to a tensor, on a way around another one."""
    source, end = get_gradient_edge(start), get_gradient_edge(scores)
    blocked = None if without is None else get_gradient_edge(without)
    waiting, seen = [end.node], {end.node}
    while waiting:
        for following, output in waiting.pop().next_functions:
            if following is None or (blocked and following == blocked.node and output == blocked.output_nr):
                continue
            if following == source.node and output == source.output_nr:
                return True
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return False


class _Paths:
    """Counts the ways from the scores back to the picture, and those through a place in the autograd graph."""

    def __init__(self, scores: Tensor, pictures: Tensor) -> None:
        self._source = get_gradient_edge(pictures).node
        start = get_gradient_edge(scores)
        order = self._from_the_end(start.node)
        self._onward: dict[Node, int] = {}
        for node in order:
            ways = (self._onward[following] for following, _ in node.next_functions if following is not None)
            self._onward[node] = 1 if node == self._source else sum(ways)
        self._into: Counter[tuple[Node, int]] = Counter({(start.node, start.output_nr): 1})
        arrived: Counter[Node] = Counter({start.node: 1})
        for node in reversed(order):
            for following, output in node.next_functions:
                if following is not None:
                    self._into[following, output] += arrived[node]
                    arrived[following] += arrived[node]
        self.all = self._onward[start.node]

    def through(self, place: GradientEdge) -> int:
        """How many ways lead through a place."""
        return self._into[place.node, place.output_nr] * self._onward.get(place.node, 0)

    @staticmethod
    def _from_the_end(start: Node) -> list[Node]:
        """Every node after all the nodes that it leads on to."""
        order: list[Node] = []
        entered, waiting = {start}, [(start, iter(start.next_functions))]
        while waiting:
            node, following = waiting[-1]
            onward = next((n for n, _ in following if n is not None and n not in entered), None)
            if onward is None:
                order.append(node)
                waiting.pop()
            else:
                entered.add(onward)
                waiting.append((onward, iter(onward.next_functions)))
        return order
