"""Compute results in threads ahead of their use, in order and with a limited number of waiting results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def prefetch(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In], *, depth: int
) -> Iterator[Out]:
    """Apply a function in threads, in order; items are taken in the thread of the caller.

    Args:
        pool: the threads.
        function: applied to each item.
        items: taken as far ahead as results may wait.
        depth: how many results may wait, or be worked on.

    Yields:
        The results in the order of the items; an error of the function is raised where its result would be.

    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(prefetch(pool, abs, [-1, -2, 3], depth=2))
    [1, 2, 3]
    """
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
