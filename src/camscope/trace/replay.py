"""Running only the part of a network after a layer: what came before it is not computed again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camscope.trace.address import Address
from camscope.trace.hooks import lock_of, tracing
from camscope.trace.structure import map_tensors, tensors

Pick = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tail:
    """The part of a network after a layer, for one batch of inputs.

    It is found without knowing the network: every module that has finished when the layer is recorded belongs to
    the part before it. While `replayed`, those modules hand on what they returned then, and only what follows the
    layer, and the glue between modules, is computed. Since the layer's own output is put in its place by the
    caller, what the modules before it return mostly does not matter: then they hand on zeros that take no memory.

    Attributes:
        inputs: (B, C, *space), or a tuple of inputs.
        outputs: module -> what it returned at each of its calls before the layer, for the whole batch.
        copies: hand on copies rather than views of memory; needed where the network writes into them.
    """

    inputs: Any
    outputs: Mapping[nn.Module, list[Any]]
    copies: bool = False

    @classmethod
    def after(cls, net: nn.Module, layer: str, inputs: Any, *, values: bool = False, copies: bool = False) -> Tail:
        """Run ``net`` once to see which modules finish before ``layer``.

        Args:
            net: any network.
            layer: its layer, see `tracing`.
            inputs: what the network takes.
            values: keep what those modules returned; needed where a path leads around the layer.
            copies: as the attribute.
        """
        finished: list[tuple[nn.Module, Any]] = []
        before: list[tuple[nn.Module, Any]] = []
        starts: list[int] = []
        place = Address.parse(net, layer)

        def enter(_: nn.Module, __: Any) -> None:
            starts.append(len(finished))

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            start = starts.pop()
            if module is place.module or place.module not in set(module.modules()):
                del finished[start:]
                finished.append((module, map_tensors(output, _copy if values else _zeros)))

        def snapshot(output: Tensor) -> Tensor:
            before[:] = finished
            return output

        with contextlib.ExitStack() as stack:
            stack.enter_context(lock_of(net))
            for module in net.modules():
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave).remove)
            stack.enter_context(tracing(net, [layer], edits={layer: snapshot}))
            net(*inputs) if isinstance(inputs, tuple) else net(inputs)
        return cls(inputs, _by_module(before, len(next(tensors(inputs)))), copies)

    @contextlib.contextmanager
    def replayed(self, rows: Tensor) -> Iterator[Any]:
        """Let the modules before the layer answer from memory.

        Args:
            rows: (n,) the image of the batch that each of n replays belongs to.

        Yields:
            The inputs of those images, (n, C, *space), to run the network on.
        """
        pick = _picker(rows, copies=self.copies)
        forwards = {module: _replay(module.forward, outputs, pick) for module, outputs in self.outputs.items()}
        with _stand_ins(forwards):
            yield map_tensors(self.inputs, pick)


@contextlib.contextmanager
def _stand_ins(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let functions compute in place of modules while the context is open."""
    originals: list[tuple[nn.Module, Any]] = []
    try:
        for module, forward in forwards.items():
            originals.append((module, module.__dict__.get("forward")))
            module.forward = forward
        yield
    finally:
        for module, original in originals:
            module.__dict__.pop("forward", None)
            if original is not None:
                module.forward = original


def _copy(output: Tensor) -> Tensor:
    return output.detach().clone()


def _zeros(output: Tensor) -> Tensor:
    return output.new_zeros(1).expand(output.shape)


def _by_module(finished: list[tuple[nn.Module, Any]], batch: int) -> dict[nn.Module, list[Any]]:
    """The outputs of each module; without those that are not one entry an image, which are computed again."""
    grouped: dict[nn.Module, list[Any]] = {}
    for module, output in finished:
        grouped.setdefault(module, []).append(output)
    return {
        module: outputs
        for module, outputs in grouped.items()
        if all(t.ndim > 0 and len(t) == batch for t in tensors(outputs)) and any(True for _ in tensors(outputs))
    }


def _picker(rows: Tensor, *, copies: bool) -> Pick:
    """Rows of a batch; one image repeated, and zeros, are views that take no memory unless copies are wanted."""
    repeated = len(rows) > 0 and bool((rows == rows[0]).all())

    def pick(batch: Tensor) -> Tensor:
        if repeated or batch.stride(0) == 0:
            one = int(rows[0])
            view = batch[one : one + 1].expand(len(rows), *batch.shape[1:])
            return view.clone(memory_format=torch.contiguous_format) if copies else view
        return batch[rows.to(batch.device)]

    return pick


def _replay(forward: Callable[..., Any], outputs: list[Any], pick: Pick) -> Callable[..., Any]:
    left = iter(outputs)

    def replay(*args: Any, **kwargs: Any) -> Any:
        for output in left:
            return map_tensors(output, pick)
        return forward(*args, **kwargs)

    return replay
