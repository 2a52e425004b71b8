import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from torch import nn

from camscope.cohort.store import FAILED
from camscope.errors import OutputError, SettingError
from camscope.evaluation.data import read_data
from camscope.images import Picture
from camscope.models.model import Model
from camscope.models.preprocess import Preprocess
from camscope.scan import ScanPlan, scan
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
    assert reasons["5.png"][0].startswith(
        "90 % of the heat is in the outer 10 % of the image, 30 % of the area (z above 10)"
    )
    assert reasons["7.png"][0].startswith("unusual map: distance 0.")
    assert reasons["9.png"] == ["the heat map is empty"]
    assert set(table["image"].head(4)) == {"3.png", "5.png", "7.png", "9.png"}
    assert table["oddness"][-1] == 0


def test_numbers_of_a_reason_differ_as_they_read():
    """Margins of a model that is unsure of every image are all as good as 0."""
    rows = rows_of(20)
    for n, row in enumerate(rows):
        row |= {"margin": 1e-6 if n == 4 else 0.004 + 1e-5 * n}
    reasons = ranked(pl.DataFrame(rows, infer_schema_length=None), seed=0)["reasons"].explode().drop_nulls()
    assert not reasons.str.contains("confidence").any()


def test_one_odd_kind_of_image_is_found_among_few():
    rows = rows_of(12)
    rows[2]["colour"] = True
    rows[4]["notes"] = ["half of it is transparent"]
    rows[6] |= {"height": 50, "width": 60}
    table = ranked(pl.DataFrame(rows, infer_schema_length=None), seed=0)
    reasons = {row["image"]: row["reasons"] for row in table.iter_rows(named=True)}
    assert reasons["2.png"] == ["colours: 1 of 12 images have them"]
    assert reasons["4.png"] == ["half of it is transparent"]
    assert reasons["6.png"] == ["other size: 50 x 60 pixels, where 11 of 12 images have 96 x 96"]


def test_frames_of_one_file_are_no_duplicates_and_a_repeated_row_is():
    rows = rows_of(4)
    for row, name in zip(rows, ("a.dcm#0", "a.dcm#1", "b.dcm", "b.dcm"), strict=True):
        row |= {"image": name, "image_sha256": name[0]}
    reasons = ranked(pl.DataFrame(rows, infer_schema_length=None), seed=0).sort("case")["reasons"].to_list()
    assert reasons == [[], [], ["duplicate: it is listed more than once"], ["duplicate: it is listed more than once"]]


def test_each_image_is_compared_with_others_alone(monkeypatch):
    """Also if only every second image is compared with, so that 1.png is not among them, and its twin 0.png is."""
    rows = rows_of(20)
    monkeypatch.setattr("camscope.scan.ranking._COMPARED", 10)
    for row in rows[:2]:
        row["look"] = (np.arange(256) % 7).tolist()
    looks = np.array([row["look"] for row in rows])
    alike = np.sort(np.corrcoef(looks)[1, ::2])[-5:]
    table = ranked(pl.DataFrame(rows, infer_schema_length=None), seed=0)
    (text,) = (text for text in table.filter(image="1.png")["reasons"][0] if text.startswith("unlike"))
    assert f"distance {1 - alike.mean():.2f} to the 5 most similar" in text


PREPROCESS = Preprocess(input_size=(8, 8), mean=(0.5,), std=(0.5,))


class Spoilt(nn.Module):
    """A network of one logit, which is not finite for dark images."""

    def __init__(self, bias=-2.0):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.bias = bias

    def forward(self, x):
        dark = (x.amax((1, 2, 3)) < -0.5)[:, None]
        return self.bias + 1e-3 * self.layer(x).mean((1, 2, 3))[:, None] + torch.where(dark, torch.inf, 0.0)


def test_what_is_odd_about_an_image_needs_no_model(folder, tmp_path):
    shutil.copy(folder / "blank.png", folder / "blank_too.png")
    model = Model("tiny", Spoilt(), labels=("Effusion",), outcome="any", preprocess=PREPROCESS)
    said = []
    (folder / "notes.txt").write_text("no image")
    table = scan(ScanPlan(model, read_data(folder)), tmp_path / "out", say=said.append)
    rows = {row["image"]: row for row in table.iter_rows(named=True)}
    assert rows["blank.png"]["status"] == FAILED
    starts = [text.split(":")[0] for text in rows["blank.png"]["reasons"]]
    assert starts == ["cannot be used", "blank", "duplicate"]
    assert (rows["image_01.png"]["class"], rows["image_01.png"]["predicted"]) == ("Effusion", False)
    assert rows["image_01.png"]["probability"] == pytest.approx(0.12, abs=0.01)
    assert said == ["1 file of the folder is left out: no images by their names (1 .txt)"]
    page = (tmp_path / "out/scan.html").read_text(encoding="utf-8")
    assert said[0] in page
    assert "no Effusion<br>" in page


class Places(nn.Module):
    """A segmentation network that counts its passes."""

    def __init__(self):
        super().__init__()
        self.layer, self.passes = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), 0

    def forward(self, x):
        self.passes += 1
        return self.layer(x)


@pytest.mark.parametrize("outcome", ["one", "boxes"])
def test_a_model_without_a_score_per_class_is_refused_at_once(folder, tmp_path, outcome):
    model = Model("tiny", Places(), labels=("a", "b"), preprocess=PREPROCESS, layer="layer.1", outcome=outcome)
    with pytest.raises(OutputError, match=r"tiny returns .*, where one score per class is needed: use a classifier"):
        scan(ScanPlan(model, read_data(folder), batch_size=4), tmp_path / "out")
    assert model.net.passes == 1


def test_an_image_is_no_folder(folder):
    with pytest.raises(SettingError, match=r"blank\.png: is an image, where a folder or a table of images is expected"):
        read_data(folder / "blank.png")


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
