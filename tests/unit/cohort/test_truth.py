"""The truth of a label from cells that are lists in many notations."""

import pytest

from camscope.cohort.cohort import Cohort
from camscope.cohort.sections import CohortSection, LabelRule
from camscope.cohort.truth import hidden_in, lists_of, reduced, values_of
from camscope.errors import StudyError


@pytest.mark.parametrize("cell", ["A, B", "B,A", "a;b", "{'A', 'B'}", '["B", "A"]', "B|A, C", "A"])
def test_contains_finds_a_value_in_a_list_of_any_notation(cell):
    assert reduced(cell, LabelRule(column="f", contains="A")) == "1"


@pytest.mark.parametrize("cell", ["no A, B", "AB", "A b", "A/B", '{"A": 0, "B": 1}', "{'B'}"])
def test_what_is_no_list_with_the_value(cell):
    assert reduced(cell, LabelRule(column="f", contains="A")) == "0"


def test_a_value_with_a_comma_is_found_whole():
    rule = LabelRule(column="f", contains="lung, left")
    assert [reduced(cell, rule) for cell in ("lung, left", "lung, right", "heart|lung, left")] == ["1", "0", "1"]


def test_a_separator_replaces_the_others():
    rule = LabelRule(column="f", contains="A", separator="/")
    assert [reduced(cell, rule) for cell in ("A/B", "B / A", "A, B", "A|B")] == ["1", "1", "0", "0"]
    with pytest.raises(ValueError, match="separator divides the values of contains"):
        LabelRule(column="f", separator="/")


@pytest.mark.parametrize(
    ("cell", "name", "hidden"),
    [
        ("Mass/Effusion", "Mass", True),
        ("Mass + Effusion", "effusion", True),
        ("Mass\nEffusion", "Mass", True),
        ("No Lung Opacity / Not Normal", "Normal", False),
        ("Mass, Effusion", "Mass", False),
        ("Nodule/Mass", "Nodule/Mass", False),
    ],
)
def test_cells_that_may_be_lists(cell, name, hidden):
    assert hidden_in(cell, LabelRule(column="f", contains=name)) is hidden


def test_a_note_names_such_cells(tmp_path):
    (tmp_path / "t.csv").write_text("path,f\na,A/B\nb,B\nc,B/A\n")

    def notes(**rule):
        rules = {"A": LabelRule(column="f", contains="A", **rule)}
        return Cohort(CohortSection.model_validate({"table": "t.csv"}), rules, tmp_path).notes

    (note,) = notes()
    assert note.startswith("A is read as absent in 2 rows such as 'A/B': if these cells are lists, set labels.A.sep")
    assert notes(separator="/") == ()


def test_commas_separate_values_if_one_of_them_is_a_cell():
    assert values_of(["B, A", "A", "C", ""]) == (["A", "B", "C"], True)
    assert values_of(["A, B", "C"]) == (["A, B", "C"], False)
    assert lists_of(["{'A', 'B'}"])[1]
    assert values_of(['{"A": 0}'])[0] == ['{"A": 0}']


def test_readers_are_trimmed_and_rows_without_a_reader_count_singly(tmp_path):
    (tmp_path / "t.csv").write_text("path,A,r\na,1,R1\na,1, R1 \na,0,R2\na,0,R3\nb,1,\nb,1,\nb,0,R3\n")
    section = CohortSection.model_validate({"table": "t.csv", "votes": 2, "reader": "r"})
    cases = Cohort(section, {"A": LabelRule(column="A")}, tmp_path).cases()
    assert [case.truth["A"] for case in cases] == [False, True]


def test_joins_do_not_match_blank_keys_and_name_columns_that_differ(tmp_path):
    (tmp_path / "t.csv").write_text("path,p,age\na,1,60\nb,,70\nc,2,80\n")
    (tmp_path / "j.csv").write_text("p,age,sex\n1,60,F\n,70,M\n,71,F\n2,81,M\n")
    join = {"table": "j.csv", "on": ["p"]}
    settings = {"table": "t.csv", "patient": "path", "strata": ["age", "sex"]}
    cohort = Cohort(CohortSection.model_validate(settings | {"join": [join]}), {}, tmp_path)
    assert [case.strata for case in cohort.cases()] == [
        {"age": "60", "sex": "F"},
        {"age": "70", "sex": ""},
        {"age": "80", "sex": "M"},
    ]
    assert cohort.notes == (
        "1 of 3 rows have no partner in j.csv, the first with p = ''",
        "j.csv has another age for 1 rows, which is not used: give the join a prefix",
    )
    (tmp_path / "j.csv").write_text("p,sex\n,M\n")
    with pytest.raises(StudyError, match=r"no row has a partner in j\.csv: p is '1' here and '' there"):
        Cohort(CohortSection.model_validate(settings | {"join": [join]}), {}, tmp_path)


@pytest.mark.parametrize("missing", ["NA", "nan", "#N/A", "<NA>", "null", " N/A "])
def test_missing_values_are_no_class(missing, tmp_path):
    assert values_of(["cat", missing, "dog"]) == (["cat", "dog"], False)
    assert values_of(["cat|dog", missing, "dog"]) == (["cat", "dog"], True)
    for rule in ({"contains": "cat"}, {"absent": "cat"}, {"above": 1.0}, {}):
        assert reduced(missing, LabelRule(column="f", **rule)) == ""
    (tmp_path / "t.csv").write_text(f"path,patient,f\na,{missing},cat\nb,{missing},dog\nc,p1,dog\n")
    cases = list(Cohort(CohortSection.model_validate({"table": "t.csv"}), {}, tmp_path).cases())
    assert [case.problem for case in cases] == ["patient is blank: name the patient"] * 2 + [""]


def test_a_missing_value_that_is_named_is_a_value():
    assert reduced("NA", LabelRule(column="continent", contains="NA")) == "1"
    assert reduced("None", LabelRule(column="f", contains="Mass")) == "0"


def test_values_that_differ_only_in_capitals_are_one():
    assert values_of(["cat", "Cat", "dog"]) == (["cat", "dog"], False)
    assert values_of(["Mass|effusion", "mass"]) == (["Mass", "effusion"], True)
