"""The one loop from cases to rows."""

import hashlib

import pytest

from camscope.cohort.case import Case
from camscope.cohort.runner import Task, Work, attempt, noted, read_cases
from camscope.errors import OutputError, PictureError, StoreError


class Recorder:
    """A step that says what it was asked."""

    def __init__(self, cached=()):
        self.cached, self.prepared = set(cached), []

    def begin(self, case):
        return Work(case, [Task("a"), Task("b")])

    def reuse(self, work):
        return work.sha256 not in self.cached

    def prepare(self, work, content):
        if content == b"broken":
            raise PictureError("cannot be decoded")
        self.prepared.append((work.case.number, content))


def cases(folder, *contents):
    found = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.png"
        if content is not None:
            path.write_bytes(content)
        problems = {"": "no patient"} if content == b"problem" else {}
        found.append(Case(number, number + 2, path.name, str(path), "p", problems=problems))
    return found


def test_files_are_hashed_and_only_those_with_something_to_compute_are_decoded(tmp_path):
    sha = hashlib.sha256(b"known").hexdigest()
    step = Recorder(cached=[sha])
    works = list(read_cases(step, cases(tmp_path, b"new", b"known"), ahead=1))
    assert [work.case.number for work in works] == [0, 1]
    assert works[1].sha256 == sha
    assert step.prepared == [(0, b"new")]
    assert not any(work.failed for work in works)


def test_a_case_that_cannot_be_read_has_rows_that_say_why(tmp_path):
    step = Recorder()
    works = list(read_cases(step, cases(tmp_path, b"new", None, b"broken", b"problem", b"last"), ahead=3))
    assert [work.failed for work in works] == [False, True, True, True, False]
    assert {task.fault for task in works[2].tasks} == {"cannot be decoded"}
    assert works[2].sha256 == hashlib.sha256(b"broken").hexdigest()
    assert {task.fault for task in works[3].tasks} == {"no patient"}
    assert works[3].sha256 is None
    assert [number for number, _ in sorted(step.prepared)] == [0, 4]


def test_reading_stays_within_what_is_allowed(tmp_path):
    taken = []

    def counted():
        for case in cases(tmp_path, *[b"x"] * 8):
            taken.append(case.number)
            yield case

    works = read_cases(Recorder(), counted(), ahead=3)
    next(works)
    assert len(taken) == 3
    works.close()


def test_what_fails_together_is_tried_alone():
    seen, failed = [], []

    def compute(items):
        seen.append(list(items))
        if 3 in items:
            raise ValueError("three")
        return sum(items)

    found = list(attempt(compute, [1, 2, 3], fail=lambda item, error: failed.append((item, str(error)))))
    assert found == [(1, [1]), (2, [2])]
    assert seen == [[1, 2, 3], [1], [2], [3]]
    assert failed == [(3, "three")]
    assert list(attempt(compute, [1, 2], fail=lambda *_: pytest.fail("none fails"))) == [(3, [1, 2])]
    assert list(attempt(compute, [], fail=lambda *_: pytest.fail("there is none"))) == []


def test_each_single_result_is_made_when_it_is_asked_for():
    seen = []

    def compute(items):
        seen.append(list(items))
        if len(items) > 1:
            raise MemoryError
        return items[0]

    found = attempt(compute, [1, 2], fail=lambda *_: pytest.fail("none fails alone"))
    assert next(found) == (1, [1])
    assert seen == [[1, 2], [1]]


@pytest.mark.parametrize("error", [StoreError, OutputError])
def test_a_folder_that_cannot_be_written_and_a_model_of_another_kind_are_no_fault_of_a_row(error):
    def compute(_):
        raise error("full")

    with pytest.raises(error):
        list(attempt(compute, [1, 2], fail=lambda *_: pytest.fail("not the item's")))
    with pytest.raises(StoreError), noted([Task("a")]):
        raise StoreError("full")


def test_faults_are_written_down_and_the_first_counts():
    tasks = [Task("a"), Task("b", fault="before")]
    with noted(tasks):
        raise IndexError("out\nof range")
    with noted(tasks):
        raise PictureError("too late")
    assert [t.fault for t in tasks] == ["IndexError: out of range", "before"]
