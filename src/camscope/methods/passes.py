"""Methods of many passes take them in chunks, and may say how far they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

Report = Callable[[int, int], None]
"""Called with the passes done and their total."""

_report: ContextVar[Report | None] = ContextVar("who wants to know how far a method is", default=None)


def in_chunks(count: int, size: int, *, like: Tensor) -> Iterator[Tensor]:
    """Yield the numbers 0 to ``count`` - 1 in chunks, on the device of a tensor.

    >>> [chunk.tolist() for chunk in in_chunks(5, 2, like=torch.empty(0))]
    [[0, 1], [2, 3], [4]]
    """
    report = _report.get()
    for chunk in torch.arange(count, device=like.device).split(size):
        yield chunk
        if report is not None:
            report(int(chunk[-1]) + 1, count)


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Let methods inside say how far they are.

    >>> with reporting(lambda done, total: print(done, "of", total)):
    ...     chunks = list(in_chunks(3, 2, like=torch.empty(0)))
    2 of 3
    3 of 3
    """
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)
