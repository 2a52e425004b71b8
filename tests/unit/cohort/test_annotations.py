"""Every way to say where something is gives the same mask; every bad cell says what is wrong."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscope.cohort.annotations import read_annotation
from camscope.errors import AnnotationError
from camscope.images import read
from camscope.phantoms.cohort import write_cohort

SIZE = (12, 20)
MASK = np.random.default_rng(0).random(SIZE) < 0.3


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path.name


def kaggle(mask):
    padded = np.concatenate([[0], mask.ravel(order="F"), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


def coco(mask):
    flat, counts, value = mask.ravel(order="F").tolist(), [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return json.dumps({"counts": counts, "size": list(mask.shape)})


@pytest.mark.parametrize("write", [kaggle, coco])
@pytest.mark.parametrize("mask", [MASK, ~MASK, np.eye(*SIZE, dtype=bool)])
def test_run_lengths_come_back(write, mask, tmp_path):
    np.testing.assert_array_equal(read_annotation(write(mask), SIZE, root=tmp_path), mask)


def test_coco_mask_without_anything_inside(tmp_path):
    assert not read_annotation(coco(np.zeros(SIZE, bool)), SIZE, root=tmp_path).any()


def test_boxes(tmp_path):
    one, two = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    one[1:4, 2:7] = True
    two[5:12, 10:20] = True
    for cell in ("2,1,7,4", " 2, 1, 7, 4 ", "2.0,1.0,7.0,4.0", "2.4,0.6,6.6,4.4", "2,1,7,4;"):
        np.testing.assert_array_equal(read_annotation(cell, SIZE, root=tmp_path), one)
    np.testing.assert_array_equal(read_annotation("2,1,7,4;10,5,20,12", SIZE, root=tmp_path), one | two)
    np.testing.assert_array_equal(read_annotation("10,5,20.9,12.9", SIZE, root=tmp_path), two)  # a pixel beyond


def test_mask_files_of_every_mode(tmp_path):
    white = MASK.astype(np.uint8) * 255
    colour = np.zeros((*SIZE, 3), np.uint8)
    colour[MASK, 2] = 1
    on_transparent = np.dstack([colour * 0, white])  # black, only the transparency says where
    opaque = np.dstack([colour, np.full(SIZE, 255, np.uint8)])  # nothing is transparent: the colour says where
    files = [
        saved(tmp_path / "grey.png", white),
        saved(tmp_path / "faint.png", MASK.astype(np.uint8)),
        saved(tmp_path / "bits.png", MASK),
        saved(tmp_path / "deep.png", MASK.astype(np.uint16)),
        saved(tmp_path / "colour.png", colour),
        saved(tmp_path / "transparent.png", on_transparent),
        saved(tmp_path / "opaque.png", opaque),
        saved(tmp_path / "tiff.tif", white),
    ]
    for name in files:
        np.testing.assert_array_equal(read_annotation(name, SIZE, root=tmp_path), MASK, err_msg=name)
        np.testing.assert_array_equal(read_annotation(str(tmp_path / name), SIZE, root=tmp_path / "elsewhere"), MASK)


def test_masks_at_an_address(tmp_path):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    saved(tmp_path / "m.png", MASK)
    memory.pipe("/masks/m.png", (tmp_path / "m.png").read_bytes())
    np.testing.assert_array_equal(read_annotation("memory://masks/m.png", SIZE, root=tmp_path), MASK)
    with pytest.raises(AnnotationError, match="there is no file"):
        read_annotation("memory://masks/none.png", SIZE, root=tmp_path)


def test_masks_of_another_size(tmp_path):
    name = saved(tmp_path / "half.png", MASK.astype(np.uint8))
    doubled = MASK.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(read_annotation(name, (24, 40), root=tmp_path), doubled)
    np.testing.assert_array_equal(read_annotation(coco(doubled), SIZE, root=tmp_path), MASK)
    assert read_annotation(name, (120, 203), root=tmp_path).shape == (120, 203)  # 1.5 % off
    with pytest.raises(AnnotationError, match=r"20 x 12 pixels .* its picture 206 x 120"):
        read_annotation(name, (120, 206), root=tmp_path)


def test_files_with_names_like_numbers(tmp_path):
    for name in ("1,2,3,4", "1 2", "{}"):
        (tmp_path / name).write_bytes((tmp_path / saved(tmp_path / "m.png", MASK)).read_bytes())
        np.testing.assert_array_equal(read_annotation(f"./{name}", SIZE, root=tmp_path), MASK)
    assert read_annotation("1,2,3,4", SIZE, root=tmp_path).sum() == 4
    assert read_annotation("1 2", SIZE, root=tmp_path).sum() == 2


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("", "empty cell"),
        ("1,2,3", "is no box"),
        ("1,2,3,4,5", "is no box"),
        ("1,2,,4", "is no box"),
        ("1e5,2,3,4", "no file"),
        ("5,5,3,9", "not its width and height"),
        ("100,50,160,90", "beyond its picture of 20 x 12"),
        ("-5,0,3,3", "beyond its picture"),
        ("1 2 3", "pairs of start and length"),
        ("0 5", "count from 1"),
        ("240 2", "leave their picture"),
        ("9" * 5000 + " 1", "no run length"),
        ("1 " + "9" * 30, "no run length"),
        ("{", "not JSON"),
        ("{" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ("{}", "is no mask"),
        ('{"counts": "abc", "size": [12, 20]}', "compressed"),
        ('{"counts": [1, 2], "size": [12, 20]}', "add up to 3"),
        ('{"counts": [-1, 241], "size": [12, 20]}', "no run length"),
        ('{"counts": [0.5, 239.5], "size": [12, 20]}', "no run length"),
        ('{"counts": [], "size": [12, 20]}', "no run length"),
        ('{"counts": [240, null], "size": [12, 20]}', "no run length"),
        ('{"counts": [100000000, 100000000, 100000000], "size": [10000, 30000]}', "at most"),
        ('{"counts": [240], "size": [0, 240]}', "add up"),
        ("no_such.png", "there is no file .* expected a box"),
        ("../../../../../../etc/passwd", "not a picture"),
        ("/dev/zero", "empty"),
        (".", "is a folder"),
        ("a\0b", "cannot read"),
        ("x" * 5000, "cannot read"),
        ("-1", "no file"),
    ],
)
def test_bad_cells_say_what_is_wrong(cell, says, tmp_path):
    with pytest.raises(AnnotationError, match=says) as caught:
        read_annotation(cell, SIZE, root=tmp_path)
    assert "\n" not in str(caught.value)


def test_long_cells_that_look_like_numbers_are_refused_at_once(tmp_path):
    for cell in ("1" * 200_000 + "x", "1" + " " * 200_000 + "x", "1," + " " * 200_000 + "x", "1," * 100_000 + "x"):
        with pytest.raises(AnnotationError):
            read_annotation(cell, SIZE, root=tmp_path)


def test_the_columns_of_a_demo_cohort(tmp_path):
    write_cohort(tmp_path, patients=10, size=(64, 64))
    with (tmp_path / "cohort.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tokens = 0
    for row in rows:
        size = read(tmp_path / row["path"]).size
        lung = read_annotation(row["lung_mask"], size, root=tmp_path)
        assert lung.shape == size
        assert 0.1 < lung.mean() < 0.6
        if row["effusion_mask"]:
            assert read_annotation(row["effusion_mask"], size, root=tmp_path).any()
        if row["token_box"]:
            x0, y0, x1, y1 = map(int, row["token_box"].split(","))
            token = read_annotation(row["token_box"], size, root=tmp_path)
            assert token.sum() == (x1 - x0) * (y1 - y0) == token[y0:y1, x0:x1].sum()
            tokens += 1
    assert tokens


def test_boxes_written_as_json_are_the_same_boxes():
    one = read_annotation("[[1.0, 0.0, 3.0, 2.0], [0, 2, 1, 3]]", (3, 4), root=Path())
    assert np.array_equal(one, read_annotation("1,0,3,2;0,2,1,3", (3, 4), root=Path()))
    with pytest.raises(AnnotationError, match="is no box"):
        read_annotation("[[1, 2, 3]]", (3, 4), root=Path())
