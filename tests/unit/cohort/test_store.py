"""The folder of a study: whole files or none, one process, and what is known from before."""

import random
import shutil
import subprocess
import sys

import polars as pl
import pytest

from camscope.cohort.store import FAILED, NOT_ASKED, OK, Known, Store
from camscope.errors import DamagedError, StoreError
from camscope.files import MARKER, claim, read_parquet, write_atomically

COLUMNS = {"key": pl.String, "status": pl.String, "file": pl.String}


def row(key, *, status=OK, file=None):
    return {"key": key, "status": status, "file": file}


@pytest.fixture(params=["folder", "address"])
def anywhere(request, tmp_path):
    """A store in a folder, and one behind an address."""
    made = Store(tmp_path / "out" if request.param == "folder" else f"memory://{tmp_path.name}/out")
    with made.locked():
        yield made


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "out").locked():
        yield Store(tmp_path / "out")


def picture(store, name):
    write_atomically(store.folder / name, lambda file: file.write(b"x"))


def files(store):
    found = (str(path)[len(str(store.folder)) + 1 :] for path in store.folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name not in (".lock", MARKER))


def test_rows_come_back_by_their_keys(anywhere):
    anywhere.write("aaaa", 0, rows=[row("k1", file="a.jpg"), row("k2", status=FAILED)], columns=COLUMNS)
    anywhere.write("aaaa", 1, rows=[row("k3")], columns=COLUMNS)
    anywhere.begin("aaaa")
    known = anywhere.known()
    assert len(known) == 2
    assert known.get("k1")["file"] == "a.jpg"
    assert known.get("k3")["key"] == "k3"
    assert known.get("k2") is known.get("k") is known.get("k4") is None


def test_of_several_rows_with_one_key_the_newest_map_wins(anywhere):
    anywhere.write("ffff", 0, rows=[row("k", file="old.jpg"), row("m", status=NOT_ASKED)], columns=COLUMNS)
    anywhere.begin("aaaa")
    anywhere.write("aaaa", 0, rows=[row("k", file="new.jpg"), row("k", status=NOT_ASKED)], columns=COLUMNS)
    anywhere.begin("aaaa")
    known = anywhere.known()
    assert known.get("k")["file"] == "new.jpg"
    assert known.get("m")["status"] == NOT_ASKED


def test_a_new_plan_puts_the_old_aside_and_takes_its_pictures_away_at_last(anywhere):
    for name in ("AP/P1/x/a.jpg", "AP/P2/y/b.jpg", "AP/P2/y/mine.txt"):
        picture(anywhere, name)
    rows = [row("k1", file="AP/P1/x/a.jpg"), row("k2", file="AP/P2/y/b.jpg")]
    anywhere.write("aaaa", 0, rows=rows, columns=COLUMNS)
    anywhere.begin("bbbb")
    known = anywhere.known()
    assert [path.name for path in anywhere.shards()] == []
    assert known.get("k1")["file"] == "AP/P1/x/a.jpg"
    anywhere.write("bbbb", 0, rows=[row("k2", file="AP/P2/y/b.jpg")], columns=COLUMNS)
    anywhere.finish()
    assert files(anywhere) == ["AP/P2/y/b.jpg", "AP/P2/y/mine.txt", "rows/bbbb-000000.parquet"]
    assert not (anywhere.folder / "AP/P1").exists()


def test_a_rewritten_shard_takes_its_pictures_along(anywhere):
    picture(anywhere, "a.jpg")
    anywhere.write("aaaa", 0, rows=[row("k1", file="a.jpg")], columns=COLUMNS)
    anywhere.begin("aaaa")
    known = anywhere.known()
    anywhere.write("aaaa", 0, rows=[row("k9")], columns=COLUMNS)
    assert known.get("k1") is None
    anywhere.begin("aaaa")
    assert anywhere.known().get("k1")["file"] == "a.jpg"
    anywhere.finish()
    assert files(anywhere) == ["rows/aaaa-000000.parquet"]


def test_equal_rows_are_not_written_again(store):
    store.write("aaaa", 0, rows=[row("k1")], columns=COLUMNS)
    before = store.shards()[0].stat().st_ino
    store.write("aaaa", 0, rows=[row("k1")], columns=COLUMNS)
    assert store.shards()[0].stat().st_ino == before


def test_a_hostile_row_removes_nothing_outside(store, tmp_path):
    (tmp_path / "mine.jpg").write_bytes(b"x")
    store.write("aaaa", 0, rows=[row("k1", file="../mine.jpg")], columns=COLUMNS)
    store.begin("bbbb")
    store.finish()
    assert (tmp_path / "mine.jpg").exists()


def test_damaged_shards_are_passed_over(anywhere):
    anywhere.write("aaaa", 0, rows=[row("k1")], columns=COLUMNS)
    anywhere.write("aaaa", 1, rows=[row("k2")], columns=COLUMNS)
    path = anywhere.shards()[0]
    path.write_bytes(path.read_bytes()[:50])
    assert len(Known(anywhere.shards())) == 1


def test_half_written_files_of_a_killed_process_go(store):
    (store.folder / "AP").mkdir()
    for name in ("AP/.0123abcd.part", "rows/.0123abcd.part", "AP/mine.part"):
        (store.folder / name).write_bytes(b"x")
    store.begin("aaaa")
    assert files(store) == ["AP/mine.part"]


def test_a_second_process_is_kept_out(store):
    assert store.busy
    code = f"""
from pathlib import Path
from camscope.cohort.store import Store
store = Store(Path({str(store.folder)!r}))
print(store.busy)
with store.locked():
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True"
    assert "StoreError: another process is at work" in done.stderr


def test_the_lock_falls_with_its_holder(tmp_path):
    store = Store(tmp_path / "out")
    with store.locked():
        pass
    assert not store.busy
    assert not Store(tmp_path / "none").busy


def test_records(anywhere):
    assert anywhere.read_record() == {}
    anywhere.record({"name": "Ä", "path": anywhere.folder})
    assert anywhere.read_record() == {"name": "Ä", "path": str(anywhere.folder)}
    (anywhere.folder / "study.json").write_text("{")
    with pytest.raises(StoreError, match="delete it and run the same command again"):
        anywhere.read_record()


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write"), Store(tmp_path / "out").locked():
        raise AssertionError


def test_every_flipped_bit_of_a_shard_is_detected_and_its_rows_are_made_again(store):
    rows = [{**row(f"k{n}", file=f"{n}.jpg"), "grid": [0.5 * n, 0.25]} for n in range(40)]
    columns = COLUMNS | {"grid": pl.List(pl.Float32)}
    store.write("aaaa", 0, rows=rows, columns=columns)
    path = store.shards()[0]
    content, draw = path.read_bytes(), random.Random(0)
    assert len(Known([path])) == 40
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            read_parquet(path)
        known = Known([path])
        assert len(known) == 0
        assert len(known.damaged) == 1
    store.write("aaaa", 0, rows=rows, columns=columns)
    assert len(Known([path])) == 40


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c + b"x", lambda c: c[1:]])
def test_cut_and_grown_shards_are_detected(store, damage):
    store.write("aaaa", 0, rows=[row("k1")], columns=COLUMNS)
    path = store.shards()[0]
    path.write_bytes(damage(path.read_bytes()))
    assert len(Known([path])) == 0


@pytest.mark.parametrize("name", ["mine.parquet", "0123abcd-000007.parquet", "former/00000001-0123abcd-000000.parquet"])
def test_rows_of_others_and_the_files_that_they_name_are_never_removed(anywhere, name):
    picture(anywhere, "precious.txt")
    foreign = pl.DataFrame({"key": ["k1"], "status": [OK], "file": ["precious.txt"]})
    write_atomically(anywhere.folder / "rows" / name, foreign.write_parquet)
    content = (anywhere.folder / "rows" / name).read_bytes()
    for plan in ("aaaa", "bbbb"):
        anywhere.begin(plan)
        assert anywhere.known().get("k1") is None
        anywhere.write(plan, 0, rows=[row(f"of {plan}")], columns=COLUMNS)
        anywhere.finish()
    kept = [path for path in files(anywhere) if path.endswith(name.rpartition("/")[2])]
    assert len(kept) == 1
    assert (anywhere.folder / kept[0]).read_bytes() == content
    assert "precious.txt" in files(anywhere)
    assert "rows/bbbb-000000.parquet" in files(anywhere)


def test_a_folder_of_others_is_refused(tmp_path):
    for name in ("empty", "clutter", "mine", "rows"):
        (tmp_path / name).mkdir()
    (tmp_path / "clutter/.DS_Store").write_bytes(b"x")
    (tmp_path / "mine/thesis.txt").write_bytes(b"x")
    (tmp_path / "rows/rows").mkdir()
    for name in ("new", "empty", "clutter"):
        with Store(tmp_path / name).locked():
            pass
        with Store(tmp_path / name).locked():  # it is known again
            pass
    for name in ("mine", "rows"):
        with (
            pytest.raises(StoreError, match="is not empty, and not a folder of a study"),
            Store(tmp_path / name).locked(),
        ):
            raise AssertionError
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["thesis.txt"]


def test_folders_of_one_kind_are_not_mixed_with_another(tmp_path):
    with Store(tmp_path / "out").locked():
        pass
    with pytest.raises(StoreError, match="holds a study, not an evaluation"):
        claim(tmp_path / "out", "an evaluation")


def test_a_copy_without_hidden_files_is_known_by_its_record(tmp_path):
    store = Store(tmp_path / "out")
    with store.locked():
        store.record({"plan": "aaaa"})
    shutil.copytree(tmp_path / "out", tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    with Store(tmp_path / "copy").locked():
        pass


def test_overlays_whose_folders_are_gone_do_not_keep_a_run_from_finishing(store):
    for n in range(3):
        picture(store, f"AP/P{n}/x/a.jpg")
    store.write("aaaa", 0, rows=[row(f"k{n}", file=f"AP/P{n}/x/a.jpg") for n in range(3)], columns=COLUMNS)
    shutil.rmtree(store.folder / "AP/P0")
    shutil.rmtree(store.folder / "AP/P1/x")
    (store.folder / "AP/P1/x").write_bytes(b"a file now")
    store.begin("bbbb")
    store.write("bbbb", 0, rows=[row("k0")], columns=COLUMNS)
    store.finish()
    assert files(store) == ["AP/P1/x", "rows/bbbb-000000.parquet"]


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "[" * 100_000, "\0"])
def test_odd_records_are_one_error(store, content):
    (store.folder / "study.json").write_text(content)
    with pytest.raises(StoreError, match="delete it and run the same command again"):
        store.read_record()
