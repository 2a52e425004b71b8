import numpy as np
import pytest

from camscope.errors import SettingError
from camscope.models.labels import read_labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "\ufeffEffusion\ntabby, tabby cat\r\n\nEdema\n"),
        ("l.json", '["Effusion", "tabby, tabby cat", "Edema"]'),
        ("l.json", '{"2": "Edema", "0": "Effusion", "1": "tabby, tabby cat"}'),
        ("l.csv", 'index,label\n0,Effusion\n1,"tabby, tabby cat"\n2,Edema\n'),
        ("l.csv", 'Effusion\n"tabby, tabby cat"\nEdema\n'),
        ("l.csv", 'id,name\n2,Edema\n1,"tabby, tabby cat"\n0,Effusion\n'),
        ("l.csv", 'name,class\nEdema,2\n"tabby, tabby cat",1\nEffusion,0\n'),
        ("l.csv", '2,Edema\n0,Effusion\n1,"tabby, tabby cat"\n'),
        ("l.json", '{"Edema": 2, "tabby, tabby cat": 1, "Effusion": 0}'),
        ("l.json", '{"0": ["n1", "Effusion"], "1": ["n2", "tabby, tabby cat"], "2": ["n3", "Edema"]}'),
        ("l.txt", "0 Effusion\n1: tabby, tabby cat\n2\tEdema\n"),
        ("l.txt", "2: Edema\n0: Effusion\n1: tabby, tabby cat\n"),
    ],
)
def test_files(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == ("Effusion", "tabby, tabby cat", "Edema")
    assert read_labels(str(tmp_path / name)) == read_labels(["Effusion", "tabby, tabby cat", "Edema"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "\n"),
        ("l.json", "[1, 2]"),
        ("l.json", '{"a": "b"}'),
        ("l.json", '{"0": "a", "2": "b"}'),
        ("l.json", "[broken"),
        ("l.json", "3"),
        ("l.csv", "0,x,cat\n1,y,dog\n"),
        ("l.csv", "label\ncat\n\n  \n"),
        ("l.csv", ""),
    ],
)
def test_unusable_files(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=name):
        read_labels(tmp_path / name)


def test_no_file_and_no_names():
    with pytest.raises(SettingError, match="there is no label file 'Effusion'; names themselves are given as a list"):
        read_labels("Effusion")
    with pytest.raises(SettingError, match="one name per class"):
        read_labels([])
    with pytest.raises(SettingError, match="one name per class"):
        read_labels(["a", " "])


@pytest.mark.parametrize(
    "labels",
    [
        {0: "a", 1: "b"},
        {"1": "b", "0": "a"},
        {"b": 1, "a": 0},
        {"a": "0", "b": "1"},
        ("a", "b"),
        {"b": np.int64(1), "a": np.int64(0)},
        np.array(["a", "b"]),
    ],
    ids=["id2label", "id2label of JSON", "class_to_idx", "texts", "tuple", "NumPy numbers", "array"],
)
def test_dicts_are_read_by_their_indices(labels):
    assert read_labels(labels) == ("a", "b")


@pytest.mark.parametrize("labels", [{"a": 0, "b": 2}, {"a": 0, "b": 0}, {0: "a", "x": "b"}, {}, {"a": 0.5}])
def test_dicts_that_are_no_class_names(labels):
    with pytest.raises(SettingError):
        read_labels(labels)


def test_one_line_with_commas_holds_several_names(tmp_path):
    (tmp_path / "l.txt").write_text("normal, effusion,edema\n", encoding="utf-8")
    assert read_labels(tmp_path / "l.txt") == ("normal", "effusion", "edema")


def test_numbers_that_are_names_stay(tmp_path):
    (tmp_path / "l.txt").write_text("3 T MRI\n7 T MRI\n", encoding="utf-8")
    assert read_labels(tmp_path / "l.txt") == ("3 T MRI", "7 T MRI")
