"""The one way from cases to rows: read, hash, reuse, batch, retry one by one.

A study and an evaluation supply the step: the rows of a case, which of them are cached, and how the rest is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from camscope.cohort.case import Case
from camscope.cohort.store import Row
from camscope.errors import CamscopeError, StoreError
from camscope.explanation.batch import Sample
from camscope.images import fetch
from camscope.prefetch import prefetch

_READERS = 2


@dataclass
class Task:
    """One row to be made.

    Attributes:
        method: name of the method.
        key: identifies everything that the row depends on; "" before the image file has been hashed.
        cached: the row that an earlier run made with this key.
        wanted: whether a map is wanted.
        fault: why the row fails; "" while it does not.
    """

    method: str
    key: str = ""
    cached: Row | None = None
    wanted: bool = True
    fault: str = ""


TaskT = TypeVar("TaskT", bound=Task)


@dataclass
class Work(Generic[TaskT]):
    """A case and its rows to be made.

    Attributes:
        case: the case.
        tasks: one per row, in order.
        sha256: hash of the image file; None if it cannot be read.
        samples: the image as input of each model that has something to compute, by a name of the model.
    """

    case: Case
    tasks: list[TaskT]
    sha256: str | None = None
    samples: dict[str, Sample] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Return whether every row fails."""
        return all(task.fault for task in self.tasks)

    def fail(self, error: Exception) -> None:
        """Write an error down in every row that has none."""
        note(self.tasks, error)


WorkT = TypeVar("WorkT", bound=Work)  # type: ignore[type-arg]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Step(Protocol[WorkT]):
    """Interface of a computation to `read_cases`, which reads the cases for it."""

    def begin(self, case: Case) -> WorkT:
        """Return the rows to be made for a case, before its file is read."""
        ...

    def reuse(self, work: WorkT) -> bool:
        """Look up the cached rows of a case whose file has been hashed; return whether anything is left to compute."""
        ...

    def prepare(self, work: WorkT, content: bytes) -> None:
        """Decode the file, and make the inputs of the models that have something to compute."""
        ...


def read_cases(step: Step[WorkT], cases: Iterable[Case], *, ahead: int) -> Iterator[WorkT]:
    """Read the files of cases in threads, in order; a case that cannot be read has rows that say why.

    Args:
        step: the computation that the cases are read for.
        cases: the cases.
        ahead: how many cases may be read before they are used.
    """

    def read(case: Case) -> WorkT:
        work = step.begin(case)
        with noted(work.tasks):
            if case.problem:
                raise CamscopeError(case.problem)
            content = fetch(case.source)
            work.sha256 = hashlib.sha256(content).hexdigest()
            if step.reuse(work):
                step.prepare(work, content)
        return work

    with ThreadPoolExecutor(_READERS) as readers:
        yield from prefetch(readers, read, cases, depth=ahead)


def attempt(
    compute: Callable[[Sequence[Item]], Result], items: Sequence[Item], *, fail: Callable[[Item, Exception], None]
) -> Iterator[tuple[Result, Sequence[Item]]]:
    """Compute something of several items at once; if that fails, of each item alone, when it is asked for.

    Args:
        compute: is given some of the items.
        items: the items; nothing is computed of none.
        fail: called with each item that fails alone, and its error.

    Yields:
        Each result, with the items that it is of.

    Raises:
        StoreError: the results cannot be written, which is no fault of an item.

    >>> def total(numbers):
    ...     return sum(1 / n for n in numbers)
    >>> list(attempt(total, [1, 0, 2], fail=lambda item, error: print(item, error)))
    0 division by zero
    [(1.0, [1]), (0.5, [2])]
    """
    if not items:
        return
    try:
        result = compute(items)
    except StoreError:
        raise
    except Exception as error:  # whatever an image, a model or a method does: the other items go on
        if len(items) == 1:
            fail(items[0], error)
            return
    else:
        yield result, items
        return
    for item in items:
        yield from attempt(compute, [item], fail=fail)


def note(tasks: Iterable[Task], error: Exception) -> None:
    """Write an error down as the reason why rows fail; a row that has a reason keeps it."""
    words = " ".join(str(error).split())
    for task in tasks:
        task.fault = task.fault or (words if isinstance(error, CamscopeError) else f"{type(error).__name__}: {words}")


@contextmanager
def noted(tasks: Iterable[Task]) -> Iterator[None]:
    """Write down what goes wrong with some rows; only a folder that cannot be written ends the run."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # as above
        note(tasks, error)
