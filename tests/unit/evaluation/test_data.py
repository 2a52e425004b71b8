"""Images, patients, annotations and targets, from folders and tables."""

import numpy as np
import pytest
from PIL import Image

from camscope.cohort.case import Case
from camscope.errors import AnnotationError, CamscopeError, SettingError
from camscope.evaluation.data import read_data


def test_boxes_and_masks_of_a_table_say_the_same(folder):
    boxes = read_data(folder / "pictures.csv", boxes="box", target="red")
    masks = read_data(folder / "pictures.csv", masks="mask")
    assert boxes.patients
    assert boxes.annotated == 6
    assert [case.patient for case in boxes.cases] == ["P0", "P1", "P2", "P3", "P0", "P1"]
    assert boxes.cases[2].line == 4
    assert boxes.cases[0].target == "red"
    for one, other in zip(boxes.cases, masks.cases, strict=True):
        assert np.array_equal(one.annotation((48, 48)), other.annotation((48, 48)))
        assert one.annotation((48, 48)).sum() == 18 * 18


@pytest.mark.filterwarnings("ignore:.*no patients are known")
def test_a_folder_with_a_folder_of_masks_by_name(folder):
    (folder / "masks" / "p5.png").unlink()
    cases = read_data(folder, masks=str(folder / "masks"))
    assert [case.image for case in cases.cases] == [f"p{k}.png" for k in range(6)]
    assert cases.annotated == 5
    assert not cases.patients
    assert cases.cases[3].annotation((48, 48))[30:, 30:].all()
    assert cases.cases[5].annotation((48, 48)) is None


def test_masks_of_a_folder_for_the_rows_of_a_table(folder):
    cases = read_data(folder / "pictures.csv", masks=str(folder / "masks"))
    assert all(np.array_equal(case.annotation((48, 48)), case.annotation((48, 48))) for case in cases.cases)
    assert cases.annotated == 6


def test_several_annotations_of_a_picture_add_up(folder):
    cases = read_data(folder / "pictures.csv", boxes="box", masks="mask")
    assert cases.cases[0].annotation((48, 48)).sum() == 18 * 18


def test_targets_of_a_column(folder):
    assert {case.target for case in read_data(folder / "pictures.csv", target="column:truth").cases} == {"red"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"boxes": "bax"}, "no column called 'bax'; nearest: 'box'"),
        ({"masks": "nowhere"}, "no column called 'nowhere'"),
        ({"target": "column:t"}, "--target names it"),
        ({"image": "img"}, "--image names it"),
        ({"patient": "case"}, "--patient names it"),
    ],
)
def test_columns_that_are_not_there(folder, options, said):
    with pytest.raises(SettingError, match=said):
        read_data(folder / "pictures.csv", **options)


@pytest.mark.parametrize("options", [{"boxes": "box"}, {"patient": "patient"}, {"target": "column:truth"}])
def test_columns_of_a_folder(folder, options):
    with pytest.raises(SettingError, match="no column called"):
        read_data(folder, **options)


@pytest.mark.filterwarnings("ignore:.*no patients are known")
def test_class_folders_are_read_as_in_training(tmp_path):
    for name in ("benign/a.png", "benign/a_mask.png", "malignant/b.png", "out/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 255).save(tmp_path / name)
    data = read_data(tmp_path, masks="mask", target="column:class", exclude=[tmp_path / "out"])
    assert [(case.number, case.image, case.target) for case in data.cases] == [
        (0, "benign/a.png", "benign"),
        (1, "malignant/b.png", "malignant"),
    ]
    assert data.cases[0].annotation((8, 8)).all()
    assert data.annotated == 1
    with pytest.raises(SettingError, match="no images but those in"):
        read_data(tmp_path, exclude=[tmp_path])


def test_no_table(tmp_path):
    with pytest.raises(CamscopeError, match="there is no file"):
        read_data(tmp_path / "t.csv")


def test_rows_that_cannot_be_used_say_why(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("path,patient,truth\n,P1,1\na.png,,1\nb.png,P2,\n")
    problems = [case.problem for case in read_data(tmp_path / "t.csv", target="column:truth").cases]
    assert problems == [
        "path is blank: name the image file",
        "patient is blank: name the patient",
        "truth is blank: name the class",
    ]


def test_an_annotation_without_a_pixel():
    with pytest.raises(AnnotationError, match="covers no pixel"):
        Case(0, 1, "a.png", "a.png", "P", masks={"box": "3.1,3.1,3.2,3.2"}).annotation((8, 8))


@pytest.mark.filterwarnings("ignore:.*no patients are known")
def test_masks_that_fit_no_image_are_an_error(folder, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "masks" / "other.png")
    with pytest.raises(SettingError, match=r"none of the 6 images of .* has a mask or box"):
        read_data(folder, masks=str(tmp_path / "masks"))
