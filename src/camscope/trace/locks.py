"""Hold the locks of networks, also while the process forks: no child sees a network in the middle of an explanation."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from torch import nn

_WAIT = 60.0
"""Longest time, in seconds, that a fork waits for the explanations of other threads."""
_PATIENCE = 0.02
"""Longest time, in seconds, that it waits for one lock while it holds others."""

_guard = threading.Lock()
_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_others: list[threading.Lock] = []
_held: list[threading.Lock | threading.RLock] = []


def lock_of(net: nn.Module) -> threading.RLock:
    """Return the lock of a network; a thread holds it while it hooks the network or changes its flags."""
    with _guard:
        return _locks.setdefault(net, threading.RLock())


def new_lock() -> threading.Lock:
    """Return a lock that is free in every child of a process: a fork waits for it."""
    lock = threading.Lock()
    _others.append(lock)
    return lock


def _before_fork() -> None:
    """Wait until no other thread has hooks in a network, or flags of it changed; then take all locks at once."""
    end = time.monotonic() + _WAIT
    while True:
        with _guard:
            locks: list[threading.Lock | threading.RLock] = [*_others, *_locks.values()]
        _held[:] = [lock for lock in locks if lock.acquire(timeout=_PATIENCE)]
        if len(_held) == len(locks) or time.monotonic() > end:
            break
        _release()  # another thread may need one of them before it releases its own
        time.sleep(_PATIENCE)
    _guard.acquire()


def _release() -> None:
    while _held:
        _held.pop().release()


def _after_fork() -> None:
    _release()
    _guard.release()


def _in_child() -> None:
    """Replace the locks that other threads held: these threads do not exist in the child."""
    late = [net for net, lock in _locks.items() if lock not in _held]
    _after_fork()
    _locks.update({net: threading.RLock() for net in late})
    if sys.version_info < (3, 12):
        for value in _properties():
            vars(value)["lock"] = threading.RLock()


def _properties() -> Iterator[cached_property[Any]]:
    """Yield the cached properties of this package, which have a lock of their own before Python 3.12."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("camscope.")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    for kind in kinds:
        yield from (value for value in vars(kind).values() if isinstance(value, cached_property))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
