"""Bytes from here and elsewhere, under one set of sentences."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import camscope as cs
from camscope.errors import MissingExtraError, PictureError, StoreError
from camscope.files import place
from camscope.images import decode, fetch, peek, read

fsspec = pytest.importorskip("fsspec")
GREY = np.random.default_rng(0).integers(0, 256, (13, 17), np.uint8)


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    return path


@pytest.fixture
def remote(local):
    """The same image in the memory that fsspec treats as a remote place."""
    memory = fsspec.filesystem("memory")
    memory.pipe({"/cohort/a.png": local.read_bytes(), "/cohort/empty.png": b""})
    yield "memory://cohort/a.png"
    memory.rm("/cohort", recursive=True)


def test_a_file_is_its_bytes(local):
    assert fetch(local) == fetch(str(local)) == local.read_bytes()


def test_an_address_is_its_bytes(local, remote):
    assert fetch(remote) == local.read_bytes()
    assert fetch(f"file://{local}") == local.read_bytes()


def test_a_remote_picture_is_read_and_named_by_its_address(remote):
    picture = read(remote)
    assert picture.source == remote
    np.testing.assert_array_equal(picture.rgb[..., 0], GREY)
    assert peek(remote).size == (13, 17)


@pytest.mark.parametrize("use", [fetch, read, peek])
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("memory://cohort/missing.png", "there is no file 'memory://cohort/missing.png'"),
        ("memory://cohort/empty.png", "is empty"),
        (
            "nosuchplace://cohort/a.png",
            "cannot use the address 'nosuchplace://cohort/a.png': possible schemes are file://",
        ),
    ],
)
def test_what_cannot_be_fetched_from_elsewhere(remote, source, says, use):
    with pytest.raises(PictureError, match=says) as caught:
        use(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", [fetch, peek])
def test_a_folder_and_an_empty_file(tmp_path, use):
    (tmp_path / "empty.png").touch()
    for source in (tmp_path, f"file://{tmp_path}"):
        with pytest.raises(PictureError, match="is a folder"):
            use(source)
    with pytest.raises(PictureError, match=r"empty\.png' is empty"):
        use(tmp_path / "empty.png")


def test_a_service_with_exceptions_of_its_own(remote, monkeypatch):
    class ServiceError(Exception):
        pass

    def refuse(*_, **__):
        raise ServiceError("no\ncredentials")

    monkeypatch.setattr(fsspec.filesystem("memory"), "open", refuse)
    with pytest.raises(PictureError, match=r"cannot read 'memory://cohort/a\.png': no credentials"):
        fetch(remote)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"reading s3://bucket/a\.png needs one more package: .*s3fs"):
        fetch("s3://bucket/a.png")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"camscope\[remote\]"):
        fetch("memory://cohort/a.png")


def test_a_frame_is_no_part_of_the_name_unless_there_is_such_a_file(local):
    assert fetch(f"{local}#0") == local.read_bytes()
    other = Path(f"{local}#0")
    other.write_bytes(b"other")
    assert fetch(other) == b"other"


def test_what_is_fetched_is_what_read_decodes(local):
    picture = decode(fetch(local), str(local))
    np.testing.assert_array_equal(picture.pixels, read(local).pixels)


@pytest.mark.parametrize(
    "address",
    [
        "reference://?fo=/etc/passwd",
        "zip://a.png::file:///tmp/a.zip",
        "file:///etc/::passwd",
        "s3://bucket/a.png::zip://x",
        "github://owner:repo@main/a.png",
        "ssh://host/a.png",
        "jar://a",
        "S3://bucket/a.png",
        "data://text/plain,x",
    ],
)
def test_addresses_that_are_not_possible(address):
    with pytest.raises(PictureError, match="cannot use the address"):
        fetch(address)
    with pytest.raises(StoreError, match="cannot use the address"):
        place(address)


def test_a_chain_without_a_scheme_is_the_name_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "a::b.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert fetch("a::b.png") == b"x"
    with pytest.raises(PictureError, match="there is no file"):
        fetch("simplecache::file:///etc/passwd")


def test_an_image_cell_cannot_read_through_other_schemes(make_study, tmp_path):
    path = make_study(2)
    (tmp_path / "secret.json").write_text("{}")
    table = path.parent / "cohort.csv"
    table.write_text(table.read_text().replace("P000/PA.png", f"reference://x?fo={tmp_path}/secret.json", 1))
    rows = list(cs.run(cs.Study.read(path), tmp_path / "out", device="cpu"))
    assert {row["message"] for row in rows if row["case"] == 0 and row["status"] == "failed"} != set()
    assert all("cannot use the address" in row["message"] for row in rows if row["status"] == "failed")
