"""Compute results in threads ahead of their use, in order, with limits on the number and the memory of what waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


LIMIT = 1 << 30
"""Bytes of results that may wait, or be in one batch; a larger result waits alone."""


def prefetch(
    pool: ThreadPoolExecutor,
    function: Callable[[In], Out],
    items: Iterable[In],
    *,
    depth: int,
    weigh: Callable[[In], int] = lambda _: 0,
    limit: int = LIMIT,
) -> Iterator[Out]:
    """Apply a function in threads, in order; items are taken in the thread of the caller.

    Args:
        pool: the threads.
        function: applied to each item.
        items: taken as far ahead as results may wait.
        depth: how many results may wait, or be worked on.
        weigh: bytes that the result of an item takes.
        limit: how many bytes may wait, or be worked on; an item of more is worked on alone.

    Yields:
        The results in the order of the items; an error of the function is raised where its result would be.

    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(prefetch(pool, abs, [-1, -2, 3], depth=2))
    [1, 2, 3]
    """
    waiting: deque[tuple[Future[Out], int]] = deque()
    total = 0
    try:
        for item in items:
            weight = weigh(item)
            while waiting and total + weight > limit:
                total -= waiting[0][1]
                yield waiting.popleft()[0].result()
            waiting.append((pool.submit(function, item), weight))
            total += weight
            while len(waiting) >= depth or (waiting and total > limit):  # before the next item takes memory
                total -= waiting[0][1]
                yield waiting.popleft()[0].result()
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()


def batched(items: Iterable[In], size: int, *, weigh: Callable[[In], int], limit: int = LIMIT) -> Iterator[list[In]]:
    """Yield successive items in lists of a size, of fewer if they weigh more than a limit together.

    >>> list(batched([5, 1, 1, 9, 1], 3, weigh=lambda item: item, limit=4))
    [[5], [1, 1], [9], [1]]
    """
    batch: list[In] = []
    total = 0
    for item in items:
        weight = weigh(item)
        if batch and total + weight > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += weight
        if len(batch) == size or total >= limit:  # before the next item takes memory
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
