"""Watch a forward pass: list the outputs of all modules and functions, in order."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import TargetError
from camscope.models.stand_ins import settle
from camscope.trace import tracing, unwrap
from camscope.trace.outputs import rows_of_list
from camscope.trace.pytree import call, first_tensor
from camscope.trace.wrappers import GraphKept, outside_inference

_COPIES = {"contiguous", "clone", "to"}
"""Functions that return the same values in another order or memory format."""


@dataclass(eq=False)
class Event:
    """The output of a module, or of a function that a module called.

    Attributes:
        name: of the module, or of the call, as `Address` reads it.
        tensor: what was returned, in the graph.
        version: of the tensor at that time.
        clock: number of function calls before.
        learned: whether a module with parameters returned it.
        around: names of the modules whose calls it lies in, the innermost last.
    """

    name: str
    tensor: Tensor
    version: int
    clock: int
    learned: bool
    around: tuple[str, ...] = ()


def version_of(tensor: Tensor) -> int:
    """Return the version counter of a tensor; tensors from inference mode have none."""
    try:
        return tensor._version
    except RuntimeError:
        return 0


class _Functions(GraphKept):
    """Mode that lists the results of functions that modules call directly, and counts every call."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self.events, self.clock = events, 0
        self.begun: int | None = None
        self.owners: list[str] = []
        self.counts: dict[str, int] = {}

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function of torch and list its result."""
        result = super().compute(func, args, kwargs)
        name = getattr(func, "__name__", "__").rstrip("_")
        if name.startswith("__") or name in _COPIES:
            return result
        self.clock += 1
        if isinstance(result, Tensor) and self.owners:
            place = self.numbered(f"{self.owners[-1]}.{name}()".lstrip("."))
            if result.is_floating_point() and not result._is_view():
                around = tuple(self.owners)
                self.events.append(Event(place, result, version_of(result), self.clock, learned=False, around=around))
        return result

    def numbered(self, place: str) -> str:
        """Return a place's name with the number of this call."""
        call = self.counts.get(place, 0)
        self.counts[place] = call + 1
        return f"{place}#{call}"

    def short(self, name: str) -> str:
        """Return a call's name without its number where it was the last of its kind."""
        place, _, call = name.partition("#")
        return place if call and int(call) == self.counts[place] - 1 else name


def watch(
    net: nn.Module, leaves: Any, *, batch: int, output: int | str | None = None
) -> tuple[list[Event], Any, Tensor]:
    """Run a copy of a network with the graph kept, and list every tensor in order.

    Args:
        net: a copy made by `replicate`, whose batch norms get the statistics of these inputs.
        leaves: the inputs, leaves of the graph.
        batch: number of images.
        output: which of several outputs holds the scores; None to choose as `unwrap` does.

    Returns:
        The events, what the network returned, and the scores in it before a last softmax or sigmoid, which hide
        gradients where they are sure.
    """
    events: list[Event] = []
    names = {module: name for name, module in net.named_modules()}
    functions = _Functions(events)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        functions.owners.append(names[module])
        if functions.begun is None and next(module.parameters(recurse=False), None) is not None:
            functions.begun = len(events)
        with torch._C.DisableTorchFunction(), outside_inference():
            settle(module, (args, kwargs))

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        functions.owners.pop()
        first = first_tensor(output)
        if first is not None and names[module]:
            learned = next(module.parameters(), None) is not None
            place = functions.numbered(names[module])
            around = tuple(functions.owners)
            events.append(Event(place, first.tensor, version_of(first.tensor), functions.clock, learned, around))

    device = next((parameter.device.type for parameter in net.parameters()), "cpu")
    with contextlib.ExitStack() as stack:
        recording = stack.enter_context(tracing(net, []))
        stack.enter_context(torch.autocast(device, enabled=False))
        for module in net.modules():
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        with functions:
            returned = call(net, leaves)
    del events[: functions.begun or 0]  # before its first weights, a network only preprocesses images
    for event in events:
        event.name = functions.short(event.name)
    if output is None:
        with contextlib.suppress(TargetError):  # the number of outputs equals the number of test images by chance
            returned = rows_of_list(returned, batch)
    return events, returned, recording.logits(unwrap(returned, output))[0]
