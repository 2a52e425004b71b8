"""Results are computed ahead, within limits on their number and their memory."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from camscope.prefetch import batched, prefetch


def most_at_once(weights, *, depth=8, limit=10):
    """Compute items that wait for nothing; return the largest total weight that was waiting or worked on."""
    held, most, lock = 0, 0, threading.Lock()

    def work(weight):
        return weight

    def weigh(weight):
        return weight

    def items():
        nonlocal held, most
        for weight in weights:
            yield weight
            with lock:
                held += weight
                most = max(most, held)

    with ThreadPoolExecutor(2) as pool:
        results = []
        for result in prefetch(pool, work, items(), depth=depth, weigh=weigh, limit=limit):
            held -= result
            results.append(result)
    assert results == list(weights)
    return most


@pytest.mark.parametrize("weights", [(4, 4, 4, 4, 4), (1, 20, 1, 20, 20), (0,) * 20, (10, 10), ()])
def test_what_waits_is_bounded_by_its_weight_or_is_alone(weights):
    assert most_at_once(weights) <= max([10, *weights]) + max([0, *weights])


def test_batches_are_bounded_by_number_and_by_weight():
    def cut(items, size, limit):
        return list(batched(iter(items), size, weigh=lambda item: item, limit=limit))

    assert cut([1, 1, 1, 1, 1], 2, 100) == [[1, 1], [1, 1], [1]]
    assert cut([3, 3, 3], 8, 6) == [[3, 3], [3]]
    assert cut([9, 1, 9], 8, 6) == [[9], [1], [9]]
    assert cut([], 8, 6) == []
