"""Compute the rows of cases: read, hash, reuse, batch, and retry one by one.

Study and evaluation implement `Step`: the rows of a case, the reuse of cached rows, and the computation of the others.
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
from camscope.errors import CamscopeError, OutputError, StoreError
from camscope.explanation.batch import Sample
from camscope.images import decoded_bytes, fetch
from camscope.prefetch import prefetch

_READERS = 2


@dataclass
class Task:
    """One row to be computed.

    Attributes:
        method: name of the method.
        key: hash of everything on which the row depends; "" before the image file is hashed.
        cached: the row of an earlier run with this key.
        wanted: whether a map is needed.
        fault: reason why the row fails; "" if it does not fail.
    """

    method: str
    key: str = ""
    cached: Row | None = None
    wanted: bool = True
    fault: str = ""


TaskT = TypeVar("TaskT", bound=Task)


@dataclass
class Work(Generic[TaskT]):
    """A case and its rows to be computed.

    Attributes:
        case: the case.
        tasks: one task per row, in order.
        sha256: hash of the image file; None if it cannot be read.
        samples: key of a model -> the image as input of this model, for models that are needed.
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
        """Set an error as the reason of failure of all rows without one."""
        note(self.tasks, error)


WorkT = TypeVar("WorkT", bound=Work)  # type: ignore[type-arg]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Step(Protocol[WorkT]):
    """Interface of a computation for `read_cases`."""

    def begin(self, case: Case) -> WorkT:
        """Return the rows to be computed for a case, before its file is read."""
        ...

    def reuse(self, work: WorkT) -> bool:
        """Look up the cached rows of a case with a hashed file; return whether anything remains to be computed."""
        ...

    def prepare(self, work: WorkT, content: bytes) -> None:
        """Decode the file, and prepare the inputs of the models that are needed."""
        ...


def case_bytes(case: Case) -> int:
    """Return the memory that the image of a case takes; 0 if it is unknown."""
    return 0 if case.problem else decoded_bytes(case.source)


def read_cases(step: Step[WorkT], cases: Iterable[Case], *, ahead: int) -> Iterator[WorkT]:
    """Read the files of cases in threads, in order; if a case cannot be read, its rows have the reason.

    Args:
        step: the computation.
        cases: the cases.
        ahead: largest number of cases that are read in advance.
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
        yield from prefetch(readers, read, cases, depth=ahead, weigh=case_bytes)


def attempt(
    compute: Callable[[Sequence[Item]], Result], items: Sequence[Item], *, fail: Callable[[Item, Exception], None]
) -> Iterator[tuple[Result, Sequence[Item]]]:
    """Compute the result of several items at once; if this fails, compute each item alone.

    Args:
        compute: function of a list of items.
        items: the items; may be empty.
        fail: called with each item that fails alone, and its error.

    Yields:
        Each result with its items.

    Raises:
        StoreError: the results cannot be written.
        OutputError: the outputs of the model do not fit.

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
    except (StoreError, OutputError):
        raise
    except Exception as error:  # any failure of an image, model or method must not stop the other items
        if len(items) == 1:
            fail(items[0], error)
            return
    else:
        yield result, items
        return
    for item in items:
        yield from attempt(compute, [item], fail=fail)


def note(tasks: Iterable[Task], error: Exception) -> None:
    """Set an error as the reason why rows fail; an existing reason is kept."""
    words = " ".join(str(error).split())
    for task in tasks:
        task.fault = task.fault or (words if isinstance(error, CamscopeError) else f"{type(error).__name__}: {words}")


@contextmanager
def noted(tasks: Iterable[Task]) -> Iterator[None]:
    """Record errors in rows instead of raising them, except for a folder that cannot be written."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # as above
        note(tasks, error)
