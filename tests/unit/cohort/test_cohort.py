"""Rows as cases: what they say, what is wrong with them, how their images are called."""

import pickle

import pytest

from camscope.cohort.cohort import Cohort
from camscope.study.config import StudyFile

HEAD = "path,patient,view,sex,a,b,where"


def study_file(tmp_path, *rows, explain=None, **settings):
    (tmp_path / "t.csv").write_text("\n".join([HEAD, *rows]) + "\n", encoding="utf-8")
    content = {
        "cohort": {"table": "t.csv", "root": "images", "patient": "patient", "group": "view"} | settings,
        "labels": {"A": {"column": "a", "model": "m", "mask": "where"}, "B": {"column": "b", "model": "m"}},
        "explain": explain or {},
    }
    return StudyFile.model_validate(content)


def cohort(tmp_path, *rows, **settings):
    file = study_file(tmp_path, *rows, **settings)
    return Cohort(file.cohort, file.labels, tmp_path, files=file.explain.files)


def test_a_case(tmp_path):
    cues = {"token": {"column": "b", "mask": "where"}}
    (case,) = cohort(tmp_path, ' d/x.png , P1 ,AP,M,1,-1,"1,2,3,4"', cues=cues, strata=["sex"]).cases()
    assert (case.number, case.line, case.image, case.patient, case.group) == (0, 2, "d/x.png", "P1", ("AP",))
    assert case.source == str(tmp_path / "images/d/x.png")
    assert case.truth == {"A": True, "B": None}
    assert case.masks == {"label:A": "1,2,3,4", "cue:token": "1,2,3,4"}
    assert (case.cues, case.strata, case.problems) == ({"token": None}, {"sex": "M"}, {})


def test_addresses(tmp_path):
    (case,) = cohort(tmp_path, "x.png,P1,AP,M,1,0,", root="s3://bucket/images").cases()
    assert case.source == "s3://bucket/images/x.png"
    (case,) = cohort(tmp_path, "gs://other/x.png,P1,AP,M,1,0,").cases()
    assert case.source == "gs://other/x.png"


@pytest.mark.parametrize(
    ("row", "where", "said"),
    [
        (",P2,AP,M,1,0,", "", "path is blank"),
        ("y.png,,AP,M,1,0,", "", "patient is blank"),
        ("x.png,P1,PA,M,1,0,", "", "the same image and patient as line 2"),
        ("y.png,P2", "", "has 2 cells"),
        ("y.png,P2,AP,M,perhaps,0,", "A", "a = 'perhaps': expected 1, 0, -1 or blank"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, where, said):
    good, bad = cohort(tmp_path, "x.png,P1,AP,M,1,0,", row).cases()
    assert good.problems == {}
    assert list(bad.problems) == [where]
    assert said in bad.problems[where]


@pytest.mark.parametrize(("uncertain", "truth"), [("drop", None), ("positive", True), ("negative", False)])
def test_uncertain_labels(tmp_path, uncertain, truth):
    made = cohort(tmp_path, "x.png,P1,AP,M,-1,0,")
    made.labels["A"] = made.labels["A"].model_copy(update={"uncertain": uncertain})
    assert next(made.cases()).truth["A"] is truth


def names(tmp_path, *rows, pattern="{group}/{patient}/{image}_{label}.jpg", **settings):
    return [case.name for case in cohort(tmp_path, *rows, explain={"files": pattern}, **settings).cases()]


def test_a_part_has_the_same_cases_wherever_it_is_read(tmp_path, monkeypatch):
    rows = ("a/x.png,P1,AP,M,1,0,", ",P2,AP,M,1,0,", "b/x.png,P1,AP,F,0,1,", "a/x.png,P1,AP,M,1,0,")
    whole = cohort(tmp_path, *rows)
    part = pickle.loads(pickle.dumps(whole.part(whole.table.slice(2))))
    monkeypatch.chdir("/")
    assert list(part.cases()) == list(whole.cases())[2:]
    assert len(part) == 2


def test_names_of_images_stay_short_where_they_can(tmp_path):
    rows = ("a/x.png,P1,AP,M,1,0,", "a/x.png,P1,PA,M,1,0,", "a/x.png,P2,AP,M,1,0,")
    assert names(tmp_path, *rows) == ["x", "x", "x"]


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        (["a/x.png,P1,AP,M,1,0,", "b/x.png,P1,AP,M,1,0,"], "{group}/{patient}/{image}_{label}.jpg"),
        (["a/x.png,P1,AP,M,1,0,", "a/X.png,P1,AP,M,1,0,"], "{group}/{patient}/{image}_{label}.jpg"),
        (["x.dcm#1,P1,AP,M,1,0,", "x.dcm#2,P1,AP,M,1,0,"], "{group}/{patient}/{image}_{label}.jpg"),
        (["a/x.png,P1,AP,M,1,0,", "b/x.png,P2,AP,M,1,0,"], "{image}_{label}.jpg"),
        (["a/y_z.png,x,AP,M,1,0,", "b/z.png,x_y,AP,M,1,0,"], "{patient}_{image}_{label}.jpg"),
    ],
)
def test_no_two_cases_have_one_name(tmp_path, rows, pattern):
    first, second = names(tmp_path, *rows, pattern=pattern)
    assert first.lower() != second.lower()


def test_without_patients_every_image_is_its_own(tmp_path):
    first, second = names(tmp_path, "a/x.png,,AP,M,1,0,", "b/x.png,,PA,M,1,0,", patient=None)
    assert first != second


def test_what_is_wrong_with_rows_has_its_line(tmp_path):
    rows = [f"{n}.png,P{n // 2},{'AP' if n % 2 else 'PA'},M,0,1," for n in range(12)]
    rows[3] = "3.png,P1,AP,F,maybe,1,"
    rows.append("./1.png,P9,AP,M,0,1,")
    found = cohort(tmp_path, *rows, strata=["sex"]).problems()
    assert {(problem.line, problem.text.split(":")[0]) for problem in found} == {
        (5, "a = 'maybe'"),
        (None, "label 'A' has no positive case"),
        (14, "image '1.png' has 2 patients"),
        (5, "patient 'P1' has several values of sex"),
    }


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["P1", "p1", "P2"], [("P1", "p1")]),
        (["7", "07", "7.0", "70", "0"], [("07", "7", "7.0")]),
        (["1-11", "11-1", "1.10", "1.1", "a.0", "a"], []),
    ],
)
def test_patients_whose_names_may_be_one(tmp_path, names, alike):
    rows = [f"{n}.png,{name},AP,M,0,1," for n, name in enumerate(names)]
    assert cohort(tmp_path, *rows).alike_patients() == alike


def test_missing_columns(tmp_path):
    made = cohort(tmp_path, "x.png,P1,AP,M,1,0,", patient="pationt")
    (problem,) = made.missing
    assert "no column called 'pationt'; nearest: 'patient'" in problem.text
    assert problem.line == 1
