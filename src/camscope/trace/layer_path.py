"""Names of layers: the output of a module, or the result of a function that a module calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from camscope.errors import LayerError, nearest

_WRAPPERS = ("module", "_orig_mod")
"""Names under which DataParallel and `torch.compile` hold the network."""

JOINT = " + "
"""Separator in the name of several layers whose maps are added."""

Record = Callable[["Address", Any], Any]


@dataclass
class Address:
    """The address of a layer in a network.

    Written as a module name, ``layer4.1``; as a function that a module's own forward calls, ``features.relu()``,
    or ``relu()`` for one called by the network itself; either with ``#k`` for its k-th call, counted from 0, where
    the last is not the one that is meant.

    Attributes:
        name: as written.
        module: the module whose output it is, or whose forward calls the function.
        function: name of the function, or "" for the module's output.
        call: the call that is meant; None for the last.
    """

    name: str
    module: nn.Module
    function: str = ""
    call: int | None = None
    _running: list[nn.Module] = field(default_factory=list)

    @classmethod
    def parse(cls, net: nn.Module, name: str) -> Address:
        """Find the place that ``name`` means in ``net``.

        Raises:
            LayerError: there is no such module; the message has the nearest names.

        >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
        >>> Address.parse(net, "1").module
        ReLU()
        >>> Address.parse(net, "relu()#0").call
        0
        """
        base, _, call = name.partition("#")
        path, function = base, ""
        if base.endswith("()"):
            path, _, function = base[:-2].rpartition(".")
        modules = dict(net.named_modules(remove_duplicate=False))
        while path not in modules and path.partition(".")[0] in _WRAPPERS:
            path = path.partition(".")[2]
        if path not in modules or (call and not call.isdigit()):
            raise LayerError(nearest("layer", name, [n for n in modules if n]))
        return cls(name, modules[path], function, int(call) if call else None)

    def install(self, record: Record) -> Iterator[RemovableHandle]:
        """Hook the place, so that its output passes through ``record``; the handles remove the hooks."""
        if not self.function:
            yield self.module.register_forward_hook(lambda _, __, output: record(self, output))
            return
        self._running.clear()
        inside, thread = set(self.module.modules()), threading.get_ident()

        def enter(module: nn.Module, _: Any) -> None:
            if module in inside and threading.get_ident() == thread:
                self._running.append(module)

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            if module in inside and threading.get_ident() == thread:
                self._running.pop()

        yield register_module_forward_pre_hook(enter)  # two global hooks instead of two per module
        yield register_module_forward_hook(leave)

    def calls(self, function: str) -> bool:
        """Return whether a call of ``function`` now would be one by the module's own forward."""
        return self._running[-1:] == [self.module] and function.rstrip("_") == self.function


def name_of(net: nn.Module, module: nn.Module) -> str:
    """Return the name of a module in a network.

    Raises:
        LayerError: it is not part of the network.
    """
    names: dict[nn.Module, str] = {candidate: name for name, candidate in net.named_modules()}
    if module in names:
        return names[module]
    raise LayerError(f"the layer given ({type(module).__name__}) is not a module of this {type(net).__name__}")
