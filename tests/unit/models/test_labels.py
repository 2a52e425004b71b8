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
        ("l.csv", "0,cat\n1,dog\n"),
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
    with pytest.raises(SettingError, match="one name a class"):
        read_labels([])
    with pytest.raises(SettingError, match="one name a class"):
        read_labels(["a", " "])
