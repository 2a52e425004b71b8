"""What `init` proposes where several readings are possible, and what it says about them."""

import numpy as np
import pytest
from PIL import Image

from camscope.cohort.draft import draft
from camscope.errors import SettingError
from layout_folders import dicom

NAMES = "abcd"


@pytest.fixture
def images(tmp_path):
    def make(*folders):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for number, name in enumerate(NAMES):
                Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / folder / f"{name}.png")

    return make


def write(path, *columns, rows=None):
    rows = rows or [f"{name}.png,{number // 2},{number % 2}" for number, name in enumerate(NAMES)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")


def test_images_are_not_taken_from_a_folder_of_masks(images, tmp_path):
    images("ground_truth", "images")
    write(tmp_path / "t.csv", "image", "patient", "Effusion")
    proposal = draft(tmp_path, results=tmp_path)
    assert proposal.cohort["image"] == "images/{image}"
    assert proposal.notes == ["the images are also found in ground_truth; those in images are used"]


def test_images_beside_the_table_need_no_note(images, tmp_path):
    images(".", "small")
    write(tmp_path / "t.csv", "image", "patient", "Effusion")
    proposal = draft(tmp_path, results=tmp_path)
    assert proposal.cohort["image"] == "image"
    assert proposal.notes == []


def test_other_tables_are_named(images, tmp_path):
    images("train")
    write(tmp_path / "sample_submission.csv", "image", "patient", "label")
    write(tmp_path / "train.csv", "image", "patient", "label")
    (tmp_path / "words.csv").write_text("word\nx\n")
    proposal = draft(tmp_path, results=tmp_path)
    assert proposal.cohort["table"] == "train.csv"
    assert proposal.notes == ["the table is train.csv; not used: sample_submission.csv"]
    assert draft(tmp_path / "train.csv", results=tmp_path).notes == []


@pytest.mark.parametrize(("answer", "patient", "count"), [("subject", "subject", 0), (None, "patient", 1)])
def test_one_of_several_columns(images, tmp_path, answer, patient, count):
    images(".")
    rows = [f"{name}.png,1,{name in 'ab':d},2" for name in NAMES]
    write(tmp_path / "t.csv", "image", "patient", "Effusion", "subject", rows=rows)
    asked = []
    proposal = draft(tmp_path, results=tmp_path, ask=lambda *question: asked.append(question) or answer)
    assert proposal.cohort.get("patient") == patient
    assert asked == [("Which column is that of the patient?", ["patient", "subject"])]
    assert proposal.notes == ["patient is taken for the patient; subject could be it too"] * count


def test_run_lengths_of_any_competition_are_not_those_of_siim(images, tmp_path):
    images(".")
    rows = ["a.png,3 2 9 1", "a.png,20 1", "b.png,", "c.png,1 2", "d.png,1 1"]
    write(tmp_path / "train_masks.csv", "ImageId", "EncodedPixels", rows=rows)
    proposal = draft(tmp_path, results=tmp_path)
    assert proposal.layout == ""
    assert proposal.cohort["masks"] == {"EncodedPixels": "EncodedPixels"}


@pytest.mark.parametrize(
    ("cell", "taken", "said"),
    [
        (
            '"0.1,0.2,0.6,0.7"',
            False,
            "such as '0.1,0.2,0.6,0.7': give them in pixels",
        ),
        ('"[1.0, 1.0, 5.0, 5.0]"', False, "cannot be read as masks: '[1.0, 1.0, 5.0, 5.0]'"),
        ('"[1. 1. 5. 5.]"', False, "cannot be read as masks: '[1. 1. 5. 5.]'"),
        ('"[[""Mass"", 1, 1, 5, 5]]"', False, "cannot be read as masks: '[[\"Mass\", 1, 1, 5, 5]]'"),
        ('"[[1, 1, 5, 5]]"', True, ""),
        ("3 2 9 1", True, ""),
    ],
)
def test_cells_of_boxes(images, tmp_path, cell, taken, said):
    images(".")
    rows = [f"a.png,1,1,{cell}", "b.png,1,0,NA", "c.png,2,1,None", "d.png,2,0,-1"]
    write(tmp_path / "t.csv", "image", "patient", "Effusion", "Effusion_box", rows=rows)
    proposal = draft(tmp_path, results=tmp_path)
    assert ("mask" in proposal.labels["Effusion"]) is taken
    assert said in "".join(proposal.notes)
    assert bool(proposal.notes) is bool(said)


def test_class_folders_of_dicom_files_keep_their_classes(tmp_path):
    for number in range(8):
        folder = tmp_path / "d" / ("COVID", "Normal")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        dicom(folder / f"{number}.dcm", PatientID=f"P{number // 2}")
    proposal = draft(tmp_path / "d", results=tmp_path)
    assert list(proposal.labels) == ["COVID", "Normal"]
    assert "laterality, date, class; patients" in proposal.notes[0]


def test_folders_of_patients_are_no_classes(tmp_path):
    for number in range(4):
        (tmp_path / "d" / f"P{number // 2}").mkdir(parents=True, exist_ok=True)
        dicom(tmp_path / "d" / f"P{number // 2}" / f"{number}.dcm", PatientID=f"P{number // 2}")
    assert draft(tmp_path / "d", results=tmp_path).labels == {}
    assert (tmp_path / "cohort.csv").read_text().startswith("path,patient,study,view,laterality,date\n")
    draft(tmp_path / "d", results=tmp_path)  # its own table is written again


def test_a_table_of_the_user_is_not_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    for number in range(2):
        dicom(tmp_path / "d" / f"{number}.dcm", PatientID=f"P{number}")
    (tmp_path / "cohort.csv").write_text("mine\n1\n")
    with pytest.raises(SettingError, match=r"cohort\.csv exists already and is another table"):
        draft(tmp_path / "d", results=tmp_path)
    assert (tmp_path / "cohort.csv").read_text() == "mine\n1\n"


@pytest.mark.filterwarnings("ignore:.*no patients are known")
@pytest.mark.parametrize(
    ("folders", "table", "image"),
    [
        (("test", "train"), "train.csv", "train/{image}"),
        (("test", "train"), "labels_test.csv", "test/{image}"),
        (("gt", "raw"), "labels.csv", "raw/{image}"),
    ],
)
def test_of_several_folders_with_the_images_the_one_of_the_table_s_name_is_taken(tmp_path, folders, table, image):
    for name in folders:
        (tmp_path / name).mkdir()
        for k in range(4):
            Image.new("L", (4, 4), k).save(tmp_path / name / f"{k}.png")
    (tmp_path / table).write_text("image,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    proposal = draft(tmp_path / table, results=tmp_path)
    assert proposal.cohort["image"] == image
    assert any("the images are also found in" in note for note in proposal.notes)


@pytest.mark.filterwarnings("ignore:.*no patients are known")
def test_grades_are_labels(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image,grade_label,age\n" + "".join(f"a.png,{k % 3},{50 + k}\n" for k in range(9)))
    proposal = draft(tmp_path / "t.csv", results=tmp_path)
    assert proposal.labels == {str(k): {"column": "grade_label", "contains": str(k)} for k in range(3)}
