import numpy as np
import pytest
from PIL import Image

from camscope.errors import CamscopeError, SettingError
from camscope.models.loading import load
from camscope.training.dataset import UNKNOWN, read_dataset


def test_class_folders_make_one_class_right(class_folders):
    data = read_dataset(class_folders(2))
    assert data.labels == ("cat", "dog")
    assert data.outcome == "one"
    assert {(e.image, tuple(truth)) for e, truth in zip(data.cases, data.truth(data.cases), strict=True)} == {
        ("cat/0.png", (1, 0)), ("cat/1.png", (1, 0)), ("dog/0.png", (0, 1)), ("dog/1.png", (0, 1)),
    }  # fmt: skip
    assert len({e.patient for e in data.cases}) == 4


def test_the_radiography_layout_has_masks(tmp_path):
    for kind in ("images", "masks"):
        for name in ("COVID", "Normal"):
            (tmp_path / name / kind).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / name / kind / "x-1.png")
    data = read_dataset(tmp_path)
    assert [e.image for e in data.cases] == ["COVID/images/x-1.png", "Normal/images/x-1.png"]
    assert [e.masks["mask"] for e in data.cases] == ["COVID/masks/x-1.png", "Normal/masks/x-1.png"]


def test_folders_of_splits(class_folders, tmp_path):
    for split in ("train", "test"):
        class_folders(2, folder=f"data/{split}")
    data = read_dataset(tmp_path / "data")
    assert data.labels == ("cat", "dog")
    assert {(e.split, e.image.split("/")[0]) for e in data.cases} == {("train", "train"), ("test", "test")}
    assert all((tmp_path / "data" / e.image).samefile(e.source) for e in data.cases)


def test_a_column_of_names_makes_classes(table):
    data = read_dataset(
        table([{"patient": "a", "label": "dog"}, {"patient": "b", "label": "cat"}, {"patient": "b", "label": ""}])
    )
    assert (data.labels, data.outcome) == (("cat", "dog"), "one")
    assert data.truth(data.cases[:2]).tolist() == [[0, 1], [1, 0]]
    assert [e.problem for e in data.cases] == ["", "", UNKNOWN]
    assert not data.problems
    assert [e.patient for e in data.cases] == ["a", "b", "b"]


def test_columns_of_ones_and_noughts_make_labels(table):
    rows = [
        {"patient": "a", "Effusion": 1, "Mass": "", "age": 44},
        {"patient": "", "Effusion": 0, "Mass": 1, "age": 50},
    ]
    data = read_dataset(table(rows))
    assert (data.labels, data.outcome) == (("Effusion", "Mass"), "any")
    assert data.cases[0].truth == {"Effusion": True, "Mass": None}
    np.testing.assert_array_equal(data.truth(data.cases[:1]), [[1, np.nan]])
    assert data.cases[0].masks == {"age": "44"}
    assert data.cases[1].problem == "patient is blank: name the patient"
    assert data.only("Mass").cases[0].problem == UNKNOWN


def test_the_only_column_of_lists_of_names_holds_the_labels(table):
    cells = ("Effusion|Mass", "", "Mass", "No Finding")
    data = read_dataset(table([{"patient": n, "age": 40 + n, "findings": cell} for n, cell in enumerate(cells)]))
    assert (data.labels, data.outcome) == (("Effusion", "Mass"), "any")
    assert data.truth(data.cases)[[0, 2, 3]].tolist() == [[1, 1], [0, 1], [0, 0]]


def test_one_named_column_makes_a_binary_model(table):
    data = read_dataset(table([{"a": 1, "b": 0}, {"a": 0, "b": 1}]), labels=["b"])
    assert (data.labels, data.outcome, data.truth(data.cases).tolist()) == (("b",), "any", [[0], [1]])


def test_a_study_file_gives_its_labels_masks_and_patients(make_study):
    data = read_dataset(make_study(8), labels=["Effusion"])
    assert (data.labels, data.outcome, len(data.cases)) == (("Effusion",), "any", 8)
    assert data.masks == ("label",)
    assert data.cases[0].masks == {"label": "4,4,20,24"}
    assert [e.patient for e in data.cases[:3]] == ["P000", "P000", "P001"]
    assert len(read_dataset(make_study(8)).labels) == 2


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([{"label": "a"}, {"label": "a"}], {}, "one class in 'label', a"),
        ([{"age": 3}], {}, "no column of labels"),
        ([{"boxes": "1 2 3 4|5 6 7 8"}, {"boxes": "1 2 3 4"}], {}, "no column of labels"),
        ([{"masks": "a1.png|b1.png"}, {"masks": "a2.png|b2.png"}], {}, "no column of labels"),
        (
            [{"findings": "Mass|Effusion", "urgent": 1}, {"findings": "Mass", "urgent": 0}],
            {},
            r"choose with --label from findings \(lists of names\), urgent \(1 and 0\)",
        ),
        ([{"cat": 1}, {"cat": 0}], {"labels": ["cta"]}, "no column called 'cta'; nearest: 'cat'"),
        ([{"cat": 1}], {"patient": "pat"}, "no column called 'pat'"),
        ([{"cat": 1, "split": "tset"}], {}, "no split called 'tset'"),
    ],
)
def test_what_cannot_be_read_is_said(table, rows, more, said):
    with pytest.raises(SettingError, match=said):
        read_dataset(table(rows), **more)


def test_a_folder_has_no_columns_and_needs_two_classes(class_folders, tmp_path):
    with pytest.raises(SettingError, match="leave --label out"):
        read_dataset(class_folders(1), labels=["cat"])
    with pytest.raises(SettingError, match="one class, 'cat'"):
        read_dataset(class_folders(1, names=("cat",), folder="other"))
    with pytest.raises(CamscopeError):
        read_dataset(tmp_path / "missing.csv")


def labels_of(data):
    return data.truth(data.cases).tolist()


def test_the_labels_of_a_model_in_its_order(class_folders, table):
    data = read_dataset(class_folders(1, names=("cat", "dog", "eel")))
    three = load("timm:resnet10t", weights="none", labels=["eel", "Dog", "cat"])
    assert labels_of(data.for_model(three)) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    binary = load("timm:resnet10t", weights="none", labels=["dog"])
    assert labels_of(data.for_model(binary)) == [[0], [1], [0]]
    two = load("timm:resnet10t", weights="none", labels=["cat", "dgo"])
    with pytest.raises(SettingError, match="no class called 'dog'; nearest: 'dgo'"):
        data.for_model(two)
    with pytest.raises(SettingError, match="has no class names"):
        data.for_model(load("timm:resnet10t", weights="none", classes=2))


def test_a_class_that_the_data_lack_is_never_right(class_folders):
    model = load("timm:resnet10t", weights="none", labels=["cat", "dog", "eel"])
    data = read_dataset(class_folders(1)).for_model(model)
    assert data.truth(data.cases).sum(0).tolist() == [1, 1, 0]
