"""Files, folders and patterns become images with places of their own."""

from pathlib import Path

import pytest

from camscope.errors import PictureError
from camscope.images import find_pictures


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with images, hidden files and other things; it is the current folder."""
    names = ["a/x.png", "a/x.jpg", "a/x10.png", "a/x2.PNG", "a/notes.txt", "a/noname"]
    names += ["b/x.png", "b/deep/er/y.tiff", "b/.hidden.png", ".secret/z.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relative(*arguments, **options):
    return [place.as_posix() for _, place in find_pictures(arguments, **options)]


def test_a_folder_is_searched_with_its_folders_in_natural_order(tree):
    assert relative("a") == ["a/x.jpg", "a/x.png", "a/x2.PNG", "a/x10.png"]
    assert relative("b") == ["b/deep/er/y.tiff", "b/x.png"]
    assert relative(".") == relative("a", "b") == relative(tree)


def test_the_files_are_the_ones_named(tree):
    files = [path for path, _ in find_pictures([Path("a"), str(tree / "b")])]
    assert Path("a/x.png") in files
    assert tree / "b/x.png" in files
    assert all(path.is_file() for path in files)


def test_files_given_singly_keep_their_folders_and_suffixes_apart():
    assert relative("a/x.png", "b/x.png", "a/x.jpg") == ["a/x.png", "b/x.png", "a/x.jpg"]


def test_pictures_elsewhere_are_named_from_the_common_folder(tree, monkeypatch):
    monkeypatch.chdir(tree / "none")
    assert relative(tree / "a/x.png") == ["x.png"]
    assert relative(tree / "a/x.png", "../b/x.png") == ["a/x.png", "b/x.png"]
    assert relative(tree / "b") == ["b/deep/er/y.tiff", "b/x.png"]
    assert relative(str(tree / "b/*.png")) == ["x.png"]
    assert relative("../*/x.png") == ["a/x.png", "b/x.png"]


def test_no_place_ever_leaves_the_folder_of_results(tree, monkeypatch):
    monkeypatch.chdir(tree / "none")
    for place in relative("../a/../b/x.png", "../b/*/../../a/x.png", "../a/x.png", "here.png", "../*/../a/x*.png"):
        assert ".." not in Path(place).parts
        assert not Path(place).is_absolute()


def test_patterns(tree):
    assert relative("a/*.png") == ["a/x.png", "a/x10.png"]
    assert relative("**/*.tiff") == ["b/deep/er/y.tiff"]
    assert relative("a/*") == relative("a")  # notes.txt and noname are no images
    assert relative("*") == relative("**") == relative(".")
    assert relative(str(tree / "?" / "x.png")) == ["a/x.png", "b/x.png"]


def test_a_name_with_brackets_is_a_name_first(tree):
    (tree / "[1].png").touch()
    assert relative("[1].png") == ["[1].png"]


def test_nothing_is_listed_twice(tree):
    assert relative("a/x2.PNG", "a", "a/*.png", str(tree / "a/x.png")) == [
        "a/x2.PNG",
        "a/x.jpg",
        "a/x.png",
        "a/x10.png",
    ]


def test_a_named_file_is_taken_whatever_it_is(tree):
    assert relative("missing.png", "a/notes.txt", "b/.hidden.png") == ["missing.png", "a/notes.txt", "b/.hidden.png"]
    assert relative("x" * 400) == ["x" * 400]


def test_excluded_folders_are_not_searched(tree):
    assert relative(".", exclude=[Path("b")]) == relative("a")
    assert relative("*", exclude=[tree / "a"]) == relative("b")
    assert relative("**/x.png", exclude=[tree / "a"]) == ["b/x.png"]


def test_links_keep_their_own_names(tree):
    (tree / "b/link.png").symlink_to(tree / "a/x.png")
    assert "b/link.png" in relative("b")


@pytest.mark.parametrize("argument", ["none", "c/*.png", "a/*.tiff"])
def test_a_folder_or_pattern_without_pictures_is_an_error(tree, argument):
    with pytest.raises(PictureError, match=r"no images in .*\.jpg.*\.png"):
        find_pictures(["a", argument])


def test_no_argument_is_an_error():
    with pytest.raises(PictureError, match="no image given"):
        find_pictures([])


@pytest.mark.parametrize("argument", ["s3://bucket/a.png", "s3://bucket/*.png"])
def test_an_address_is_no_file(argument):
    with pytest.raises(PictureError, match=r"'s3://bucket/.*' is an address"):
        find_pictures([argument])


def test_dicom_files_of_archives_have_no_suffix(tree):
    names = ["d/IM0001", "d/1.2.840.7", "d/x.IMA", "d/y.img", "d/DICOMDIR", "d/notes.doc", "d/.IM2"]
    (tree / "d").mkdir()
    for name in names:
        (tree / name).write_bytes(bytes(128) + b"DICM")
    for name in ("d/README", "d/2.5", "d/brain.img"):
        (tree / name).write_text("no image")
    assert set(relative("d")) == {"d/IM0001", "d/1.2.840.7", "d/x.IMA", "d/y.img"}
    assert relative("d/*0*") == ["d/1.2.840.7", "d/IM0001"]
