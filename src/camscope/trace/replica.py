"""Copies of a network for probes and replays, which must not change the original."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camscope.trace.wrappers import Passthrough, is_compiled

_DEEPEST = 3
"""Maximum depth of nested containers that are searched for modules."""

Substitute = Callable[[nn.Module, str, Tensor], Tensor]
"""(module, name, parameter) -> the parameter of the copy."""


def _share(_: nn.Module, __: str, parameter: Tensor) -> Tensor:
    return parameter.detach()


def replicate(net: nn.Module, substitute: Substitute = _share, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Copy a network without copying its weights.

    Each module becomes a new object of the same class with the same attributes; references among modules, in lists,
    dicts, bound methods and functions set on an instance, lead to the copies. Buffers are cloned. The copy is in eval
    mode and never compiled. Hooks that were registered on the original are called on the copy too.

    Args:
        net: any network; it is only read.
        substitute: makes the tensor in place of each parameter; by default its own memory, without a gradient.
        dtype: of the floating-point buffers and other tensors of the copy; None: their own.

    Returns:
        The copy. A module that defines ``__deepcopy__``, such as `KerasNet`, is copied by it.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    >>> twin = replicate(net)
    >>> twin[0] is net[0], twin[0].weight.data_ptr() == net[0].weight.data_ptr()
    (False, True)
    """
    if hasattr(type(net), "__deepcopy__"):
        twin = copy.deepcopy(net)
        for original, module in zip(net.modules(), twin.modules(), strict=True):
            for name, parameter in original._parameters.items():
                if parameter is not None:
                    module._parameters[name] = substitute(original, name, parameter)  # type: ignore[assignment]
        for module in twin.modules():
            module._buffers.update({n: _cast(b, dtype) for n, b in module._buffers.items() if b is not None})
        return twin.eval()
    copies: dict[int, Any] = {
        id(module): object.__new__(Passthrough if is_compiled(module) else type(module)) for module in net.modules()
    }
    for module in net.modules():
        _copy_tensors(module, copies, substitute, dtype)
    for module in net.modules():
        _copy_attributes(module, copies, dtype)
    return copies[id(net)]  # type: ignore[no-any-return]


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() or tensor.is_quantized else tensor.to(dtype)


def _copy_tensors(module: nn.Module, copies: dict[int, Any], substitute: Substitute, dtype: torch.dtype | None) -> None:
    """Add the copy of each parameter and buffer to ``copies``; a shared parameter is copied once."""
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in copies:
            copies[id(parameter)] = substitute(module, name, parameter)
    for buffer in module._buffers.values():
        if buffer is not None and id(buffer) not in copies:
            copies[id(buffer)] = _cast(buffer.detach().clone(), dtype)


def _copy_attributes(module: nn.Module, copies: dict[int, Any], dtype: torch.dtype | None) -> None:
    twin = copies[id(module)]
    state = {name: _redirected(value, copies) for name, value in module.__dict__.items()}
    if dtype is not None:
        state |= {name: _in_precision(value, dtype) for name, value in state.items()}
    state["training"] = False
    state["_compiled_call_impl"] = None
    if isinstance(twin, Passthrough):
        state.pop("forward", None)
    twin.__dict__.update(state)


def _in_precision(value: Any, dtype: torch.dtype) -> Any:
    """Return an attribute with its tensors, also those of a dictionary, in another precision."""
    if isinstance(value, Tensor):
        return _cast(value, dtype)
    if type(value) is dict and value and all(isinstance(item, Tensor) for item in value.values()):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value


def _redirected(value: Any, copies: dict[int, Any], depth: int = 0) -> Any:
    """Return an attribute with the modules and tensors in it replaced by their copies."""
    if id(value) in copies:
        return copies[id(value)]
    if type(value) in (list, tuple) and depth < _DEEPEST:
        return type(value)(_redirected(item, copies, depth + 1) for item in value)
    if isinstance(value, dict) and depth < _DEEPEST:
        twin = copy.copy(value)
        for key, item in value.items():
            twin[key] = _redirected(item, copies, depth + 1)
        return twin
    if isinstance(value, types.MethodType) and id(value.__self__) in copies:
        return types.MethodType(value.__func__, copies[id(value.__self__)])
    if isinstance(value, types.FunctionType):
        return _redirected_function(value, copies)
    if type(value) is functools.partial and depth < _DEEPEST:
        function, args, keywords = (_redirected(p, copies, depth + 1) for p in (value.func, value.args, value.keywords))
        partial = functools.partial(function, *args, **keywords)
        partial.__dict__.update(value.__dict__)
        return partial
    return value


def _redirected_function(function: types.FunctionType, copies: dict[int, Any]) -> types.FunctionType:
    """Return a function whose names lead to the copies: a ``forward`` that was set on an instance."""
    names = [name for name in function.__code__.co_names if name in function.__globals__]
    cells = [cell for cell in function.__closure__ or () if _is_filled(cell)]
    references = (*(cell.cell_contents for cell in cells), *(function.__globals__[name] for name in names))
    if not any(_leads(value, copies) for value in (*references, *(function.__defaults__ or ()))):
        return function
    twin = types.FunctionType(
        function.__code__,
        {**function.__globals__, **{name: _redirected(function.__globals__[name], copies, _DEEPEST) for name in names}},
        function.__name__,
        _redirected(function.__defaults__, copies),
        tuple(
            types.CellType(_redirected(cell.cell_contents, copies, _DEEPEST)) if _is_filled(cell) else cell
            for cell in function.__closure__ or ()
        )
        or None,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


def _leads(value: Any, copies: dict[int, Any]) -> bool:
    """Return whether a value is a module of the network, or a method of one."""
    return id(value) in copies or id(getattr(value, "__self__", None)) in copies


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
