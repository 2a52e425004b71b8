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
    with pytest.raises(AnnotationError, match=r"20 x 12 pixels .* its image 206 x 120"):
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
        ("100,50,160,90", "beyond its image of 20 x 12"),
        ("-5,0,3,3", "beyond its image"),
        ("1 2 3", "pairs of start and length"),
        ("10 5 8 2", "do not increase"),
        ("10 5 12 2", "do not increase"),
        ('{"runs": "1 5", "coding": "backward"}', 'expected "absolute" or "relative"'),
        ('{"runs": "200 30 20 1", "coding": "relative"}', "leave their image"),
        ('{"counts": "0`", "size": [12, 20]}', "were cut"),
        ('{"counts": "0~", "size": [12, 20]}', "do not use"),
        ('{"polygons": [[1, 2, 3, 4]]}', "no polygon"),
        ('{"polygons": [[1, 2, 3, 4, 50, 6]]}', "beyond its image"),
        ('{"polygons": [1, 2, 3]}', "no polygon"),
        ('{"boxes": "1,2,3,4"}', "is no mask"),
        ('{"file": "none.png", "values": [1]}', "there is no file"),
        ('{"file": "none.png", "values": ["1"]}', "whole numbers"),
        ("0 5", "count from 1"),
        ("240 2", "leave their image"),
        ("9" * 5000 + " 1", "no run length"),
        ("1 " + "9" * 30, "no run length"),
        ("{", "not JSON"),
        ("{" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ("{}", "is no mask"),
        ('{"counts": "abc", "size": [12, 20]}', "were cut"),
        ('{"counts": [1, 2], "size": [12, 20]}', "add up to 3"),
        ('{"counts": [-1, 241], "size": [12, 20]}', "no run length"),
        ('{"counts": [0.5, 239.5], "size": [12, 20]}', "no run length"),
        ('{"counts": [], "size": [12, 20]}', "no run length"),
        ('{"counts": [240, null], "size": [12, 20]}', "no run length"),
        ('{"counts": [100000000, 100000000, 100000000], "size": [10000, 30000]}', "at most"),
        ('{"counts": [240], "size": [0, 240]}', "is not possible"),
        ("no_such.png", "there is no file .* expected a box"),
        ("../../../../../../etc/passwd", "not an image"),
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


def test_compressed_run_lengths_have_the_values_of_pycocotools(tmp_path):
    box = np.zeros(SIZE, bool)
    box[2:9, 3:15] = True
    box[5, 6], box[0, 19] = False, True
    dots = [[0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 1, 1]]
    dots += [[1, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0, 1]]
    for mask, letters in ((box, "V1750000LL04400000000000000^1JhN"), (np.array(dots, bool), "31110O113ON0O40L21NO")):
        size = list(mask.shape)
        for cell in (json.dumps({"size": size, "counts": letters}), str({"size": size, "counts": letters.encode()})):
            np.testing.assert_array_equal(read_annotation(cell, mask.shape, root=tmp_path), mask)


def test_relative_run_lengths(tmp_path):
    padded = np.concatenate([[0], MASK.ravel(order="F"), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    gaps = starts - np.concatenate([[0], ends[:-1]])
    runs = " ".join(f"{gap} {length}" for gap, length in zip(gaps, ends - starts, strict=True))
    cell = {"runs": runs, "coding": "relative"}
    np.testing.assert_array_equal(read_annotation(json.dumps(cell), SIZE, root=tmp_path), MASK)
    drawn = json.dumps({"runs": runs, "coding": "relative", "size": list(SIZE)})
    assert np.array_equal(read_annotation(drawn, (24, 40), root=tmp_path), MASK.repeat(2, axis=0).repeat(2, axis=1))
    with pytest.raises(AnnotationError, match="set coding"):
        read_annotation(runs, SIZE, root=tmp_path)


def test_polygons_are_filled_where_centres_are_inside(tmp_path):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    diamond = np.abs(rows - 6) + np.abs(columns - 10) < 5.2
    cell = json.dumps({"polygons": [[10, 0.8, 15.2, 6, 10, 11.2, 4.8, 6]]})
    np.testing.assert_array_equal(read_annotation(cell, SIZE, root=tmp_path), diamond)
    corners = json.dumps({"polygons": [[[10, 0.8], [15.2, 6], [10, 11.2], [4.8, 6]]], "boxes": [[0, 0, 2, 3]]})
    both = diamond.copy()
    both[:3, :2] = True
    np.testing.assert_array_equal(read_annotation(corners, SIZE, root=tmp_path), both)
    # A mask drawn at half the size of the image.
    half = json.dumps({"size": [6, 10], "boxes": [[1, 1, 3, 4]]})
    assert read_annotation(half, SIZE, root=tmp_path).nonzero()[0].min() == 2
    assert read_annotation(half, SIZE, root=tmp_path).sum() == 6 * 4


def test_values_and_bits_of_mask_files(tmp_path):
    codes = np.random.default_rng(1).integers(0, 8, SIZE).astype(np.uint8)
    palette = Image.fromarray(codes)
    palette.putpalette([value for n in range(256) for value in (n, 255 - n, 7)])
    palette.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    cell = json.dumps({"file": "palette.png", "values": [2]})
    np.testing.assert_array_equal(read_annotation(cell, SIZE, root=tmp_path), codes == 2)
    for name in (saved(tmp_path / "grey.png", codes), saved(tmp_path / "rgb.png", np.dstack([codes] * 3))):
        read_codes = lambda **how: read_annotation(json.dumps({"file": name, **how}), SIZE, root=tmp_path)  # noqa: E731, B023
        np.testing.assert_array_equal(read_codes(values=[3, 5]), np.isin(codes, [3, 5]))
        np.testing.assert_array_equal(read_codes(bits=5), (codes & 5) > 0)
        np.testing.assert_array_equal(read_codes(), codes > 0)
    cell = json.dumps({"union": [json.dumps({"file": "grey.png", "values": [3]}), "0,0,4,4"]})
    expected = codes == 3
    expected[:4, :4] = True
    np.testing.assert_array_equal(read_annotation(cell, SIZE, root=tmp_path), expected)
    saved(tmp_path / "colour.png", np.random.default_rng(0).integers(0, 9, (*SIZE, 3)).astype(np.uint8))
    with pytest.raises(AnnotationError, match="colour image"):
        read_annotation('{"file": "colour.png", "values": [1]}', SIZE, root=tmp_path)


@pytest.mark.parametrize("quality", [75, 95])
def test_jpeg_masks_have_the_area_that_was_drawn(tmp_path, quality):
    mask = np.zeros((32, 32), bool)
    mask[8:18, 8:18] = True
    name = saved(tmp_path / "m.jpg", (255 * mask).astype(np.uint8), quality=quality)
    np.testing.assert_array_equal(read_annotation(name, (32, 32), root=tmp_path), mask)


@pytest.mark.parametrize("cell", ["0.1,0.2,0.6,0.7", "[[0, 0, 0.5, 1]]", '{"boxes": [[0.25, 0.25, 1, 1]]}'])
def test_boxes_relative_to_the_image_are_an_error(cell, tmp_path):
    with pytest.raises(AnnotationError, match="is a part of the image's size: give it in pixels"):
        read_annotation(cell, SIZE, root=tmp_path)


@pytest.mark.parametrize("cell", ["[1, 2, 3, 4]", "[1. 2. 3. 4.]"])
def test_lists_that_are_no_lists_of_boxes(cell, tmp_path):
    with pytest.raises(AnnotationError, match=r"a list of boxes is \[\[x0, y0, x1, y1\], ...\]"):
        read_annotation(cell, SIZE, root=tmp_path)


def test_boxes_as_numpy_prints_them(tmp_path):
    corners = np.array([[1.0, 2, 7, 4], [10, 5, 20, 12]])
    expected = read_annotation("1,2,7,4;10,5,20,12", SIZE, root=tmp_path)
    np.testing.assert_array_equal(read_annotation(str(corners), SIZE, root=tmp_path), expected)
