"""Hold the rows of one case while they are computed: cached values, computed values, and open work."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from camscope.cohort.runner import Task, Work
from camscope.cohort.store import Row
from camscope.explanation.agreement import SAME_MAP, same_map
from camscope.images import Picture, Window
from camscope.study.measure import Grid, Places
from camscope.study.rows import map_values


class Score(NamedTuple):
    """The score of a label, its probability (None for a model without probabilities), and its log-odds."""

    value: float
    probability: float | None
    log_odds: float


@dataclass
class MapResult:
    """The map of a row.

    Attributes:
        grid: (h, w) signed map on the layer's grid.
        window: part of the image in the network's input.
        layer: name of the layer.
        notes: notes on the map.
    """

    grid: Grid
    window: Window
    layer: str
    notes: list[str] = field(default_factory=list)

    def columns(self) -> Row:
        """Return the columns of a row that describe the map."""
        where = (*self.window.start, *self.window.extent)
        return {"layer": self.layer, "notes": self.notes} | map_values(self.grid, where)


@dataclass
class MapTask(Task):
    """The row of one label and method.

    Attributes:
        label: the label.
        score: score of the label; None before it is computed.
        prediction: whether the score reaches the threshold of the label.
        outcome: "TP", "FP", "TN" or "FN"; None without truth.
        computed: the engine and device that computed the score, or the map.
        map: the map; None before it is computed.
        settled: whether the whole cached row is valid, with its regions and overlay.
    """

    label: str = ""
    score: Score | None = None
    prediction: bool | None = None
    outcome: str | None = None
    computed: str | None = None
    map: MapResult | None = None
    settled: bool = False

    @property
    def lacks_map(self) -> bool:
        """Return whether a map is needed and not yet computed."""
        return self.wanted and self.map is None

    @property
    def done(self) -> bool:
        """Return whether the model has nothing left to do."""
        return self.score is not None and not self.lacks_map

    def recall(self, row: Row | None) -> None:
        """Set the score and the map from the row of an earlier run."""
        self.cached = row
        if row is None:
            return
        self.computed = row["computed"]
        if row["score"] is not None:
            self.score = Score(row["score"], row["probability"], row["log_odds"])
        if row["grid"] is not None:
            grid = np.array(row["grid"], np.float32).reshape(row["grid_height"], row["grid_width"])
            top, left, height, width = row["window"]
            window = Window((row["height"], row["width"]), (top, left), (height, width))
            self.map = MapResult(grid, window, row["layer"], list(row["notes"] or []))

    def judge(self, *, threshold: float, truth: bool | None, when: str) -> None:
        """Set the prediction, the outcome, and whether a map is needed.

        Args:
            threshold: threshold of the probability, or of the score of a model without probabilities.
            truth: whether the label is present; None if unknown.
            when: which cases get a map, "present", "predicted" or "all".
        """
        if self.score is not None:
            value = self.score.value if self.score.probability is None else self.score.probability
            self.prediction = value >= threshold
        if self.prediction is not None and truth is not None:
            self.outcome = ("T" if self.prediction == truth else "F") + ("P" if self.prediction else "N")
        self.wanted = bool({"present": truth, "predicted": self.prediction, "all": True}[when])


@dataclass
class StudyWork(Work[MapTask]):
    """A case of a study.

    Attributes:
        places: masks of the case.
        picture: the image; None if nothing has to be computed, measured or drawn.
    """

    places: Places = field(kw_only=True)
    picture: Picture | None = None

    def of(self, labels: Collection[str]) -> list[MapTask]:
        """Return the tasks of some labels."""
        return [task for task in self.tasks if task.label in labels]


def mark_same(tasks: Iterable[MapTask]) -> None:
    """Add a note to maps that are the same for several methods."""
    earlier: dict[str, list[tuple[str, Grid]]] = {}
    for task in tasks:
        if task.map is None:
            continue
        grid, maps = task.map.grid, earlier.setdefault(task.label, [])
        notes = [text for text in task.map.notes if not text.startswith(SAME_MAP)]
        notes += [
            f"{SAME_MAP}{method}: the two methods coincide on this model"
            for method, prior in maps
            if same_map(grid, prior)
        ]
        task.map.notes = notes
        maps.append((task.method, grid))
