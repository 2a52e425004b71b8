"""Chunks and progress of methods with many passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

Report = Callable[[int, int], None]
"""Called with the number of finished passes and their total."""

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
    """Report the progress of methods inside.

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
