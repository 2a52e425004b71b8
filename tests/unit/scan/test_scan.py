import json
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

from camscope.cohort.store import FAILED
from camscope.images import Picture
from camscope.scan.features import image_values, perceptual_hash
from camscope.scan.ranking import ranked
from running import inside

PLANTED = {
    "blank.png": "blank: ",
    "broken.png": "cannot be used: ",
    "copy.png": "duplicate: the same file as image_05.png",
    "other.png": "unlike the others: ",
    "inverted.png": "perhaps inverted: ",
    "near.jpg": "near duplicate: looks like image_08.png",
}


def pattern(n):
    """An image of a common kind, with its own detail."""
    draw = np.random.default_rng(n)
    y, x = np.mgrid[:96, :96] / 96
    body = np.exp(-((x - 0.5) ** 2 + (y - 0.6) ** 2) / 0.08)
    detail = ndimage.gaussian_filter(draw.normal(size=(96, 96)), 5)
    return Image.fromarray(np.uint8(np.clip(40 + 150 * body + 250 * detail, 0, 255)))


@pytest.fixture
def folder(tmp_path):
    """24 images of one kind, and six odd ones."""
    place = tmp_path / "images"
    place.mkdir()
    for n in range(24):
        pattern(n).save(place / f"image_{n:02}.png")
    Image.new("L", (96, 96), 30).save(place / "blank.png")
    (place / "broken.png").write_bytes(b"no image")
    shutil.copy(place / "image_05.png", place / "copy.png")
    stripes = np.uint8(40 + 160 * (np.mgrid[:96, :96][1] // 24 % 2))
    Image.fromarray(stripes).save(place / "other.png")
    ImageOps.invert(pattern(6)).save(place / "inverted.png")
    pattern(8).resize((90, 90)).save(place / "near.jpg", quality=70)
    return place


def test_planted_images_are_on_top_and_a_second_run_computes_nothing(folder, make_bundle, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ("scan", folder, "--model", make_bundle("Effusion"), "--out", out, "--device", "cpu")
    done = inside(*command)
    assert done.returncode == 1  # one image cannot be read
    table = pl.read_parquet(out / "scan.parquet")
    assert len(table) == 30
    reasons = dict(table.select("image", "reasons").iter_rows())
    for image, reason in PLANTED.items():
        assert any(text.startswith(reason) for text in reasons[image]), (image, reasons[image])
    assert set(table["image"].head(len(PLANTED) + 2)) == {*PLANTED, "image_05.png", "image_08.png"}
    assert table["oddness"].is_sorted(descending=True)
    text = (out / "scan.html").read_text(encoding="utf-8")
    assert text.index("broken.png") > 0
    assert "1 image could not be used." in text
    assert Image.open(out / "contact_sheet.jpg").width > 500
    assert pl.read_csv(out / "scan.csv")["image"].to_list() == table["image"].to_list()
    assert json.loads((out / "scan.json").read_text())["finished"]

    def refuse(*_):
        raise AssertionError("an image was explained again")

    monkeypatch.setattr("camscope.scan.step.image_values", refuse)
    Image.open(folder / "blank.png").save(folder / "blank.png")
    again = inside(*command)
    assert (again.returncode, again.stdout) == (1, done.stdout)


def rows_of(count, *, seed=0):
    """Rows of images that differ by noise alone, with maps of 4 x 4 cells."""
    draw = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        grid = np.ones((4, 4)) + 0.1 * draw.random((4, 4))
        row = {"case": n, "image": f"{n}.png", "status": "ok", "message": None, "class": "cat", "probability": 0.9}
        row |= {"margin": 3 + 0.2 * draw.normal(), "image_sha256": str(n), "grid": grid.ravel().tolist()}
        row |= {"grid_height": 4, "grid_width": 4}
        row |= {f"{w}:{r}": v for r in ("border:0.10", "corner:0.15") for w, v in (("mass", 0.3), ("area", 0.3))}
        pixels = np.asarray(pattern(100 + n), np.float32)[..., None] / 255

        rows.append(row | image_values(Picture(pixels)))
    return rows


def test_low_confidence_heat_at_the_border_and_unusual_maps_are_told_with_numbers():
    rows = rows_of(20)
    rows[3]["margin"] = 0.01
    rows[5]["mass:border:0.10"] = 0.9
    rows[7]["grid"] = [0.0] * 15 + [1.0]
    rows[9]["grid"] = [-1.0] * 16
    table = ranked(pl.DataFrame(rows, infer_schema_length=None), seed=0)
    reasons = {row["image"]: row["reasons"] for row in table.iter_rows(named=True)}
    assert reasons["3.png"][0].startswith("low confidence: p = 0.90 for 'cat', margin 0.01, median ")
    assert reasons["5.png"][0].startswith("90 % of the heat is in the outer 10 % of the image, 30 % of the area (z = ")
    assert reasons["7.png"][0].startswith("unusual map: distance 0.")
    assert reasons["9.png"] == ["the heat map is empty"]
    assert set(table["image"].head(4)) == {"3.png", "5.png", "7.png", "9.png"}
    assert table["oddness"][-1] == 0


def test_images_alone_have_no_others_to_be_unlike():
    table = ranked(pl.DataFrame(rows_of(3), infer_schema_length=None), seed=0)
    assert table["oddness"].to_list() == [0, 0, 0]
    failed = pl.DataFrame(rows_of(3), infer_schema_length=None).with_columns(
        status=pl.lit(FAILED), message=pl.lit("broken")
    )
    assert ranked(failed, seed=0)["reasons"].to_list() == [["cannot be used: broken"]] * 3


def test_the_perceptual_hash_survives_size_and_compression_and_tells_images_apart(tmp_path):
    hashes = []
    for n in range(6):
        image = pattern(n)
        image.resize((61, 61)).save(tmp_path / "small.jpg", quality=60)
        pair = [np.asarray(i, np.float32) / 255 for i in (image, Image.open(tmp_path / "small.jpg"))]
        first, second = map(perceptual_hash, pair)
        assert (first ^ second).bit_count() <= 6
        hashes.append(first)
    apart = [(a ^ b).bit_count() for n, a in enumerate(hashes) for b in hashes[:n]]
    assert min(apart) > 6
