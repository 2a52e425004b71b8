"""The split of a case: a column, a part of a path, or lists of images."""

import pytest
from PIL import Image

from camscope.cohort.cohort import Cohort
from camscope.cohort.open_table import note_on_training
from camscope.cohort.sections import CohortSection, LabelRule
from camscope.errors import StudyError
from camscope.training.dataset import read_dataset

LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


@pytest.fixture
def cohort(tmp_path):
    def make(text, *, lists=(), **settings):
        (tmp_path / "t.csv").write_text(text)
        for name, content in dict(lists).items():
            (tmp_path / name).write_text(content)
        section = CohortSection.model_validate({"table": "t.csv", "image": "path", **settings})
        return Cohort(section, {}, tmp_path)

    return make


def splits(made):
    return [case.split for case in made.cases()]


def test_a_column_called_split_is_recognised(cohort):
    made = cohort("path,Split\na,Training\nb,validate\nc, TEST \nd,\n")
    assert splits(made) == ["train", "val", "test", ""]
    assert "__split__" not in made.content.columns
    assert "2 of 4 images are of the training or validation set" in note_on_training(made)[0]
    assert note_on_training(cohort("path,split\na,test\nb,\n")) == []


def test_a_column_with_other_words_is_an_error_if_named_and_a_note_if_not(cohort):
    text = "path,split\na,train\nb,fold 2\n"
    made = cohort(text)
    assert splits(made) == ["", ""]
    assert "no split called 'fold 2'" in made.notes[0]
    with pytest.raises(StudyError, match=r"t.csv:3: no split called 'fold 2'"):
        cohort(text, split="split")
    with pytest.raises(StudyError, match="'split' and 'Split' could each be that of the split"):
        cohort("path,split,Split\na,train,test\n")
    assert splits(cohort(text.replace("split", "fold"))) == ["", ""]


def test_a_part_of_the_path(cohort):
    text = "path\nv1/train/a.png\nv1/valid/b.png\nv1/c.png\n"
    assert splits(cohort(text, split={"from": "path", "pattern": "(train|valid|test)/"})) == ["train", "val", ""]


@pytest.mark.parametrize("image", ["path", "images/{path}"])
def test_lists_name_images_by_path_or_file_name(cohort, image):
    lists = {"train_val_list.txt": "\ufeffa.png\r\nb.png\r\n", "test_list.txt": "c.png\n\n"}
    made = cohort("path\na.png\nb.png\nc.png\nd.png\n", image=image, split={"lists": LISTS}, lists=lists)
    assert splits(made) == ["train", "train", "test", ""]
    assert made.notes[0].startswith("1 of 4 images are in no list of a split, the first is ")
    tested = cohort("path\na.png\nb.png\nc.png\n", split={"lists": LISTS}, lists=lists, only={"split": "test"})
    assert [case.image for case in tested.cases()] == ["c.png"]
    assert tested.notes == ("2 of 3 rows are left out: split is not 'test'",)


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"train_val_list.txt": "a\nc\n", "test_list.txt": "b\nc\n"}, "'c' is in the lists of train and of test"),
        ({"train_val_list.txt": "x/1.png\n", "test_list.txt": "y\n"}, "the first image is 'a', the first of the lists"),
        ({"train_val_list.txt": "a\n", "test_list.txt": " \n"}, "test_list.txt: the list is empty"),
        ({"train_val_list.txt": "a\n"}, "test_list.txt: the list cannot be read"),
    ],
)
def test_lists_that_cannot_be_used(cohort, lists, said):
    with pytest.raises(StudyError, match=said):
        cohort("path\na\nb\n", split={"lists": LISTS}, lists=lists)


def test_a_file_name_in_a_list_that_fits_several_images(cohort):
    lists = {"train_val_list.txt": "a.png\n", "test_list.txt": "x/b.png\ny/b.png\n"}
    with pytest.raises(StudyError, match=r"'a.png' is the file name of 'x/a.png' and of 'y/a.png'"):
        cohort("path\nx/a.png\ny/a.png\n", split={"lists": LISTS}, lists=lists)
    whole = cohort("path\nx/b.png\ny/b.png\nx/a.png\n", split={"lists": LISTS}, lists=lists)
    assert splits(whole) == ["test", "test", "train"]
    twice = cohort("path\nx/a.png\nx/a.png\n", split={"lists": LISTS}, lists=lists, votes="any")
    assert splits(twice) == ["train"]  # rows of one image


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("path,fold\na,Training\nb,testing\n", {"split": "fold"}),
        ("path,Split\na,train\nb,test\n", {}),
        ("path\ntrain/a\ntest/b\n", {"split": {"from": "path", "pattern": "(train|test)/"}}),
    ],
)
def test_every_split_is_the_column_split(cohort, text, settings):
    (case,) = cohort(text, only={"split": "test"}, **settings).cases()
    assert (case.image[-1], case.split) == ("b", "test")


def test_rows_that_a_pattern_misses_are_counted(cohort):
    made = cohort("path\ntrain/a\nTest/b\n", split={"from": "path", "pattern": "^(train|test)/"})
    assert made.notes == ("1 of 2 images are in no split, the first in line 3",)


def test_two_spellings_of_a_split_are_one(cohort):
    assert splits(cohort("path,split\na,train\na,Training\n", votes="any")) == ["train"]


def test_lists_beside_a_column(cohort):
    with pytest.raises(StudyError, match=r"has a column 'split': leave cohort\.split\.lists out"):
        cohort("path,split\na,train\n", split={"lists": LISTS}, lists=dict.fromkeys(LISTS.values(), "a\n"))
    with pytest.raises(ValueError, match="give one of them"):
        CohortSection.model_validate({"table": "t", "split": {"from": "a", "lists": LISTS}})


def test_rows_of_one_image_in_two_splits_are_an_error(cohort):
    with pytest.raises(StudyError, match=r"no split called 'train\|test'"):
        cohort("path,split\na,train\na,test\n", votes="any")


def test_a_study_file_is_trained_with_the_split_of_a_joined_table(make_study, tmp_path):
    path = make_study(8)
    lines = [f"P{n // 2:03}/{'AP' if n % 2 else 'PA'}.png,{'train' if n < 4 else 'test'}" for n in range(8)]
    (path.parent / "splits.csv").write_text("\n".join(["path,split", *lines]) + "\n")
    joined = '[cohort]\njoin = [{ table = "splits.csv", on = ["path"] }]'
    path.write_text(path.read_text().replace("[cohort]", joined, 1))
    assert [case.split for case in read_dataset(path).cases] == ["train"] * 4 + ["test"] * 4


def test_labels_are_read_as_before(tmp_path):
    (tmp_path / "t.csv").write_text("path,split,Edema\na,test,1\n")
    (case,) = Cohort(CohortSection(table="t.csv"), {"Edema": LabelRule(column="Edema")}, tmp_path).cases()
    assert (case.truth["Edema"], case.split) == (True, "test")


def test_lists_name_images_by_the_end_of_their_path_in_any_spelling(cohort):
    lists = {"train_val_list.txt": "s1\\1\n./2.png\n", "test_list.txt": "data/s2/3.png\nlost.png\n"}
    made = cohort("path\ns1/1.png\n.\\2.png\ns2/3.png\n", split={"lists": LISTS}, lists=lists)
    assert splits(made) == ["train", "train", "test"]
    assert made.notes == ("1 of 4 names in lists of splits fit no image, the first is 'lost.png'",)


def test_an_image_in_two_lists_under_different_names(cohort):
    lists = {"train_val_list.txt": "s1/1.png\n", "test_list.txt": "1\n"}
    with pytest.raises(StudyError, match=r"test_list.txt: 's1/1.png' is in the lists of train and of test"):
        cohort("path\ns1/1.png\n", split={"lists": LISTS}, lists=lists)


def test_a_whole_name_is_no_end_of_another(cohort):
    lists = {"train_val_list.txt": "1.png\n", "test_list.txt": "s1/1.png\n"}
    made = cohort("path\n1.png\ns1/1.png\n", split={"lists": LISTS}, lists=lists)
    assert splits(made) == ["train", "test"]


def test_lists_fit_images_that_are_searched(cohort, tmp_path):
    (tmp_path / "deep" / "s1").mkdir(parents=True)
    for name in ("1", "2"):
        Image.new("L", (4, 4)).save(tmp_path / "deep" / "s1" / f"{name}.png")
    (tmp_path / "train_val_list.txt").write_bytes("s1/1.png\n".encode("utf-16"))
    made = cohort("path\n1\n2\n", search=True, split={"lists": LISTS}, lists={"test_list.txt": "2.png\n"})
    assert splits(made) == ["train", "test"]
    assert made.notes == ()


def test_patients_in_several_splits_are_named_by_their_lines(cohort):
    text = "path,patient,split\na,p1,train\nb,p1,train\nc,p2,val\nd,p1,test\ne,p2,test\nf,p3,test\ng,p3,\n"
    made = cohort(text, only={"split": "test"})
    where = "of the first, line 2 is of train, line 5 of test"
    assert made.notes[0] == f"patients with images in several splits: 2 ({where}); results may be too good"
    assert cohort("path,patient,split\na,p1,train\nb,p2,test\nc,,test\nd,,train\n").notes == ()
