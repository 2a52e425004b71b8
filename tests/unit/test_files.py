"""Files that are whole or absent, in folders and behind addresses."""

import errno
import os
from pathlib import Path

import polars as pl
import pytest

from camscope.errors import MissingExtraError, StoreError
from camscope.files import is_remote, place, read_parquet, write_atomically, write_parquet, writing


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write(b"old"))

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*a.txt: No space left on device; .* the same command"):
        write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


def test_an_address_is_written_and_read_like_a_folder(tmp_path):
    folder = place(f"memory://{tmp_path.name}")
    assert is_remote(folder)
    assert not is_remote(place(tmp_path))
    table = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    for where in (folder, tmp_path):
        write_parquet(where / "deep/t.parquet", table)
        assert read_parquet(where / "deep/t.parquet").equals(table)
        assert read_parquet(where / "deep/t.parquet", columns=["b"]).columns == ["b"]
        with pytest.raises(OSError):
            read_parquet(where / "none.parquet")


def test_a_path_is_a_path_whatever_it_looks_like():
    assert place(Path("a:b")) == Path("a:b")
    assert place("C:/results") == Path("C:/results")


def test_a_service_that_refuses_is_one_sentence(tmp_path):
    class RefusedError(Exception):
        """Of a service's own package."""

    with (
        pytest.raises(StoreError, match=r"cannot write memory://x: no entry; results so far are kept"),
        writing(place("memory://x")),
    ):
        raise RefusedError("no entry")
    with pytest.raises(RefusedError), writing(tmp_path):
        raise RefusedError("a bug here is no fault of the disk")


def test_an_address_without_its_package():
    with pytest.raises(MissingExtraError, match="writing to abfs://x needs one more package"):
        place("abfs://x").exists()
