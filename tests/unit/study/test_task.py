"""Tasks: what they still need, and what goes wrong with them."""

import pytest

from camscope.errors import PictureError
from camscope.files import StoreError
from camscope.study.task import Task, grid_of, mark_same, noted


def task(method, values, label="A"):
    return Task(label, method, row={"score": 1.0, "grid": values, "grid_height": 1, "grid_width": 2, "notes": ["so"]})


def test_what_is_still_to_do():
    new = Task("A", "gradcam", wanted=True)
    assert (new.scored, new.mapped, new.lacks_map, new.done) == (False, False, True, False)
    new.row["score"] = 0.0
    assert (new.scored, new.done) == (True, False)
    new.wanted = False
    assert new.done


def test_maps_that_are_one_are_marked_once():
    tasks = [task("a", [1, -2]), task("b", [2, -4]), task("c", [1, 2]), task("a", [1, -2], "B"), Task("A", "d")]
    for _ in range(2):
        mark_same(tasks)
    assert [t.row.get("notes") for t in tasks] == [
        ["so"],
        ["so", "the same map as a: the two methods are one here"],
        ["so"],
        ["so"],
        None,
    ]
    assert grid_of(tasks[0]).shape == (1, 2)


def test_faults_are_written_down_and_the_first_counts():
    tasks = [Task("A", "a"), Task("A", "b", fault="before")]
    with noted(tasks):
        raise IndexError("out\nof range")
    with noted(tasks):
        raise PictureError("too late")
    assert [t.fault for t in tasks] == ["IndexError: out of range", "before"]


def test_a_folder_that_cannot_be_written_is_no_fault_of_a_row():
    with pytest.raises(StoreError), noted([Task("A", "a")]):
        raise StoreError("full")
