"""The rows of a case while they are made."""

import numpy as np

from camscope.images import Window
from camscope.study.task import MapResult, MapTask, Score, mark_same


def task(method, values, label="A"):
    result = MapResult(np.array([values], np.float32), Window.whole((8, 16)), "layer4", ["so"])
    return MapTask(method, label=label, score=Score(1.0, None, 1.0), map=result)


def test_what_is_left_to_do():
    new = MapTask("gradcam", label="A", wanted=True)
    assert (new.lacks_map, new.done) == (True, False)
    new.score = Score(0.0, None, 0.0)
    assert not new.done
    new.wanted = False
    assert new.done


def test_maps_that_are_the_same_are_marked_once():
    tasks = [
        task("a", [1, -2]),
        task("b", [2, -4]),
        task("c", [1, 2]),
        task("a", [1, -2], "B"),
        MapTask("d", label="A"),
    ]
    for _ in range(2):
        mark_same(tasks)
    assert [t.map and t.map.notes for t in tasks] == [
        ["so"],
        ["so", "the same map as a: the two methods coincide on this model"],
        ["so"],
        ["so"],
        None,
    ]


def test_a_row_is_recalled_as_it_was_written():
    first = task("a", [1, -2])
    row = {
        "score": 1.5,
        "probability": 0.75,
        "log_odds": 1.1,
        "computed": "eager:cpu",
        "height": 8,
        "width": 16,
    } | first.map.columns()
    again = MapTask("a", label="A")
    again.recall(row)
    assert (again.score, again.computed, again.cached) == (Score(1.5, 0.75, 1.1), "eager:cpu", row)
    assert again.map.columns() == first.map.columns()
    assert again.map.window == first.map.window
    scored = MapTask("a", label="A")
    scored.recall(row | {"grid": None})
    assert (scored.score, scored.map) == (Score(1.5, 0.75, 1.1), None)
    unknown = MapTask("a", label="A")
    unknown.recall(None)
    assert (unknown.score, unknown.map, unknown.computed) == (None, None, None)


def test_the_probability_is_judged_or_else_the_score():
    one = MapTask("a", label="A", score=Score(0.4, 0.6, 0.4))
    one.judge(threshold=0.5, truth=True, when="predicted")
    assert (one.prediction, one.outcome, one.wanted) == (True, "TP", True)
    two = MapTask("a", label="A", score=Score(0.4, None, 0.4))
    two.judge(threshold=0.5, truth=True, when="predicted")
    assert (two.prediction, two.outcome, two.wanted) == (False, "FN", False)
    three = MapTask("a", label="A", score=Score(0.4, 0.5, 0.4))
    three.judge(threshold=0.5, truth=None, when="present")
    assert (three.prediction, three.outcome, three.wanted) == (True, None, False)
