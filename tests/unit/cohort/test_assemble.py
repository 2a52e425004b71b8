"""The parts of a study file that make one row per case of the tables as they are."""

import json

import numpy as np
import pytest
from PIL import Image

from camscope.cohort.cohort import Cohort
from camscope.cohort.sections import CohortSection, LabelRule
from camscope.errors import StudyError


def cohort(folder, text, labels=None, **settings):
    (folder / "t.csv").write_text(text)
    section = CohortSection.model_validate({"table": "t.csv", **settings})
    return Cohort(section, {name: LabelRule.model_validate(rule) for name, rule in (labels or {}).items()}, folder)


def test_images_and_patients_put_together_and_taken_apart(tmp_path):
    text = "subject_id,study_id,dicom_id,Path\n10000032,50,02aa,d/patient00007/study1/view1.jpg\n"
    image = "files/p{subject_id:.2}/p{subject_id}/s{study_id:0>4}/{dicom_id}.jpg"
    (case,) = cohort(tmp_path, text, image=image, patient={"from": "Path", "pattern": r"patient(\d+)"}).cases()
    assert case.image == "files/p10/p10000032/s0050/02aa.jpg"
    assert case.patient == "00007"
    columns = {"key": {"from": "Path", "pattern": r"(patient\d+)/(study\d+)/(view\d)"}}
    (case,) = cohort(tmp_path, text, image="dicom_id", columns=columns, group=["key"]).cases()
    assert case.group == ("patient00007_study1_view1",)


def test_a_pattern_that_finds_nothing_is_a_row_that_fails(tmp_path):
    text = "Path\nd/patient1/a.png\nd/other/b.png\n"
    good, bad = cohort(tmp_path, text, patient={"from": "Path", "pattern": r"patient(\d+)"}).cases()
    assert (good.patient, good.problem) == ("1", "")
    assert bad.problem == r"Path ~ patient(\d+) is blank: name the patient"


def test_columns_that_a_template_lacks_are_named(tmp_path):
    (problem,) = cohort(tmp_path, "id,x\n1,2\n", image="{idd}.png").missing
    assert "no column called 'idd'; nearest: 'id'" in problem.text
    with pytest.raises(StudyError, match=r"the template '\{id:d\}' cannot be filled"):
        cohort(tmp_path, "id,x\n1,2\n", image="{id:d}")


def test_joined_tables(tmp_path):
    (tmp_path / "labels.csv").write_text("study,Edema,path\ns1,1,other\ns2,0,other\n")
    text = "path,study\na.png,s1\nb.png, s1 \nc.png,s2\nd.png,s3\n"
    labels = {"Edema": {"column": "Edema"}}
    made = cohort(tmp_path, text, labels, join=[{"table": "labels.csv", "on": ["study"]}])
    assert [case.truth["Edema"] for case in made.cases()] == [True, True, False, None]
    assert [case.image for case in made.cases()] == ["a.png", "b.png", "c.png", "d.png"]
    assert made.notes == (
        "1 of 4 rows have no partner in labels.csv, the first with study = 's3'",
        "labels.csv has another path for 3 rows, which is not used: give the join a prefix",
    )
    rules = {"Edema": {"column": "report Edema"}}
    join = [{"table": "labels.csv", "on": {"study": "study"}, "prefix": "report "}]
    assert [case.truth["Edema"] for case in cohort(tmp_path, text, rules, join=join).cases()][:1] == [True]


@pytest.mark.parametrize(
    ("other", "on", "said"),
    [
        ("study,e\ns1,1\ns1,0\n", ["study"], "has several rows with study = s1"),
        ("study,e\nx1,1\n", ["study"], "no row has a partner in labels.csv: study is 's1' here and 'x1' there"),
        ("study,e\ns1,1\n", ["stody"], "no column called 'stody'; nearest: 'study'"),
        ("study,e\ns1,1\n", {"study": "stody"}, "no column called 'stody'; nearest: 'study'"),
    ],
)
def test_tables_that_cannot_be_joined(tmp_path, other, on, said):
    (tmp_path / "labels.csv").write_text(other)
    with pytest.raises(StudyError, match=said):
        cohort(tmp_path, "path,study\na.png,s1\n", join=[{"table": "labels.csv", "on": on}])


@pytest.mark.parametrize(
    ("cell", "rule", "truth"),
    [
        ("yes", {}, True),
        ("False", {}, False),
        ("Positive", {}, True),
        ("", {}, None),
        ("nan", {}, None),
        ("", {"blank": "negative"}, False),
        ("-1.0", {"uncertain": "positive"}, True),
        ("Mass|Effusion", {"contains": "effusion"}, True),
        ("Mass|Effusion left", {"contains": "Effusion"}, False),
        ("['Mass', 'Effusion']", {"contains": "Effusion"}, True),
        ("['Mass' 'Effusion']", {"contains": "Effusion"}, True),
        ('["Mass"]', {"contains": ["Effusion", "Mass"]}, True),
        ("No Finding", {"contains": "Effusion"}, False),
        ("", {"contains": "Effusion"}, None),
        ("", {"contains": "Effusion", "blank": "negative"}, False),
        ("-1", {"absent": "-1"}, False),
        ("5 3 9 1", {"absent": "-1"}, True),
        ("0.2", {"above": 0.1}, True),
        ("0.1", {"above": 0.1}, False),
        ("", {"above": 0.1}, None),
    ],
)
def test_what_cells_say_of_a_label(tmp_path, cell, rule, truth):
    quoted = '"' + cell.replace('"', '""') + '"'
    (case,) = cohort(tmp_path, f"path,x\na.png,{quoted}\n", {"L": {"column": "x", **rule}}).cases()
    assert (case.truth["L"], case.problems) == (truth, {})


def test_a_cell_that_says_nothing_of_a_label_fails(tmp_path):
    (case,) = cohort(tmp_path, "path,x\na.png,maybe\n", {"L": {"column": "x"}}).cases()
    assert case.problems == {"L": "x = 'maybe': expected 1, 0, -1 or blank"}
    (case,) = cohort(tmp_path, "path,x\na.png,much\n", {"L": {"column": "x", "above": 1}}).cases()
    assert "x = 'much'" in case.problems["L"]


@pytest.mark.parametrize(("votes", "truths"), [("any", [1, 1, 0]), ("majority", [0, 1, 0]), (3, [0, 0, 0])])
def test_votes_of_readers(tmp_path, votes, truths):
    says = {"a": (1, 0, 0), "b": (1, 1, 0), "c": (0, 0, 0)}
    rows = [f"{name}.png,R{k},{value}" for name, values in says.items() for k, value in enumerate(values)]
    text = "\n".join(["path,reader,x", *rows])
    cases = list(cohort(tmp_path, text, {"L": {"column": "x"}}, votes=votes, reader="reader").cases())
    assert [int(case.truth["L"]) for case in cases] == truths
    assert [case.line for case in cases] == [2, 5, 8]


def test_a_reader_with_several_rows_has_one_vote(tmp_path):
    rows = ["a.png,R1,Mass", "a.png,R1,Nodule", "a.png,R1,Mass", "a.png,R2,Nodule", "a.png,R3,No finding"]
    labels = {name: {"column": "x", "contains": name} for name in ("Mass", "Nodule")}
    (case,) = cohort(tmp_path, "\n".join(["path,rad,x", *rows]), labels, votes="majority", reader="rad").cases()
    assert case.truth == {"Mass": False, "Nodule": True}


def test_repeated_rows_fail_unless_votes_make_them_one(tmp_path):
    text = "path,x\na.png,1\na.png,0\n"
    assert "a case counts once, unless votes" in list(cohort(tmp_path, text).cases())[1].problem
    (case,) = cohort(tmp_path, text, votes="any").cases()
    assert case.problem == ""


BOXES = "image,x,y,w,h,name\na,1,2,3,4,Mass\na,10,5,2,2,Nodule\nb,0,0,5,5,mass\n"


@pytest.mark.parametrize(
    ("name", "boxes", "areas"),
    [("Mass", "Mass", [12, 25, None]), ("Nodule", "Nodule", [4, None, None]), ("all", "*", [16, 25, None])],
)
def test_boxes_with_a_row_each(tmp_path, name, boxes, areas):
    (tmp_path / "boxes.csv").write_text(BOXES)
    settings = {"table": "boxes.csv", "on": {"id": "image"}, "columns": ["x", "y", "w", "h"], "label": "name"}
    labels = {name: {"column": "l", "mask": {"boxes": boxes}}}
    cases = list(cohort(tmp_path, "id,l\na,1\nb,1\nc,0\n", labels, image="id", boxes=settings).cases())
    masks = [case.mask(f"label:{name}", (12, 20)).sum() if case.masks else None for case in cases]
    assert masks == areas


def test_boxes_in_the_table_of_the_cohort(tmp_path):
    text = "id,x_min,y_min,x_max,y_max,Target\na,1,2,4,6,1\na,10,5,12,7,1\nb,,,,,0\n"
    boxes = {"columns": ["x_min", "y_min", "x_max", "y_max"], "size": [12, 20]}
    labels = {"L": {"column": "Target", "mask": {"boxes": "*"}}}
    first, second = cohort(tmp_path, text, labels, image="id", boxes=boxes).cases()
    assert (first.truth["L"], second.truth["L"], second.masks) == (True, False, {})
    assert first.mask("label:L", (12, 20)).sum() == 12 + 4
    assert first.mask("label:L", (24, 40)).sum() == 4 * (12 + 4)  # on an image of twice the size


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"columns": ["a", "b", "c", "d"]}, "is not clear: add form"),
        ({"columns": ["a", "b"]}, "names 2 columns"),
        ({"columns": ["x", "y", "w", "h"], "table": "b.csv"}, "need on"),
        ({"columns": "box"}, "is not clear"),
    ],
)
def test_boxes_that_could_mean_two_things(settings, said):
    with pytest.raises(ValueError, match=said):
        CohortSection.model_validate({"table": "t", "boxes": settings})


def test_a_box_label_that_there_is_not(tmp_path):
    (tmp_path / "boxes.csv").write_text(BOXES)
    boxes = {"table": "boxes.csv", "on": {"id": "image"}, "columns": ["x", "y", "w", "h"], "label": "name"}
    with pytest.raises(StudyError, match="no box label called 'Mas'; nearest: 'Mass'"):
        cohort(tmp_path, "id\na\n", image="id", boxes=boxes, masks={"m": {"boxes": "Mas"}})
    with pytest.raises(StudyError, match=r"\[cohort.boxes\] is missing"):
        cohort(tmp_path, "id\na\n", image="id", masks={"m": {"boxes": "Mas"}})


def test_masks_with_a_coding_or_with_values(tmp_path):
    codes = np.zeros((12, 20), np.uint8)
    codes[2:5, 3:9] = 3
    Image.fromarray(codes).save(tmp_path / "m.png")
    masks = {
        "runs": {"from": "rle", "coding": "relative", "size": [6, 10]},
        "part": {"from": "{mask_file}.png", "values": [3]},
        "bit": {"from": "{mask_file}.png", "bits": 4},
    }
    first, second = cohort(tmp_path, "path,rle,mask_file\na.png,0 6 6 6,m\nb.png, -1,\n", masks=masks).cases()
    assert first.mask("runs", (6, 10)).sum(axis=0).tolist() == [6, 0, 6, 0, 0, 0, 0, 0, 0, 0]
    assert first.mask("part", (12, 20)).sum() == 18
    assert not first.mask("bit", (12, 20)).any()
    assert second.masks == {}


def test_rows_that_are_left_out_are_said(tmp_path):
    made = cohort(tmp_path, "path,view\na.png,F\nb.png,L\nc.png,F\n", only={"view": "F"})
    assert [case.image for case in made.cases()] == ["a.png", "c.png"]
    assert made.notes == ("1 of 3 rows are left out: view is not 'F'",)
    with pytest.raises(StudyError, match=r"leaves no row: view is never 'P', but 'F', 'L'"):
        cohort(tmp_path, "path,view\na.png,F\nb.png,L\n", only={"view": "P"})


def test_images_that_are_searched_and_windows_paths(tmp_path):
    for name in ("x/1.png", "x/2.png", "y/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    images = [case.image for case in cohort(tmp_path, "path\n1\n2\ntop/y/2.png\nz/1.png\n", search=True).cases()]
    assert images == ["x/1.png", "2", "y/2.png", "z/1.png"]  # "2" is two files; z/1.png is none
    made = cohort(tmp_path, "path\nx\\1.png\ny\\3.png\n")
    assert [case.image for case in made.cases()] == ["x/1.png", "y/3.png"]
    missing = made.missing_images()
    assert missing.text.startswith("1 of 2 images are missing, the first is 'y/3.png': there is no file")
    assert not missing.all


def test_what_would_fit_is_said(tmp_path):
    for n in range(12):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / f"images/{n}.png")
    text = "\n".join(["path", *map(str, range(12))])
    missing = cohort(tmp_path, text, root="images").missing_images()
    assert missing.all
    assert missing.text.endswith("12 of 12 are found with .png added to each name")
    missing = cohort(tmp_path, text).missing_images()
    folder = tmp_path / "images"
    assert missing.text.endswith(f"12 of 12 are found with .png added to each name in the folder {folder}")


def test_annotations_of_json_tables(tmp_path):
    rle = {"size": [12, 20], "counts": "V1750000LL04400000000000000^1JhN"}
    content = {"a1": {"Edema": rle, "Mass": {"size": [12, 20], "counts": "`7"}}}
    (tmp_path / "seg.json").write_text(json.dumps(content))
    join = [{"table": "seg.json", "on": {"id": "key"}, "prefix": "mask of "}]
    labels = {name: {"mask": f"mask of {name}"} for name in ("Edema", "Mass")}
    (case,) = cohort(tmp_path, "id\na1\n", labels, image="id", join=join).cases()
    assert list(case.masks) == ["label:Edema"]  # the mask of Mass has no pixel
    assert case.mask("label:Edema", (12, 20)).sum() == 84


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"votes": "all"}, 'votes = \'all\': expected "any", "majority" or a number of readers from 1'),
        ({"votes": 0}, "votes = 0: expected"),
        ({"votes": True}, "votes = True: expected"),
    ],
)
def test_votes_that_are_none(settings, said):
    with pytest.raises(ValueError, match=said):
        CohortSection.model_validate({"table": "t.csv", **settings})


def test_lone_values_and_numbers_are_lists_of_texts(tmp_path):
    settings = {"only": {"id": 1, "Sex": ["F", "X"]}, "strata": "Sex", "join": {"table": "t.csv", "on": "id"}}
    made = cohort(tmp_path, "path,id,Sex\na,1,F\nb,2,F\n", {"A": {"column": "id", "contains": 1}}, **settings)
    (case,) = made.cases()
    assert (case.image, case.strata, case.truth) == ("a", {"Sex": "F"}, {"A": True})
    assert "cohort.only: Sex is never 'X'" in made.notes
