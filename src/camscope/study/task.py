"""What is to be done for one case: a task for each of its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from camscope.cohort.case import Case
from camscope.cohort.store import Row
from camscope.errors import CamscopeError
from camscope.explanation.agreement import same_map
from camscope.explanation.batch import Sample
from camscope.files import StoreError
from camscope.images import Picture
from camscope.study.measure import Grid, Places

_SAME = "the same map as "


@dataclass
class Task:
    """One row in the making.

    Attributes:
        label: what is looked for.
        method: by which method.
        key: stands for all that the map depends on.
        row: what is known of it so far.
        fault: what went wrong.
        wanted: whether a map is asked for.
        settled: whether all of it is known from before.
    """

    label: str
    method: str
    key: str = ""
    row: Row = field(default_factory=dict)
    fault: str = ""
    wanted: bool = False
    settled: bool = False

    @property
    def scored(self) -> bool:
        """Whether the score is known."""
        return self.row.get("score") is not None

    @property
    def mapped(self) -> bool:
        """Whether the map is known."""
        return self.row.get("grid") is not None

    @property
    def lacks_map(self) -> bool:
        """Whether a map is asked for that is not known."""
        return self.wanted and not self.mapped

    @property
    def done(self) -> bool:
        """Whether the model has nothing more to do."""
        return self.scored and not self.lacks_map


@dataclass
class Opened:
    """A case whose file has been read, and what of it is to be done.

    Attributes:
        case: with its patient and groups.
        tasks: one per row, in order.
        places: its masks.
        sha256: of the file; None where it cannot be read.
        picture: None where nothing has to be computed, measured or drawn.
        samples: by the key of a model, for those that have something to do.
    """

    case: Case
    tasks: list[Task]
    places: Places
    sha256: str | None = None
    picture: Picture | None = None
    samples: dict[str, Sample] = field(default_factory=dict)

    def of(self, labels: Collection[str]) -> list[Task]:
        """The tasks of some labels."""
        return [task for task in self.tasks if task.label in labels]


def mark_same(tasks: list[Task]) -> None:
    """Note where several methods gave a label the same map."""
    drawn: dict[str, list[tuple[str, Grid]]] = {}
    for task in tasks:
        if not task.mapped:
            continue
        grid, others = grid_of(task), drawn.setdefault(task.label, [])
        notes = [text for text in task.row["notes"] or [] if not text.startswith(_SAME)]
        notes += [f"{_SAME}{method}: the two methods are one here" for method, other in others if same_map(grid, other)]
        task.row["notes"] = notes
        others.append((task.method, grid))


def grid_of(task: Task) -> Grid:
    """The map of a task that has one, (h, w), signed."""
    return np.array(task.row["grid"], np.float32).reshape(task.row["grid_height"], task.row["grid_width"])


def note(tasks: Iterable[Task], error: Exception) -> None:
    """Write an error down as the reason why rows fail, unless they have one."""
    words = " ".join(str(error).split())
    for task in tasks:
        task.fault = task.fault or (words if isinstance(error, CamscopeError) else f"{type(error).__name__}: {words}")


@contextmanager
def noted(tasks: Iterable[Task]) -> Iterator[None]:
    """Write down what goes wrong with some rows; only a folder that cannot be written stops the study."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # whatever a picture, a model or a method does: the other rows go on
        note(tasks, error)
