"""Multispectral TIFF files: every band read, in the order of the file."""

import sys

import numpy as np
import pytest
from PIL import Image

from camscope.errors import MissingExtraError, PictureError
from camscope.images import limits, peek, read

tifffile = pytest.importorskip("tifffile")

RANDOM = np.random.default_rng(0)


def written(path, values, **options):
    tifffile.imwrite(path, values, **options)
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize(
    ("bands", "options"),
    [
        (2, {"photometric": "minisblack", "extrasamples": ["unspecified"]}),
        (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        (4, {"photometric": "minisblack"}),
        (13, {"photometric": "minisblack"}),
    ],
)
def test_all_bands_are_read(tmp_path, bands, options, compression, planar, kind):
    if compression == "lzw":
        pytest.importorskip("imagecodecs")
    values = (RANDOM.random((20, 31, bands)) * (1 if kind == np.float32 else 250)).astype(kind)
    stored = np.moveaxis(values, -1, 0) if planar else values
    config = "separate" if planar else "contig"
    path = written(tmp_path / "s2.tif", stored, planarconfig=config, compression=compression, **options)
    picture = read(path)
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[kind]
    np.testing.assert_allclose(picture.pixels, values.astype(np.float32) / np.float32(white), rtol=1e-6)
    assert picture.bits == {np.uint8: 8, np.uint16: 16, np.float32: 32}[kind]
    assert peek(path).size == picture.size == (20, 31)
    shown = picture.pixels[..., :3] if bands > 2 else picture.pixels[..., :1].repeat(3, 2)
    np.testing.assert_array_equal(picture.rgb, np.rint(shown * 255).astype(np.uint8))


def test_rgb_of_floats_and_big_tiff(tmp_path):
    values = RANDOM.random((20, 31, 3), np.float32)
    np.testing.assert_array_equal(read(written(tmp_path / "f.tif", values, photometric="rgb")).pixels, values)
    values = RANDOM.integers(0, 256, (20, 31, 6), np.uint8)
    path = written(tmp_path / "b.tif", values, photometric="minisblack", planarconfig="contig", bigtiff=True)
    np.testing.assert_array_equal(np.rint(read(path).pixels * 255), values)


@pytest.mark.parametrize("alpha", ["assocalpha", "unassalpha"])
def test_declared_alpha_is_dropped(tmp_path, alpha):
    values = RANDOM.integers(0, 256, (20, 31, 4), np.uint8)
    path = written(tmp_path / "a.tif", values, photometric="rgb", extrasamples=[alpha])
    picture = read(path)
    assert picture.pixels.shape == (20, 31, 3)
    if alpha == "unassalpha":
        np.testing.assert_array_equal(picture.bytes, values[..., :3])
    values = RANDOM.integers(0, 256, (20, 31, 5), np.uint8)
    path = written(tmp_path / "five.tif", values, photometric="rgb", extrasamples=["unspecified", alpha])
    np.testing.assert_array_equal(np.rint(read(path).pixels * 255), values[..., :4])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "LA", "P", "1", "I;16", "F", "YCbCr"])
def test_other_tiff_files_are_read_as_before(tmp_path, mode, monkeypatch):
    if mode == "YCbCr":
        pytest.importorskip("PIL", "13", reason="Pillow reads back the YCbCr files that it writes")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    Image.new(mode, (31, 20)).save(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif").pixels.shape == (20, 31, 1 if mode in ("L", "LA", "1", "I;16", "F") else 3)


def test_what_cannot_be_read_says_why(tmp_path, monkeypatch):
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    path = written(tmp_path / "a.tif", RANDOM.integers(-9, 9, (20, 31, 6), np.int16), **options)
    with pytest.raises(PictureError, match="int16, whose range is unknown"):
        read(path)
    path = written(tmp_path / "b.tif", np.full((20, 31, 6), 7, np.float32), **options)
    with pytest.raises(PictureError, match="values from 7 to 7"):
        read(path)
    path = written(tmp_path / "c.tif", np.zeros((200, 310, 6), np.uint8), **options)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PictureError, match=r"c\.tif.*damaged"):
        read(path)
    path = written(tmp_path / "d.tif", np.zeros((20, 31, 6), np.uint8), **options)
    with pytest.raises(PictureError, match="no frame #2"):
        read(f"{path}#2")
    monkeypatch.setattr(limits.Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(PictureError, match="620 pixels of 6 channels, more than 3,000 values"):
        read(path)
    monkeypatch.setattr(limits.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="more than 200 pixels"):
        read(path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"camscope\[tiff\]"):
        read(path)
