"""Probe a network once, and cache results of the probing pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from camscope.errors import CamscopeError, LayerError
from camscope.models.device import hand_back
from camscope.models.probe import Probe
from camscope.trace import record
from camscope.trace.hooks import refuse_program
from camscope.trace.outputs import expected_columns
from camscope.trace.pytree import Input, find_picture, tensors
from camscope.trace.wrappers import bare

_T = TypeVar("_T")
Cache: TypeAlias = "weakref.WeakKeyDictionary[nn.Module, dict[Any, _T]]"


def probed_once(
    known: Cache[_T], make: Callable[[Probe], _T], net: nn.Module, x: Any, picture: Input, output: int | str | None
) -> _T:
    """Return a result of the probing pass of a network; cached."""
    refuse_program(net)
    net, number = bare(net), find_picture(x, picture)
    of_net = known.setdefault(net, {})
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in tensors(x))
    key = (structure_of(net), number, output, expected_columns(), shapes)
    if key not in of_net:
        with torch.inference_mode(mode=False), torch.enable_grad():
            of_net[key] = make(_probe(net, x, number, output))
        hand_back()
    return of_net[key]


def _probe(net: nn.Module, x: Any, picture: int, output: int | str | None) -> Probe:
    """Probe a network that runs on these inputs.

    Raises:
        LayerError: it runs on them, but not on the five images of a probing pass.
    """
    try:
        return Probe(net, x, picture=picture, output=output)
    except CamscopeError:
        raise
    except Exception as error:
        record(net, x, layers=[], picture=picture)
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise LayerError(
            f"no layer of {type(net).__name__} can be chosen, since it cannot run on a batch of five images of the "
            f"same size ({reason}); name one with layer="
        ) from error


def structure_of(net: nn.Module) -> int:
    """Return a hash of a network's modules with their settings and the shapes of their weights, without their values.

    >>> structure_of(nn.ReLU()) == structure_of(nn.ReLU()), structure_of(nn.ReLU()) == structure_of(nn.GELU())
    (True, False)
    """
    modules = net.named_modules()
    parts = ((name, type(m), m.extra_repr(), id(m.__dict__.get("forward")), *_settings(m)) for name, m in modules)
    return hash((*parts, *((name, tuple(parameter.shape)) for name, parameter in net.named_parameters())))


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the plain values among a module's attributes."""
    for name, value in vars(module).items():
        if name != "training" and not name.startswith("_") and isinstance(value, (int, float, str, bool)):
            yield name, value
