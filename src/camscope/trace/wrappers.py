"""Handle wrappers: DataParallel, compiled modules, gradient checkpointing, inference mode."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from camscope.errors import ModelError
from camscope.trace.locks import new_lock
from camscope.trace.norm_gradients import NORMS, plain_norm

_plain = threading.local()
_installing = new_lock()
_installed: dict[str, Any] = {}
_users = 0


class Passthrough(nn.Module):
    """Replacement of a compiled module in a copy of a network; calls the original module."""

    _orig_mod: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module inside returns."""
        return self._orig_mod(*args, **kwargs)


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is the result of `torch.compile`."""
    return "_orig_mod" in module._modules


def bare(net: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel and `torch.compile`.

    Raises:
        ModelError: it is a Keras model, whose images have their channels last.

    >>> inside = nn.Conv2d(1, 1, 1)
    >>> bare(nn.DataParallel(inside)) is inside
    True
    """
    while True:
        if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            net = net.module
        elif isinstance(net, nn.Module) and is_compiled(net):
            net = net._modules["_orig_mod"]  # type: ignore[assignment]
        elif hasattr(net, "get_config") and any(kind.__module__.startswith("keras.") for kind in type(net).__mro__):
            raise ModelError(
                "a Keras model takes images with channels last: use cs.load(model).net, with channels first"
            )
        else:
            return net


@contextlib.contextmanager
def uncompiled(net: nn.Module) -> Iterator[None]:
    """Run compiled parts of a network as they are written, since hooks do not fire inside compiled code."""
    compiled = any(module._compiled_call_impl is not None or is_compiled(module) for module in net.modules())
    with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def without_checkpoints() -> Iterator[None]:
    """Let `torch.utils.checkpoint` call its functions directly in this thread; other threads keep checkpointing.

    A checkpoint computes the forward pass again in the backward pass, where hooks would see it a second time, and a
    reentrant one drops the gradients of what is recorded inside.
    """
    global _users
    module = sys.modules.get("torch.utils.checkpoint")
    if module is None:
        yield
        return
    with _installing:
        _users += 1
        if _users == 1:
            _install(module)
    depth = getattr(_plain, "depth", 0)
    _plain.depth = depth + 1
    try:
        yield
    finally:
        _plain.depth = depth
        with _installing:
            _users -= 1
            if _users == 0:
                for name, original in _installed.items():
                    setattr(module, name, original)
                _installed.clear()


def _install(module: Any) -> None:
    """Put dispatchers in place of the functions behind `checkpoint`, whichever this version of PyTorch has."""
    for name, plain in _DIRECT.items():
        if hasattr(module, name):
            _installed[name] = getattr(module, name)
            setattr(module, name, _by_thread(_installed[name], plain))


def _by_thread(original: Any, plain: Callable[..., Any]) -> Any:
    if isinstance(original, type):

        class Dispatch(original):  # type: ignore[misc]
            @classmethod
            def apply(cls, *args: Any, **kwargs: Any) -> Any:
                return (plain if getattr(_plain, "depth", 0) else original.apply)(*args, **kwargs)

        return Dispatch

    def dispatch(*args: Any, **kwargs: Any) -> Any:
        return (plain if getattr(_plain, "depth", 0) else original)(*args, **kwargs)

    return dispatch


def _call_function(function: Callable[..., Any], args: Any, kwargs: Any, **_: Any) -> Any:
    return function(*args, **kwargs)


def _call_after_flag(function: Callable[..., Any], _: bool, *args: Any) -> Any:  # noqa: FBT001
    return function(*args)


def _no_preparation(*_: Any, **__: Any) -> Iterator[None]:
    yield


_DIRECT: dict[str, Callable[..., Any]] = {
    "_checkpoint_impl": _call_function,
    "CheckpointFunction": _call_after_flag,
    "_checkpoint_without_reentrant_generator": _no_preparation,
}


def outside_inference() -> AbstractContextManager[Any]:
    """Return a context outside of `torch.inference_mode`, whose tensors cannot take part in a graph later."""
    return torch.inference_mode(mode=False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()


class GraphKept(TorchFunctionMode):
    """Ignore ``torch.no_grad()`` and ``torch.inference_mode()`` inside the network, which would cut the graph.

    Inference mode is always passed over, since its tensors cannot take part in a graph later; `keeps_graph` says
    whether ``no_grad`` is passed over now.
    """

    def keeps_graph(self) -> bool:
        """Return whether the graph has to be kept at this moment."""
        return True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "_set_grad_enabled" and self.keeps_graph():
            return None
        return self.compute(func, args, kwargs or {})

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function of torch, outside of inference mode."""
        with outside_inference():
            if getattr(func, "__name__", "") in NORMS:
                return plain_norm(func, args, kwargs)
            return func(*args, **kwargs)
