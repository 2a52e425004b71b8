"""Pictures, patients, annotations and targets, from folders and tables."""

import numpy as np
import pytest

from camscope.errors import AnnotationError, CamscopeError, SettingError
from camscope.evaluation.data import Item, read_items


def test_boxes_and_masks_of_a_table_say_the_same(folder):
    boxes = read_items(folder / "pictures.csv", boxes="box", target="red")
    masks = read_items(folder / "pictures.csv", masks="mask")
    assert boxes.patients
    assert boxes.annotated == 6
    assert [item.patient for item in boxes.items] == ["P0", "P1", "P2", "P3", "P0", "P1"]
    assert boxes.items[2].line == 4
    assert boxes.items[0].target == "red"
    for one, other in zip(boxes.items, masks.items, strict=True):
        assert np.array_equal(one.mask((48, 48)), other.mask((48, 48)))
        assert one.mask((48, 48)).sum() == 18 * 18


def test_a_folder_with_a_folder_of_masks_by_name(folder):
    (folder / "masks" / "p5.png").unlink()
    items = read_items(folder, masks=str(folder / "masks"))
    assert [item.image for item in items.items] == [f"p{k}.png" for k in range(6)]
    assert items.annotated == 5
    assert not items.patients
    assert items.items[3].mask((48, 48))[30:, 30:].all()
    assert items.items[5].mask((48, 48)) is None


def test_masks_of_a_folder_for_the_rows_of_a_table(folder):
    items = read_items(folder / "pictures.csv", masks=str(folder / "masks"))
    assert all(np.array_equal(item.mask((48, 48)), item.mask((48, 48))) for item in items.items)
    assert items.annotated == 6


def test_several_annotations_of_a_picture_add_up(folder):
    items = read_items(folder / "pictures.csv", boxes="box", masks="mask")
    assert items.items[0].mask((48, 48)).sum() == 18 * 18


def test_targets_of_a_column(folder):
    assert {item.target for item in read_items(folder / "pictures.csv", target="column:truth").items} == {"red"}


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
        read_items(folder / "pictures.csv", **options)


@pytest.mark.parametrize("options", [{"boxes": "box"}, {"patient": "patient"}, {"target": "column:truth"}])
def test_columns_of_a_folder(folder, options):
    with pytest.raises(SettingError, match="is a folder"):
        read_items(folder, **options)


def test_no_table(tmp_path):
    with pytest.raises(CamscopeError, match="there is no file"):
        read_items(tmp_path / "t.csv")


def test_rows_that_cannot_be_used_say_why(tmp_path):
    (tmp_path / "t.csv").write_text("path,patient,truth\n,P1,1\na.png,,1\nb.png,P2,\n")
    problems = [item.problem for item in read_items(tmp_path / "t.csv", target="column:truth").items]
    assert problems == [
        "path is blank: name the image file",
        "patient is blank: name the patient",
        "truth is blank: name the class",
    ]


def test_an_annotation_without_a_pixel():
    with pytest.raises(AnnotationError, match="covers no pixel"):
        Item(0, 1, "a.png", "a.png", "P", ("0.1,0.1,0.2,0.2",)).mask((8, 8))
