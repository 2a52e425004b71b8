"""Missing images: what is said, and what would find them."""

import pytest
from PIL import Image

from camscope.cohort.locate import missing_images


@pytest.fixture
def root(tmp_path):
    for name in ("x/001.png", "x/d.png", "y/d.png", "y/e.jpg", "p/q/r/f.png", "p/q/s/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("1", "'x/001.png' may be meant: image = \"x/{COLUMN:0>3}.png\" puts zeros"),
        ("1.png", "'x/001.png' may be meant: image = \"x/{COLUMN:0>7}\" puts zeros"),
        ("d.png", "1 of 1 are found in the folder"),
        ("e", "found with .jpg added to each name in the folder"),
        ("z/d.png", "there is no file 'z/d.png'"),
    ],
)
def test_what_would_find_a_missing_image(root, name, said):
    assert said in missing_images({name: name}, root).text


def test_a_name_that_fits_several_files_is_told(root):
    text = missing_images({"f.png": "f.png", "001": f"{root}/x/001.png"}, root).text
    assert text.startswith("1 of 2 images are missing")
    assert "it is the name of 2 files, such as 'p/q/r/f.png' and 'p/q/s/f.png': write the path" in text
