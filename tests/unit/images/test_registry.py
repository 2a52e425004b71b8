"""Who reads what, and what a header alone tells."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscope.errors import PictureError
from camscope.images import READERS, Picture, decode, peek, read, reader

RGB = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
SUFFIXES = [".png", ".jpg", ".tif", ".bmp", ".gif", ".webp"]


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_the_longest_suffix_wins(tmp_path, monkeypatch):
    for suffix, value in ((".gz", 0.25), (".nii.gz", 0.75)):
        monkeypatch.setitem(READERS, suffix, None)

        @reader(suffix)
        def read_constant(content, source, value=value):
            return Picture(np.full((len(content), 1, 1), value, np.float32), source)

    path = tmp_path / "Scan.NII.GZ"
    path.write_bytes(b"xyz")
    assert read(path).pixels.ravel().tolist() == [0.75] * 3
    assert decode(b"x", "Scan.NII.GZ").pixels.item() == 0.75
    assert peek(path).size == (3, 1)  # a reader without a peeker decodes


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_peek_sees_the_size_that_is_read(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a{suffix}", RGB, exif=exif)
    seen = peek(path)
    assert seen.size == peek(str(path)).size == read(path).size
    assert dict(seen.facts) == {}


def test_damaged_exif_data_do_not_turn_the_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    damaged = exif.tobytes().replace(b"MM\0*", b"MM\0?").replace(b"II*\0", b"II?\0")
    assert peek(saved(tmp_path / "a.png", RGB, exif=damaged)).size == (13, 17)


class Counted(io.FileIO):
    """A file that counts what is read of it."""

    total = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        type(self).total += count
        return count

    def readall(self):
        content = super().readall()
        type(self).total += len(content)
        return content


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".webp"])  # Pillow reads WebP files whole
def test_a_peek_reads_the_beginning_only(tmp_path, monkeypatch, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    path = saved(tmp_path / f"a{suffix}", noise)
    monkeypatch.setattr(Path, "open", lambda self, mode: io.BufferedReader(Counted(self)))
    monkeypatch.setattr(Counted, "total", 0)
    assert peek(path).size == (700, 900)
    assert 0 < Counted.total < 0.25 * os.path.getsize(path)  # noqa: PTH202
    read(path)
    assert Counted.total > os.path.getsize(path)  # noqa: PTH202


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_peek_refuses_what_is_no_picture(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("case,label\n1,Effusion\n")
    with pytest.raises(PictureError, match="not an image") as peeked:
        peek(path)
    with pytest.raises(PictureError) as seen:
        read(path)
    assert str(peeked.value) == str(seen.value)


@pytest.mark.parametrize("name", ["missing.png", "x" * 300, "a\0.png", "missing.dcm#2"])
def test_peek_and_read_share_their_sentences(tmp_path, name):
    said = set()
    for function in (peek, read):
        with pytest.raises(PictureError) as caught:
            function(os.path.join(tmp_path, name))  # noqa: PTH118
        said.add(str(caught.value))
    assert len(said) == 1
