"""What a study will do, counted."""

import pytest

from camscope.explanation.batch import BatchExplainer
from camscope.study.plan import plan
from camscope.study.study import Study


@pytest.mark.parametrize(("when", "maps"), [("present", 8), ("all", 16)])
def test_the_work_of_a_study(make_study, when, maps):
    found = plan(Study.read(make_study(explain=f'when = "{when}"')))
    assert (found.images, found.patients, found.rows, found.forwards, found.maps) == (8, 4, 16, 16, maps)
    assert found.seconds > 0


def test_only_a_few_pictures_are_tried(make_study, monkeypatch):
    seen = []
    over = BatchExplainer.over.__func__

    def counted(cls, model, samples, **settings):
        seen.append(len(samples))
        return over(cls, model, samples, **settings)

    monkeypatch.setattr(BatchExplainer, "over", classmethod(counted))
    plan(Study.read(make_study(40)))
    assert sum(seen) <= 16


def test_no_picture_can_be_read(make_study):
    path = make_study(2)
    for file in (path.parent / "images").rglob("*.png"):
        file.unlink()
    assert plan(Study.read(path)).seconds is None
