"""Run only the part of a network after a layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from camscope.trace.hooks import tracing
from camscope.trace.layer_path import Address
from camscope.trace.pytree import call, map_tensors, tensors

Pick = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tail:
    """The part of a network after a layer, for one batch of inputs.

    It is found without knowing the network: every module that has finished when the layer is recorded belongs to
    the part before it. In a copy of the network, those modules return what they returned then, and only what follows
    the layer, and the code between modules, is computed. Since the layer's own output is put in its place by the
    caller, what the modules before it return mostly does not matter: then they return zeros that take no memory.

    Attributes:
        net: the copy of the network; the network itself is never changed, so other threads can go on using it.
        inputs: (B, C, *space), or a tuple, list or dict of inputs.
        batch: number of images.
        outputs: module of the copy -> what it returned at each of its calls before the layer, for the whole batch.
        copies: return copies rather than views of memory; needed where the network writes into them.
    """

    net: nn.Module
    inputs: Any
    batch: int
    outputs: Mapping[nn.Module, list[Any]] = field(default_factory=dict)
    copies: bool = False

    @classmethod
    def after(
        cls, net: nn.Module, layer: str, inputs: Any, *, batch: int, values: bool = False, copies: bool = False
    ) -> Tail:
        """Run a copy of a network once to see which modules finish before a layer.

        Args:
            net: a copy from `replicate`, which the tail keeps.
            layer: its layer, see `tracing`.
            inputs: what the network takes.
            batch: number of images.
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
            for module in net.modules():
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave).remove)
            stack.enter_context(tracing(net, [layer], edits={layer: snapshot}))
            call(net, inputs)
        return cls(net, inputs, batch, _by_module(before, batch), copies)

    @contextlib.contextmanager
    def replayed(self, rows: Tensor) -> Iterator[Any]:
        """Let the modules of the copy that come before the layer answer from memory.

        Args:
            rows: (n,) the image of the batch that each of n replays belongs to.

        Yields:
            The inputs of those images, (n, C, *space), to run the copy on.
        """
        pick = _picker(rows, self.batch, copies=self.copies)
        originals = [(module, module.__dict__.get("forward")) for module in self.outputs]
        try:
            for module, outputs in self.outputs.items():
                module.forward = _replay(module.forward, outputs, pick)
            yield map_tensors(self.inputs, pick)
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
    """Group outputs by module, without those that are not one entry per image, which are computed again."""
    grouped: dict[nn.Module, list[Any]] = {}
    for module, output in finished:
        grouped.setdefault(module, []).append(output)
    return {
        module: outputs
        for module, outputs in grouped.items()
        if all(t.ndim > 0 and len(t) == batch for t in tensors(outputs)) and any(True for _ in tensors(outputs))
    }


def _picker(rows: Tensor, images: int, *, copies: bool) -> Pick:
    """Pick rows of a batch; one image repeated, and zeros, are views that take no memory unless copies are wanted."""
    repeated = len(rows) > 0 and bool((rows == rows[0]).all())

    def pick(batch: Tensor) -> Tensor:
        if batch.ndim == 0 or len(batch) != images:
            return batch
        if repeated or batch.stride(0) == 0:
            row = int(rows[0])
            view = batch[row : row + 1].expand(len(rows), *batch.shape[1:])
            return view.clone(memory_format=torch.contiguous_format) if copies else view
        return batch[rows.to(batch.device)]

    return pick


def _replay(forward: Callable[..., Any], outputs: list[Any], pick: Pick) -> Callable[..., Any]:
    queue = iter(outputs)

    def replay(*args: Any, **kwargs: Any) -> Any:
        for output in queue:
            return map_tensors(output, pick)
        return forward(*args, **kwargs)

    return replay
