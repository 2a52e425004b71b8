"""Packed engine: convolutions and linear layers before the layer are fused with the operations after them.

One pass is watched to find them: a convolution whose result is used only by a batch normalisation, whose result is
used only by an addition, and so on. In later passes the packed product computes all of these, and the fused functions,
which torch still calls, return its result. A product that is fused with an addition starts when the other summand
is available. See `products`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camscope.errors import EngineError
from camscope.models.engines.products import ACTS, NONE, RELU, Convolution, Linear, Norm, Run, can_pack
from camscope.models.engines.thin import thin
from camscope.trace import tracing
from camscope.trace.hooks import Edit
from camscope.trace.pytree import call as call_net
from camscope.trace.pytree import map_tensors, picture_of, tensors

_PRODUCTS: Mapping[str, Any] = {"conv2d": Convolution, "linear": Linear}
_MANY = 8
"""Repack when the batch grows by this factor. Afterwards a single image takes up to twice the time, so the five images
of an augmentation do not trigger it."""

_OUTSIDE = {"hook", "return"}
"""Names for uses of a tensor outside the watched functions."""

_FACTS = {"size", "dim", "ndimension", "numel", "__len__", "__get__"}
"""Names of functions that return properties which the packed result has too."""


@dataclass
class Packed:
    """The packed products of a network.

    Attributes:
        products: weight -> what computes its product and what follows.
        batch: images that they are packed for: with another number oneDNN may want another order of the weights, and
            arrange some of them anew at every call.
    """

    products: Mapping[Tensor, Product]
    batch: int

    @contextlib.contextmanager
    def __call__(self, inputs: Any) -> Iterator[Mapping[str, Edit]]:
        """Use them while the context is open; for much larger batches than before, pack again."""
        images = len(picture_of(inputs))
        if images > _MANY * self.batch:
            self.products = {weight: product.packed(images) for weight, product in self.products.items()}
            self.batch = images
        with _PackedMode(self.products):
            yield {}


@dataclass(frozen=True)
class Product:
    """A product and its fused operations.

    Attributes:
        make: packs it for a number of images.
        run: computes it.
        follows: the names of the functions whose work is done then, in order.
        shape: of its result, without the batch.
    """

    make: Callable[[int], Run]
    run: Run
    follows: tuple[str, ...]
    shape: tuple[int, ...]

    def packed(self, images: int) -> Product:
        """Return the same, packed for a number of images."""
        return replace(self, run=self.make(images))


@dataclass(frozen=True)
class _Pending:
    """A tensor that already includes later operations.

    Attributes:
        follows: names of the included operations.
        product: what computes it when the other summand is there, and what that is given, as often written to.
    """

    follows: tuple[str, ...]
    product: tuple[Run, Tensor, int] | None = None


class _PackedMode(TorchFunctionMode):
    """Mode that computes packed products when torch's functions are called, and returns results that exist already."""

    def __init__(self, products: Mapping[Tensor, Product]) -> None:
        super().__init__()
        self.products = products
        self.ahead: dict[int, tuple[Tensor, _Pending]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if self.ahead and name not in _FACTS:
            pending = [tensor for tensor in _direct(args, kwargs) if id(tensor) in self.ahead]
            if pending:
                return self._hand_on(pending, name, args, in_place=func is Tensor.add_)
        if name in _PRODUCTS and len(args) > 1:
            if args[1] in self.products:
                return self._start(self.products[args[1]], args[0])
            result = thin(*args, **kwargs) if name == "linear" else None
            if result is not None:
                return result
        return func(*args, **kwargs)

    def _start(self, product: Product, x: Tensor) -> Tensor:
        """Return the result, or a placeholder until the other summand is available."""
        if "add" not in product.follows:
            return self._remember(product.run(x, None), _Pending(product.follows))
        stand_in = x.new_empty(1).expand(len(x), *product.shape)
        return self._remember(stand_in, _Pending(product.follows, (product.run, x, _version(x))))

    def _hand_on(self, pending: list[Tensor], name: str, args: Any, *, in_place: bool) -> Tensor:
        x = pending[0]
        if "dropout" in name:
            return x
        ahead = self.ahead.pop(id(x))[1]
        if name != ahead.follows[0] or len(pending) > 1:
            raise EngineError(f"{name} is called where {ahead.follows[0]} was before; use engine='eager'")
        if ahead.product is not None and name == "add":
            run, inputs, version = ahead.product
            if _version(inputs) != version:
                raise EngineError("the network writes into what a convolution was given; use engine='eager'")
            (summand,) = [tensor for tensor in args if tensor is not x]
            total = run(inputs, summand)
            x = x.set_(total) if in_place else total  # type: ignore[call-overload]
        return self._remember(x, _Pending(ahead.follows[1:], ahead.product))

    def _remember(self, x: Tensor, ahead: _Pending) -> Tensor:
        if ahead.follows:
            self.ahead[id(x)] = x, ahead
        return x


def pack(net: nn.Module, x: Any, *, layer: str, batch: int = 1) -> Packed:
    """Fold and pack the products before a layer.

    Args:
        net: any network.
        x: one image, (1, C, h, w), or a tuple of inputs.
        layer: its layer, see `tracing`; what runs after it is left alone, since gradients flow there.
        batch: images in the passes to come.

    Returns:
        The products; none where there is nothing to pack.
    """
    recording = _watch(net, x, layer)
    weight_ids = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    times = Counter(id(call.args[1]) for call in recording.calls if call.is_product)
    fused_calls: set[_Call] = set()
    packed: dict[Tensor, Product] = {}
    for call in reversed(recording.calls[: recording.before]):  # of two summands, the later one includes the addition
        if not call.is_product or id(call.args[1]) not in weight_ids or times[id(call.args[1])] > 1:
            continue
        of = _PRODUCTS[call.name].of(*call.args, **call.kwargs)
        if of is not None:
            chain = list(itertools.takewhile(lambda link: link not in fused_calls, recording.chain(call)))
            fused_calls.update(chain)
            packed[call.args[1]] = _product(of, call, chain, batch=batch)
    return Packed(packed, batch)


def _product(of: Convolution | Linear, product: _Call, chain: list[_Call], *, batch: int) -> Product:
    norm, act = None, NONE
    for call in chain:
        if call.name == "batch_norm":
            norm = Norm.of(*call.args, **call.kwargs)
        elif call.name in ACTS:
            act = ACTS[call.name](*call.args, **call.kwargs)
    make = functools.partial(of.packed, norm, act)
    returned = torch.empty(0) if product.returned is None else product.returned
    follows, shape = tuple(link.name for link in chain), tuple(returned.shape[1:])
    return Product(make, make(batch), follows, shape)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a torch function; its tensors with their version counters at that time."""

    name: str
    args: Any
    kwargs: Any
    given: list[tuple[Tensor, int]]
    returned: Tensor | None
    version: int

    @property
    def is_product(self) -> bool:
        return self.name in _PRODUCTS and len(self.args) > 1


@dataclass
class _PassCalls:
    """The calls of one pass, in order; those before index ``before`` came before the layer.

    ``waits`` are the spans of calls in which a convolution is to wait for another summand.
    """

    calls: list[_Call] = field(default_factory=list)
    before: int = 0
    waits: list[tuple[int, int]] = field(default_factory=list)

    def chain(self, product: _Call) -> list[_Call]:
        """Return what follows a product and can be computed with it: normalisation, addition, activation."""
        chain: list[_Call] = []
        while (call := self._only_user((chain or [product])[-1])) is not None and self._fits(product, chain, call):
            chain.append(call)
        return chain

    @functools.cached_property
    def _users(self) -> dict[tuple[int, int], list[int]]:
        users: dict[tuple[int, int], list[int]] = {}
        for index, call in enumerate(self.calls):
            for tensor, version in call.given:
                users.setdefault((id(tensor), version), []).append(index)
        return users

    def _only_user(self, call: _Call) -> _Call | None:
        users = self._users.get((id(call.returned), call.version), [])
        return self.calls[users[0]] if len(users) == 1 and users[0] < self.before else None

    def _fits(self, product: _Call, chain: list[_Call], call: _Call) -> bool:
        before = [link.name for link in chain]
        convolves = product.name == "conv2d"
        if call.name == "batch_norm":
            return convolves and not before and Norm.of(*call.args, **call.kwargs) is not None
        if call.name == "add":
            return convolves and not {"add", *ACTS} & {*before} and self._takes(product, (chain or [product])[-1], call)
        if call.name not in ACTS or ACTS.keys() & before:
            return False
        return "add" not in before or ACTS[call.name](*call.args, **call.kwargs) is RELU

    def _takes(self, product: _Call, last: _Call, addition: _Call) -> bool:
        """Return whether a convolution may wait for the other summand and write its result there."""
        pair = addition.args
        if len(pair) != 2 or addition.kwargs or not all(isinstance(t, Tensor) for t in pair) or pair[0] is pair[1]:
            return False
        output, summand = pair if pair[0] is last.returned else pair[::-1]
        in_place = addition.returned is pair[0]
        if (
            output.shape != summand.shape
            or not (can_pack(output) and can_pack(summand))
            or (in_place and output is not pair[0])
        ):
            return False
        start, end = self.calls.index(product), self.calls.index(addition)
        if not self._is_free(summand, product, start, end) or any(s < end and start < e for s, e in self.waits):
            return False
        self.waits.append((start, end))
        return True

    def _is_free(self, summand: Tensor, product: _Call, start: int, end: int) -> bool:
        """Return whether a summand was computed in this pass and may be overwritten, and the product's inputs stay."""
        x, version = product.given[0]
        is_written = any(call.returned is x and call.version != version for call in self.calls[start:end])
        is_made = any(call.returned is summand for call in self.calls[:end])
        later = [*self.calls[end + 1 :], *(call for call in self.calls if call.name in _OUTSIDE)]
        is_used = _shared(x, summand) or any(_shared(tensor, summand) for call in later for tensor, _ in call.given)
        return is_made and not is_written and not is_used


def _watch(net: nn.Module, x: Any, layer: str) -> _PassCalls:
    """Run a network once; arguments of other hooks count as used."""
    recording = _PassCalls()

    def outside(name: str, *what: Any) -> None:
        recording.calls.append(_Call(name, (), {}, [(tensor, _version(tensor)) for tensor in tensors(what)], None, 0))

    def reached(output: Tensor) -> Tensor:
        recording.before = len(recording.calls)
        return output

    with contextlib.ExitStack() as stack:
        for module in net.modules():
            if module._forward_hooks or module._forward_pre_hooks:
                stack.callback(module.register_forward_hook(lambda _, *what: outside("hook", *what)).remove)
        stack.enter_context(_Watcher(recording.calls))
        stack.enter_context(tracing(net, [layer], edits={layer: reached}))
        x = map_tensors(x, lambda tensor: tensor.clone() if tensor.is_inference() else tensor)
        outside("return", call_net(net, x))
    return recording


class _Watcher(TorchFunctionMode):
    def __init__(self, calls: list[_Call]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, _name(func)
        inputs = [(t, t._version) for t in _direct(args, kwargs) if not t.is_inference()]
        result = func(*args, **kwargs)
        output = result if isinstance(result, Tensor) else None
        nothing_done = (
            "dropout" in name and output is not None and any(output is t and output._version == v for t, v in inputs)
        )
        if inputs and not nothing_done and (output is not None or name not in _FACTS):
            self.calls.append(_Call(name, args, kwargs, inputs, output, 0 if output is None else _version(output)))
        return result


def _shared(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors lie in the same memory."""
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    return "add" if name == "add_" else name


def _direct(args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments, also in lists."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, Tensor))
