"""Record layers with hooks while a network runs, and restore the network afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.nn.parameter import UninitializedParameter

from camscope.arguments import checked
from camscope.errors import LayerError, ModelError
from camscope.trace.layer_path import Address, Record
from camscope.trace.locks import lock_of
from camscope.trace.outputs import unwrap
from camscope.trace.pytree import First, first_tensor
from camscope.trace.wrappers import GraphKept, outside_inference, uncompiled, without_checkpoints

Edit = Callable[[Tensor], Tensor]

_SUM_TO_ONE = {"softmax", "log_softmax", "special_softmax"}
_LINKS = {"softmax", "log_softmax", "sigmoid", "sigmoid_", "expit", "special_expit", "special_softmax"}
# Functions after the last softmax that keep its values, except for rounding and bounds.
_KEEP_VALUES = {
    *("to", "type", "type_as", "half", "float", "double", "bfloat16", "cpu", "cuda", "contiguous", "clone", "alias"),
    *("clamp", "clip", "clamp_min", "clamp_max", "clamp_", "clip_", "round", "nan_to_num"),
}
# Functions that move or select entries; they are applied to the input of the softmax too.
_KEEP_ENTRIES = {
    *("squeeze", "unsqueeze", "view", "reshape", "flatten", "__getitem__", "select", "narrow", "movedim", "permute"),
    *("transpose", "t", "unflatten", "view_as", "reshape_as", "index_select"),
}
_contexts = threading.local()


@dataclass
class Recording:
    """The layers and the last softmax or sigmoid that `tracing` recorded in the last forward pass.

    Attributes:
        tensors: layer name -> its output; the first in execution order is a leaf that requires grad.
        calls: layer name -> how often it ran.
        link: the last softmax or sigmoid: its input, its output and its name.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    link: tuple[Tensor, Tensor, str] | None = None

    def follow(self, name: str, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Track the last softmax or sigmoid through casts, clamps, reshapes and indexing of its result."""
        if not args or not isinstance(result, Tensor):
            return
        if name in _LINKS:
            if result is not args[0]:
                self.link = (args[0], result, name)
        elif self.link is not None and args[0] is self.link[1] and result is not args[0]:
            before, _, link = self.link
            if name in _KEEP_VALUES:
                self.link = (before, result, link)
            elif name in _KEEP_ENTRIES and (link not in _SUM_TO_ONE or result.numel() == before.numel()):
                self.link = (func(before, *args[1:], **kwargs), result, link)

    def logits(self, scores: Tensor) -> tuple[Tensor, str]:
        """Undo a final softmax or sigmoid.

        Returns:
            The input of the last softmax or sigmoid, and the function's name. If only probabilities with sum 1 are
            available, their logarithm and "log p". Else the unchanged scores and "".
        """
        if self.link is not None:
            before, after, name = self.link
            if scores is after:
                return before, name
            if scores.numel() == after.numel() and scores.data_ptr() == after.data_ptr():
                alike = torch.empty_strided(after.shape, after.stride(), dtype=before.dtype, device=before.device)
                return alike.copy_(before).as_strided(scores.shape, scores.stride()), name
        if _are_probabilities(scores.detach()):
            return scores.clamp_min(torch.finfo(scores.dtype).tiny).log(), "log p"
        return scores, ""


def _are_probabilities(scores: Tensor) -> bool:
    if scores.ndim != 2 or scores.shape[1] < 2 or bool((scores < 0).any()):
        return False
    return bool(((scores.float().sum(1) - 1).abs() < 1e-3).all())


class _Watch(GraphKept):
    """Intercept every torch call: track the last softmax or sigmoid, record functional layers, keep the graph.

    ``torch.no_grad()`` inside the network stays in effect before the first recorded layer.
    """

    def __init__(self, recording: Recording, addresses: Sequence[Address], record: Record, *, keep_graph: bool) -> None:
        super().__init__()
        self.recording, self.record, self.keep_graph = recording, record, keep_graph
        self.functional = [address for address in addresses if address.function]

    def keeps_graph(self) -> bool:
        """Return whether a layer with a gradient was recorded."""
        return self.keep_graph and bool(self.recording.tensors)

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a torch function and update the recording."""
        result = super().compute(func, args, kwargs)
        if _innermost() is not self.recording:
            return result
        name = getattr(func, "__name__", "")
        self.recording.follow(name, func, args, kwargs, result)
        for address in self.functional:
            if address.calls(name):
                result = self.record(address, result)
        return result


def _innermost() -> Recording | None:
    stack: list[Recording] = getattr(_contexts, "stack", [])
    return stack[-1] if stack else None


@contextlib.contextmanager
def _as_innermost(recording: Recording) -> Iterator[None]:
    stack: list[Recording] = _contexts.__dict__.setdefault("stack", [])
    stack.append(recording)
    try:
        yield
    finally:
        stack.pop()


def refuse_program(net: Any) -> None:
    """Raise an error for anything that is not a network of modules.

    Raises:
        ModelError: for TorchScript, ``torch.export``, functions, and any other object that is not a `torch.nn.Module`.
    """
    exported = isinstance(net, GraphModule) and any(isinstance(node.target, OpOverload) for node in net.graph.nodes)
    if exported or isinstance(net, torch.jit.ScriptModule) or type(net).__name__ == "ExportedProgram":
        raise ModelError(
            f"{type(net).__name__} is a program without modules to look into: make the network from its Python class, "
            "and fill it from the program, net.load_state_dict(program.state_dict())"
        )
    if not isinstance(net, nn.Module):
        name = getattr(net, "__name__", type(net).__name__)
        raise ModelError(
            f"Expected a torch.nn.Module, but got {name!r}; pass the network itself (output= picks one of its "
            "outputs), or wrap the function in a module that calls it"
        )
    if any(parameter.is_meta or isinstance(parameter, UninitializedParameter) for parameter in net.parameters()):
        raise ModelError(
            f"{type(net).__name__} has parameters without values (on the meta device, or of lazy modules before their "
            "first pass): load its weights, or run it once"
        )


@contextlib.contextmanager
def unchanged(net: nn.Module, *, frozen: bool = True) -> Iterator[None]:
    """Put a network in eval mode, and restore it bit for bit on exit, also after an exception.

    Training flags are set module by module: a network's own ``eval()`` may do more. Buffers that a forward pass
    writes to in spite of eval mode are put back. Of several threads one at a time is inside with the same network.

    Args:
        net: any network.
        frozen: switch ``requires_grad`` of the parameters off inside, so that no graph is built before a leaf.

    Raises:
        ModelError: for a compiled or exported program, whose inside cannot be seen.
    """
    refuse_program(net)
    with lock_of(net), _restored(net, frozen=frozen):
        yield


@contextlib.contextmanager
def _restored(net: nn.Module, *, frozen: bool) -> Iterator[None]:
    with torch._C.DisableTorchFunction():  # an active mode applies to the pass only
        training = [m for m in net.modules() if m.training]
        trainable = [p for p in net.parameters() if p.requires_grad and p.is_leaf] if frozen else []
        buffers = [
            (module, name, buffer, buffer._version, buffer.detach().clone())
            for module in net.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and not buffer.is_inference()
        ]
    try:
        for module in training:
            module.training = False
        _switch(trainable, on=False)
        yield
    finally:
        for module in training:
            module.training = True
        _switch(trainable, on=True)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for module, name, buffer, version, copy in buffers:
                if buffer._version != version:
                    buffer.detach_().copy_(copy)
                module._buffers[name] = buffer


def _switch(parameters: Sequence[nn.Parameter], *, on: bool) -> None:
    with torch._C.DisableTorchFunction():
        for parameter in parameters:
            parameter.requires_grad_(on)


def _first_tensor(address: Address, output: Any) -> First:
    first = first_tensor(output)
    if first is None:
        raise LayerError(f"layer {address.name!r} returns no floating-point tensor; name another layer")
    return first


def _unedited(tensor: Tensor) -> Tensor:
    return tensor


def _as_leaf(tensor: Tensor) -> Tensor:
    """Make a tensor the start of the graph."""
    tensor = tensor.detach()
    torch.set_grad_enabled(True)
    return (tensor.clone() if tensor.is_inference() else tensor).requires_grad_()


def logits_of(net: nn.Module, inputs: Tensor) -> Tensor:
    """Run a network as it is, in train mode or not, and return its scores before a final softmax or sigmoid.

    Args:
        net: any network.
        inputs: (B, C, *space).

    Returns:
        (B, ...) scores in the graph of the parameters.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Softmax(1))
    >>> torch.equal(logits_of(net, torch.ones(1, 2)), net[0](torch.ones(1, 2)))
    True
    """
    recording = Recording()
    with _as_innermost(recording), _Watch(recording, (), lambda _, output: output, keep_graph=False):
        return recording.logits(unwrap(net(inputs)))[0]


@contextlib.contextmanager
@checked
def tracing(
    net: nn.Module,
    layers: Sequence[str],
    *,
    edits: Mapping[str, Edit] | None = None,
    differentiable: bool = False,
) -> Iterator[Recording]:
    """Record what ``net`` computes at some layers while the context is open.

    The first recorded layer in execution order is detached and becomes a leaf that requires grad; later ones that
    depend on it stay in its graph, and others become leaves too. Every hook hands on a
    clone, so that in-place layers downstream cannot touch the record. Before the first layer no graph is built. On
    exit, also by an exception, the model is restored. If contexts are nested in one thread, only the innermost records.

    Args:
        net: any network.
        layers: names of modules ("layer4.1") or of functions that a module calls ("relu()"): see `Address`. Of a
            layer that runs several times the last call counts, unless the name ends in ``#k``.
        edits: layer name -> a change to its output, applied before it is recorded; other layers may be changed too.
        differentiable: keep the whole graph, from the inputs and parameters on.

    Yields:
        The `Recording`, filled by a forward pass.

    Raises:
        LayerError: there is no such layer, or it returns no tensor.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> with tracing(net, ["1"]) as seen:
    ...     scores = net(torch.ones(1, 1, 4, 4))
    >>> seen.tensors["1"].shape, seen.tensors["1"].is_leaf, scores.requires_grad
    (torch.Size([1, 2, 2, 2]), True, True)
    """
    recording, edits = Recording(), edits or {}
    addresses = [Address.parse(net, name) for name in dict.fromkeys((*layers, *edits))]

    def record(address: Address, output: Any) -> Any:
        if _innermost() is not recording:
            return output
        call = recording.calls.get(address.name, 0)
        recording.calls[address.name] = call + 1
        if address.call not in (None, call):
            return output
        first = _first_tensor(address, output)
        with outside_inference():
            return first.put(_recorded(address, first.tensor))

    def _recorded(address: Address, tensor: Tensor) -> Tensor:
        tensor = edits.get(address.name, _unedited)(tensor)
        if address.name not in layers:
            return tensor
        if not differentiable and not tensor.requires_grad:
            tensor = _as_leaf(tensor)
        recording.tensors[address.name] = tensor
        return tensor.clone()

    with contextlib.ExitStack() as stack:
        grad = torch.inference_mode(mode=False), torch.enable_grad()
        for context in (unchanged(net, frozen=not differentiable), *grad, without_checkpoints(), uncompiled(net)):
            stack.enter_context(context)
        for address in addresses:
            for handle in address.install(record):
                stack.callback(handle.remove)
        stack.enter_context(_as_innermost(recording))
        stack.enter_context(_Watch(recording, addresses, record, keep_graph=not differentiable))
        yield recording
