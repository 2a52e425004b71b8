"""Datasets of Hugging Face's `datasets` are read as any other table."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscope.cohort.tables import LINE, read_table
from camscope.errors import MissingExtraError, TableError
from camscope.evaluation.data import read_data
from camscope.images import read
from camscope.study.study import Study
from camscope.training.dataset import read_dataset
from camscope.training.evaluate import count_patients
from running import inside

datasets = pytest.importorskip("datasets")

COUNT = 6


def pixels(number):
    return np.random.default_rng(number).integers(0, 255, (40, 48), np.uint8)


def split_of(numbers, **more):
    """A split with images, some masks, a class that can be unknown, lists of classes, and what no cell can hold."""
    names = datasets.ClassLabel(names=["Mass", "Effusion"])
    kinds = {
        "image": datasets.Image(),
        "lung_mask": datasets.Image(),
        "patient": datasets.Value("string"),
        "label": names,
    }
    kinds |= {"all": datasets.List(names), "age": datasets.Value("int16"), "raw": datasets.Value("binary")}
    kinds |= {"series": datasets.List(datasets.Image()), **dict.fromkeys(more, datasets.Value("string"))}
    pictures = [Image.fromarray(pixels(n)) for n in numbers]
    values = {
        "image": pictures,
        "lung_mask": [picture if n % 2 else None for n, picture in zip(numbers, pictures, strict=True)],
        "patient": [f"P{n // 2}" for n in numbers],
        "label": [-1 if n == 5 else n % 2 for n in numbers],
        "all": [list(range(n % 3)) for n in numbers],
        "age": [None if n == 0 else n for n in numbers],
        "raw": [b"x" for _ in numbers],
        "series": [[picture] for picture in pictures],
    }
    return datasets.Dataset.from_dict(values | more, features=datasets.Features(kinds))


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def saved(tmp_path):
    """The folder of a dataset with a training and a test split."""
    content = {"train": split_of(range(4)), "test": split_of(range(4, COUNT))}
    datasets.DatasetDict(content).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_the_rows_of_a_saved_dataset(saved):
    table, ragged = read_table(f"datasets:{saved}")
    assert ragged == {}
    assert table.columns == ["image", "lung_mask", "patient", "label", "all", "age", "split", LINE]
    assert table["label"].to_list() == ["Mass", "Effusion", "Mass", "Effusion", "Mass", ""]
    assert table["all"].to_list() == ["[]", '["Mass"]', '["Mass", "Effusion"]'] * 2
    assert table["age"].to_list() == ["", "1", "2", "3", "4", "5"]
    assert table["split"].to_list() == ["train"] * 4 + ["test"] * 2
    for number, name in enumerate(table["image"]):
        assert np.array_equal(read(name).pixels[..., 0] * 255, pixels(number))
    assert [bool(cell) for cell in table["lung_mask"]] == [False, True] * 3
    assert table["lung_mask"][1] == table["image"][1]  # the same content is one file


def test_a_second_reading_writes_nothing(saved):
    (first, *_) = read_table(f"datasets:{saved}")[0]["image"]
    before = Path(first).stat().st_mtime_ns
    assert read_table(f"datasets:{saved}")[0]["image"][0] == first
    assert Path(first).stat().st_mtime_ns == before


def test_one_split(saved):
    table, _ = read_table(f"datasets:{saved}#test")
    assert table["patient"].to_list() == ["P2", "P2"]
    assert "split" not in table.columns
    with pytest.raises(TableError, match="no split called 'tset'; nearest: 'test'"):
        read_table(f"datasets:{saved}#tset")


def test_a_column_called_split_hides_no_split(tmp_path):
    content = {name: split_of(range(2), split=["a", "b"]) for name in ("train", "test")}
    datasets.DatasetDict(content).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(TableError, match="has a column split and the splits train, test"):
        read_table(f"datasets:{tmp_path / 'saved'}")
    assert read_table(f"datasets:{tmp_path / 'saved'}#test")[0]["split"].to_list() == ["a", "b"]


def test_files_of_a_folder_stay_where_they_are(tmp_path):
    for name in ("Mass", "None"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        Image.fromarray(pixels(len(name))).save(tmp_path / "folder" / name / "a.png")
    table, _ = read_table(f"datasets:{tmp_path / 'folder'}")
    assert dict(zip(table["image"], table["label"], strict=True)) == {
        str(tmp_path / "folder" / name / "a.png"): name for name in ("Mass", "None")
    }
    assert not (tmp_path / "cache").exists()


def test_names_of_images_are_kept_and_cannot_leave_the_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    Image.fromarray(pixels(1)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    images = [{"bytes": content, "path": path} for path in ("x/P1_a.png", "../../up.png", "..\\..\\b c.png", "..")]
    part = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    part.save_to_disk(str(tmp_path / "saved"))
    files = [Path(name) for name in read_table(f"datasets:{tmp_path / 'saved'}")[0]["image"]]
    assert [file.name for file in files] == ["P1_a.png", "up.png", "b c.png", "_"]
    assert {file.parent.parent for file in files} == {tmp_path / "cache" / "datasets"}


def test_what_cannot_be_read_is_one_sentence(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TableError, match="cannot be loaded: Couldn't reach 'nobody/nothing' on the Hub"):
        read_table("datasets:nobody/nothing")
    with pytest.raises(TableError, match="there is no folder 'no/such/folder', and datasets on the hub are called"):
        read_table("datasets:no/such/folder")
    (saved / "train" / "data-00000-of-00001.arrow").write_bytes(b"damaged")
    with pytest.raises(TableError, match="the dataset cannot be loaded"):
        read_table("datasets:saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"needs datasets: pip install 'camscope\[datasets\]'"):
        read_table("datasets:saved")


def test_the_same_cases_for_all_commands(saved, tmp_path, monkeypatch):
    file = tmp_path / "studies" / "study.toml"
    given = ["datasets:../saved", "--out", file, "--model", "timm:test_resnet", "--weights", "none"]
    file.parent.mkdir()
    done = inside("init", *given, "--labels", "Mass,Effusion", "--json", cwd=file.parent)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["images"], result["missing"], result["patients"], result["masks"]) == (6, 0, 3, {"lung_mask": 3})
    assert result["labels"] == {"Effusion": [2, 3, 1], "Mass": [3, 2, 1]}
    monkeypatch.chdir(tmp_path)
    cases = list(Study.read(file).cohort.cases())
    assert [case.patient for case in cases] == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert [case.source for case in read_data("datasets:saved").cases] == [case.source for case in cases]
    dataset = read_dataset("datasets:saved")
    assert [case.source for case in dataset.cases] == [case.source for case in cases]
    assert [case.split for case in dataset.cases] == ["train"] * 4 + ["test"] * 2
    assert count_patients(dataset.cases) is not None
    assert dataset.labels == ("Effusion", "Mass")
