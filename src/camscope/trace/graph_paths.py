"""Find paths in the autograd graph, from a score back to layers and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


def _following(node: Node) -> Sequence[tuple[Node | None, int]]:
    """Return the next nodes of a node, towards the inputs; none if its derivative is not implemented (int8 weights)."""
    return () if "NotImplemented" in node.name() else node.next_functions


def edge_of(place: Tensor | GradientEdge) -> GradientEdge:
    """Return the gradient edge of a tensor."""
    return get_gradient_edge(place) if isinstance(place, Tensor) else place


def place_of(tensor: Tensor) -> tuple[Node, int]:
    """Return the node of a tensor in the graph, and the index among the node's outputs."""
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def back_from(end: Tensor | GradientEdge, *, until: Container[tuple[Node, int]] = ()) -> Iterator[tuple[Node, int]]:
    """Yield the nodes that an end is computed from, some more than once; paths stop at nodes in ``until``."""
    start = edge_of(end).node
    waiting, entered = [start], {start}
    while waiting:
        for node, output in _following(waiting.pop()):
            if node is None:
                continue
            yield node, output
            if node not in entered and (node, output) not in until:
                entered.add(node)
                waiting.append(node)


def reaches(end: Tensor | GradientEdge, start: Tensor, *, without: Sequence[Tensor] = ()) -> bool:
    """Return whether a path leads from an end back to a tensor without passing through some others."""
    source, last, blocked = place_of(start), edge_of(end), {place_of(tensor) for tensor in without}
    if source in blocked or (last.node, last.output_nr) in blocked:
        return False
    return any(place == source for place in back_from(end, until=blocked))


def nodes_from(start: Tensor, ends: Sequence[Tensor], *, without: Sequence[Tensor]) -> set[Node]:
    """Return the nodes between a start and some ends, on paths that do not pass through some other tensors."""
    users: dict[Node, list[tuple[int, Node]]] = {}
    waiting = [edge_of(end).node for end in ends]
    entered = set(waiting)
    while waiting:
        user = waiting.pop()
        for node, output in _following(user):
            if node is not None:
                users.setdefault(node, []).append((output, user))
                if node not in entered:
                    entered.add(node)
                    waiting.append(node)
    blocked = {place_of(tensor) for tensor in without}
    first = place_of(start)[0]
    reached, waiting = {first}, [first]
    while waiting:
        node = waiting.pop()
        for output, user in users.get(node, ()):
            if (node, output) not in blocked and user not in reached:
                reached.add(user)
                waiting.append(user)
    return reached


def first_met(end: Tensor, among: Sequence[Tensor]) -> list[Tensor]:
    """Return those of some tensors that a path from the end reaches before any other of them.

    >>> first = Tensor([1.0]).requires_grad_()
    >>> second = first * 2
    >>> [t is second for t in first_met(second * 3, [first, second])]
    [True]
    >>> len(first_met(second * first, [first, second]))
    2
    """
    by_place = {place_of(tensor): tensor for tensor in among}
    met = {place: by_place[place] for place in back_from(end, until=by_place) if place in by_place}
    return list(met.values())


def parts_of_whole(end: Tensor, layers: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Return, for each of several layers, the later ones that contain a part of its effect.

    Layers count as parts if each has a path to the end that avoids all others. For layers in a row, the result is
    empty.

    >>> first = Tensor([1.0]).requires_grad_()
    >>> second = first * 2
    >>> parts_of_whole(second * first, {"first": first, "second": second})
    {'first': ('second',), 'second': ()}
    >>> parts_of_whole(second * 3, {"first": first, "second": second})
    {'first': (), 'second': ()}
    """
    if not end.requires_grad or not all(tensor.requires_grad for tensor in layers.values()):
        return dict.fromkeys(layers, ())
    later: dict[str, tuple[str, ...]] = {}
    for name, tensor in layers.items():
        later[name] = tuple(layer for layer, output in layers.items() if layer != name and reaches(output, tensor))
        if not reaches(end, tensor, without=[layers[layer] for layer in later[name]]):
            return dict.fromkeys(layers, ())
    return later


class Paths:
    """Counts of paths from a score back to the images, in total and through a node of the graph.

    Attributes:
        all: number of paths.
    """

    def __init__(self, end: Tensor | GradientEdge, images: Tensor) -> None:
        self._source = get_gradient_edge(images).node
        start = edge_of(end)
        order = self._from_the_end(start.node)
        self._onward: dict[Node, int] = {}
        for node in order:
            ways = (self._onward[following] for following, _ in _following(node) if following is not None)
            self._onward[node] = 1 if node == self._source else sum(ways)
        self._into: Counter[tuple[Node, int]] = Counter({(start.node, start.output_nr): 1})
        arrived: Counter[Node] = Counter({start.node: 1})
        for node in reversed(order):
            for following, output in _following(node):
                if following is not None:
                    self._into[following, output] += arrived[node]
                    arrived[following] += arrived[node]
        self.all = self._onward[start.node]
        self._start = start

    def through(self, place: Tensor) -> int:
        """Return the number of paths through a tensor."""
        node, output = place_of(place)
        return self._into[node, output] * self._onward.get(node, 0)

    def heads(self) -> Iterator[GradientEdge]:
        """Yield the nodes where paths branch first, from the score backwards."""
        node = self._start.node
        while True:
            onward = [(n, output) for n, output in _following(node) if n is not None and self._onward.get(n)]
            if len(onward) != 1:
                break
            node = onward[0][0]
        for following, output in onward:
            yield GradientEdge(following, output)

    @staticmethod
    def _from_the_end(start: Node) -> list[Node]:
        """Return all nodes in topological order, from the inputs to the score."""
        order: list[Node] = []
        entered, waiting = {start}, [(start, iter(_following(start)))]
        while waiting:
            node, following = waiting[-1]
            onward = next((n for n, _ in following if n is not None and n not in entered), None)
            if onward is None:
                order.append(node)
                waiting.pop()
            else:
                entered.add(onward)
                waiting.append((onward, iter(_following(onward))))
        return order
