"""Folders of images as tables: class folders, splits, images without a class."""

import numpy as np
import pytest
from PIL import Image

from camscope.cohort.draft import draft
from camscope.cohort.tables import LINE, read_table
from camscope.errors import SettingError, TableError
from camscope.study.init_study import init_study
from camscope.training.dataset import read_dataset


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for number, name in enumerate(names):
            (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / "d" / name)
        return tmp_path / "d"

    return make


SPLITS = (
    "train/A/1.png",
    "train/B/2.png",
    "Validation/A/3.png",
    "test/A/images/4.png",
    "test/A/masks/4.png",
    "test/B/5.png",
)


def test_folders_of_splits_are_no_classes(folder):
    table, _ = read_table(str(folder(*SPLITS)))
    assert table.columns == ["path", "class", "mask", "split", "A", "B", LINE]
    assert table.select("path", "class", "mask", "split", "A").rows() == [
        ("test/A/images/4.png", "A", "test/A/masks/4.png", "test", "1"),
        ("test/B/5.png", "B", "", "test", "0"),
        ("train/A/1.png", "A", "", "train", "1"),
        ("train/B/2.png", "B", "", "train", "0"),
        ("Validation/A/3.png", "A", "", "val", "1"),
    ]


@pytest.mark.filterwarnings("ignore:.*no patients are known")
def test_init_and_train_read_the_same_splits(folder, tmp_path):
    path = folder(*SPLITS)
    proposal = draft(path, results=tmp_path)
    result = init_study(proposal, tmp_path / "study.toml", model=None, settings={})
    assert dict(result.labels) == {"A": (3, 2, 0), "B": (2, 3, 0)}
    (tmp_path / "study.toml").write_text(result.text)
    splits = {case.image: case.split for case in read_dataset(path).cases}
    assert splits == {case.image: case.split for case in read_dataset(tmp_path / "study.toml").cases}
    assert sorted(splits.values()) == ["test", "test", "train", "train", "val"]
    assert read_dataset(path).labels == ("A", "B")


def test_images_in_no_class_folder_have_unknown_labels(folder):
    path = folder("cat/1.png", "dog/2.png", "readme.png")
    assert read_table(str(path))[0].select("class", "cat", "dog").rows() == [
        ("cat", "1", "0"),
        ("dog", "0", "1"),
        ("", "", ""),
    ]
    with pytest.warns(UserWarning, match="name the patients with a study file"):
        dataset = read_dataset(path)
    assert [case.image for case in dataset.usable] == ["cat/1.png", "dog/2.png"]
    assert dataset.problems == {}


def test_an_unlabelled_test_set_is_kept(folder):
    table, _ = read_table(str(folder("train/A/1.png", "train/B/2.png", "test/3.png")))
    assert table.select("path", "class", "split").rows()[0] == ("test/3.png", "", "test")


def test_a_class_may_be_called_train(folder):
    table, _ = read_table(str(folder("bus/1.png", "train/images/2.png", "train/masks/2.png")))
    assert table["class"].to_list() == ["bus", "train"]
    assert "split" not in table.columns


def test_class_folders_beside_splits_are_an_error(folder):
    path = folder(*SPLITS, "A/6.png", "extra/B/7.png")
    with pytest.raises(TableError, match="in test, train, Validation, and beside them 'A', 'extra': move"):
        read_table(str(path))


def test_splits_in_class_folders_are_splits(folder):
    table, _ = read_table(str(folder("a/train/1.png", "a/test/masks/2.png", "a/test/images/2.png", "b/valid/3.png")))
    assert table.select("path", "class", "mask", "split").rows() == [
        ("a/test/images/2.png", "a", "a/test/masks/2.png", "test"),
        ("a/train/1.png", "a", "", "train"),
        ("b/valid/3.png", "b", "", "val"),
    ]


@pytest.mark.parametrize(
    "names",
    [("a/train/1.png", "b/2.png"), ("a/train/1.png", "b/train/2.png"), ("a/train/1.png", "b/p1/2.png")],
)
def test_other_folders_in_class_folders_are_no_splits(folder, names):
    table, _ = read_table(str(folder(*names)))
    assert "split" not in table.columns
    assert table["class"].to_list() == ["a", "b"]


@pytest.mark.parametrize("start", ["", "train/"])
def test_a_copy_in_a_class_folder_is_an_error(folder, start):
    names = [f"{start}{place}{name}/1.png" for place in ("", "d/") for name in ("A", "B", "C")]
    with pytest.raises(TableError, match="d holds the class folders A, B, C once more: give it alone, or move"):
        read_table(str(folder(*names)))


@pytest.mark.parametrize("name", ["Patient", "class", "Image ID"])
def test_a_class_with_the_name_of_a_role(folder, name):
    path = folder(f"{name}/1.png", "control/2.png")
    with pytest.raises(TableError, match=f"a class folder cannot be called '{name}': rename it"):
        read_table(str(path))


@pytest.mark.parametrize(("names", "said"), [(("A/1.png",), "one class, 'A'"), (("train/1.png",), "no class")])
def test_folders_that_cannot_be_trained_on(folder, names, said):
    with pytest.raises(SettingError, match=said):
        read_dataset(folder(*names))


def test_masks_beside_their_images_are_no_images(folder):
    names = ("1.png", "1_mask.png", "2.png", "2_mask.png", "2_mask_1.png", "mask.png")
    path = folder(
        *(f"benign/b ({name[0]}){name[1:]}" if name[0] in "12" else f"benign/{name}" for name in names), "normal/3.png"
    )
    table, _ = read_table(str(path))
    assert table.select("path", "mask", "benign").rows() == [
        ("benign/b (1).png", "benign/b (1)_mask.png", "1"),
        ("benign/b (2).png", '{"union": ["benign/b (2)_mask.png", "benign/b (2)_mask_1.png"]}', "1"),
        ("benign/mask.png", "", "1"),
        ("normal/3.png", "", "0"),
    ]


@pytest.mark.filterwarnings("ignore:.*no patients are known")
def test_several_kinds_of_masks_are_columns(folder):
    kinds = ("images", "lung masks", "Infection_Masks")
    path = folder(*(f"Train/{name}/{kind}/{name}1.png" for name in ("covid", "normal") for kind in kinds))
    table, _ = read_table(str(path))
    assert table.columns == ["path", "class", "Infection_Masks", "lung masks", "mask", "split", "covid", "normal", LINE]
    assert table["lung masks"].to_list() == ["Train/covid/lung masks/covid1.png", "Train/normal/lung masks/normal1.png"]
    assert read_dataset(path).masks == ("Infection_Masks", "lung masks", "mask")


def test_capitals_and_suffixes_of_folders(folder):
    table, _ = read_table(
        str(folder("training_set/A/Images/1.png", "training_set/A/Masks/1_mask.png", "Test-Data/A/2.png"))
    )
    assert table.select("path", "mask", "split").rows() == [
        ("Test-Data/A/2.png", "", "test"),
        ("training_set/A/Images/1.png", "training_set/A/Masks/1_mask.png", "train"),
    ]


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("images/1.png", "images/2.png", "masks/1.png", "masks/2.png"), ["masks/1.png", "masks/2.png"]),
        (("1.png", "2.png", "Lung Masks/1.png"), ["", ""]),
        (("img/1.png", "annotations/1_mask.png", "img/2.png"), ["annotations/1_mask.png", ""]),
        (("train/images/1.png", "train/gt/1.png", "test/images/1.png"), ["", "train/gt/1.png"]),
        (("images/a/1.png", "masks/a/1.png", "images/b/1.png"), ["masks/a/1.png", ""]),
        (("a/1.png", "b/2.png", "masks/1.png", "masks/2_mask.png"), ["masks/1.png", "masks/2_mask.png"]),
        (("a/1.png", "b/2.png", "w/masks/1.png", "w/masks/2_mask.png"), ["w/masks/1.png", "w/masks/2_mask.png"]),
    ],
)
def test_folders_of_masks_beside_folders_of_images_are_no_classes(folder, names, masks):
    table, _ = read_table(str(folder(*names)))
    assert table["mask"].to_list() == masks
    assert set(table["class"]) <= {"", "a", "b"}
    assert not set(table["path"]).intersection(name for name in names if "ask" in name or "gt" in name)


@pytest.mark.parametrize("names", [("with_mask/1.png", "without_mask/1.png"), ("images/1.png", "labels/9.png")])
def test_classes_whose_images_fit_no_others_are_classes(folder, names):
    table, _ = read_table(str(folder(*names)))
    assert table["class"].to_list() == [name.split("/")[0] for name in names]


def test_init_of_images_and_masks_without_classes_says_what_is_missing(folder, tmp_path):
    proposal = draft(folder("images/1.png", "masks/1.png"), results=tmp_path)
    with pytest.raises(SettingError, match=r"no labels were found in the names of folders: put the images of each"):
        init_study(proposal, tmp_path / "study.toml", model=None, settings={})


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (("d/a/1.png", "d/b/2.png"), {"d": (2, 0, 0)}, "all images are of one class, 'd'"),
        (("w/train/a/1.png", "w/test/b/2.png"), {"a": (1, 1, 0), "b": (1, 1, 0)}, "training or validation set"),
        (
            ("p1/0/1.png", "p1/1/2.png", "p2/0/3.png", "p2/1/4.png"),
            {"p1": (2, 2, 0), "p2": (2, 2, 0)},
            "{patient}/{class}",
        ),
        (
            ("a/train/1.png", "a/test/2.png", "b/train/3.png", "b/test/4.png"),
            {"a": (2, 2, 0), "b": (2, 2, 0)},
            "2 of 4 images are of the training or validation set",
        ),
        (("yes/1.png", "no/2.png"), {"no": (1, 1, 0), "yes": (1, 1, 0)}, ""),
        (("NA/1.png", "A, B/2.png", "a|b/3.png"), dict.fromkeys(("A, B", "NA", "a|b"), (1, 2, 0)), ""),
        (
            ("with_mask/0.png", "without_mask/0.png", "mask_weared_incorrect/0.png"),
            dict.fromkeys(("mask_weared_incorrect", "with_mask", "without_mask"), (1, 2, 0)),
            "",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no patients are known")
def test_class_folders_as_init_reads_them(folder, tmp_path, names, labels, said):
    proposal = draft(folder(*names), results=tmp_path)
    result = init_study(proposal, tmp_path / "study.toml", model=None, settings={})
    assert dict(result.labels) == labels
    notes = [note for note in result.notes if "patients are known" not in note]
    assert [said in note for note in notes] == ([True] if said else [])


def test_masks_of_two_kinds_below_one_folder(folder, tmp_path):
    names = [
        f"s/{kind}/{k}.png" for kind in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask") for k in range(3)
    ]
    table, _ = read_table(str(folder(*names)))
    assert table["path"].to_list() == names[:3]
    assert (table["leftMask"].to_list(), table["rightMask"].to_list()) == (names[3:6], names[6:])
    assert draft(tmp_path / "d", results=tmp_path).cohort["masks"] == {"leftMask": "leftMask", "rightMask": "rightMask"}


def test_one_class_says_which_folder_may_have_the_classes(folder):
    with pytest.raises(SettingError, match=r"one class, 'w'.*or .*w, if the folders in it are the classes"):
        read_dataset(folder("w/a/1.png", "w/b/2.png"))
