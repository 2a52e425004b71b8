"""Damage, foreign files, full disks and odd values: one sentence and a status, never a traceback or a silent loss."""

import builtins
import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from camscope.errors import TerminatedError
from running import inside

pytestmark = pytest.mark.filterwarnings("ignore:.*no patients are known")


def camscope(*arguments):
    done = inside(*arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def one_sentence(done, *said, status=2):
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("camscope: ")
    for words in said:
        assert words in done.stderr


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def class_folders(tmp_path):
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(12):
            pixels = np.random.default_rng([c, n]).integers(0, 90, (32, 40), np.uint8)
            pixels[2 + 16 * c : 12 + 16 * c, 6:16] += 120
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{n}.png")
    return tmp_path / "data"


MARKED = tuple(f"{f}" for f in (".lock",))
TRAIN = (
    *("--model", "timm:resnet10t", "--weights", "none", "--input-size", 32, "--batch-size", 8, "--device", "cpu"),
    *("--split", "0.5,0.25,0.25"),
)


def test_an_unclosed_quote_in_a_cohort_loses_no_row_in_silence(make_study, tmp_path):
    path = make_study(60)
    table = path.parent / "cohort.csv"
    lines = table.read_text().splitlines()
    lines[3] = lines[3].replace("P001", '"P001', 1)
    table.write_text("\n".join(lines))
    one_sentence(camscope("study", path, "--out", tmp_path / "out"), "cohort.csv:4: a quote")
    done = camscope("study", "--check", "--json", path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["problems"][0]["line"] == 4
    one_sentence(camscope("train", table, *TRAIN, "--out", tmp_path / "run"), "cohort.csv:4: a quote")
    done = camscope("evaluate", "-m", "timm:resnet10t", "--weights", "none", "--data", table, "--out", tmp_path / "e")
    one_sentence(done, "cohort.csv:4: a quote")


def test_a_damaged_shard_is_computed_again_with_a_note(make_study, tmp_path):
    path, out = make_study(6), tmp_path / "out"
    assert camscope("study", path, "--out", out).returncode == 0
    before = pl.read_parquet(out / "rows/*.parquet")
    shard = next(out.glob("rows/*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.write_bytes(content)
    found = json.loads(camscope("study", "--status", out, "--json").stdout)
    assert found["damaged"] == [shard.name]
    one_sentence(camscope("report", out), "is damaged", "run the same command again")
    one_sentence(camscope("audit", out), "is damaged", "run the same command again")
    done = camscope("study", path, "--out", out)
    assert done.returncode == 0
    assert f"{shard} is damaged (its checksum differs): its rows are computed again" in done.stderr
    assert pl.read_parquet(out / "rows/*.parquet").equals(before)
    (note,) = camscope("study", path, "--out", out).stderr.splitlines()
    assert note.startswith("note: nothing has changed since the audit")


def test_foreign_files_in_out_stay(make_study, photo, class_folders, tmp_path):
    path, out = make_study(2), tmp_path / "mine"
    (out / "rows").mkdir(parents=True)
    (out / "precious.txt").write_text("x")
    pl.DataFrame({"key": ["k"], "status": ["ok"], "file": ["precious.txt"]}).write_parquet(out / "rows/a.parquet")
    before = tree(out)
    net = ("timm:resnet10t", "--weights", "none")
    for command in (
        ("study", path),
        ("evaluate", "-m", *net, "--data", class_folders / "cat", "--methods", "gradcam", "--metrics", "gini"),
        ("explain", photo, "-m", *net),
        ("layers", photo, "-m", *net),
        ("compare", photo, "--models", *net),
        ("bundle", *net),
        ("train", class_folders, *TRAIN, "--epochs", 1),
        ("failures", *net, "--labels", "cat,dog", "--data", class_folders),
        ("demo",),
    ):
        one_sentence(camscope(*command, "--out", out), f"{out} is not empty, and not a folder of ")
        assert tree(out) == before, command


def test_foreign_rows_in_a_study_of_ours_stay(make_study, tmp_path):
    path, out = make_study(4), tmp_path / "out"
    assert camscope("study", path, "--out", out).returncode == 0
    (out / "precious.txt").write_text("x")
    foreign = pl.DataFrame({"key": ["k"], "status": ["ok"], "file": ["precious.txt"]})
    foreign.write_parquet(out / "rows/mine.parquet")
    (out / "rows/former").mkdir()
    foreign.write_parquet(out / "rows/former/00000001-0123abcd-000000.parquet")
    path.write_text(path.read_text().replace("[explain]", '[explain]\ncmap = "viridis"'))
    assert camscope("study", path, "--out", out).returncode == 0
    assert {"precious.txt", "rows/mine.parquet", "rows/former/00000001-0123abcd-000000.parquet"} <= set(tree(out))


def test_foreign_thumbnails_stay(make_study, tmp_path):
    from camscope.report import report

    path, out = make_study(4), tmp_path / "out"
    assert camscope("study", path, "--out", out).returncode == 0
    (out / "report_files").mkdir()
    (out / "report_files/mine.jpg").write_bytes(b"x")
    report(out, inside=1)
    assert len(list(out.glob("report_files/*.jpg"))) == 5
    report(out, inside=10)
    assert [file.name for file in out.glob("report_files/*")] == ["mine.jpg"]


def test_overlay_folders_removed_by_hand_with_no_overlays_asked_for(make_study, tmp_path):
    path, out = make_study(4), tmp_path / "out"
    assert camscope("study", path, "--out", out).returncode == 0
    shutil.rmtree(out / "PA")
    path.write_text(path.read_text().replace("[explain]", '[explain]\nfiles = ""'))
    assert camscope("study", path, "--out", out).returncode == 0
    assert json.loads(camscope("study", "--status", out, "--json").stdout)["finished"]
    assert not list(out.rglob("gradcam*.jpg"))


@pytest.fixture
def commands(photo, class_folders, make_study):
    net = ("timm:resnet10t", "--weights", "none")
    return {
        "explain": ("explain", photo, "-m", *net),
        "layers": ("layers", photo, "-m", *net),
        "compare": ("compare", photo, "--models", *net),
        "bundle": ("bundle", *net),
        "failures": ("failures", *net, "--labels", "cat,dog", "--data", class_folders),
        "evaluate": (
            *("evaluate", "-m", *net, "--data", class_folders / "cat"),
            *("--methods", "gradcam", "--metrics", "gini", "--target", "0"),
        ),
        "study": ("study", make_study(2)),
        "train": ("train", class_folders, *TRAIN, "--epochs", 1),
    }


EVERY = ("explain", "layers", "compare", "bundle", "failures", "evaluate", "study", "train")


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_made_is_one_sentence(commands, command, number, tmp_path, monkeypatch):
    out, real = tmp_path / "out", Path.mkdir

    def refuse(path, *arguments, **more):
        if path.is_relative_to(out):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    one_sentence(camscope(*commands[command], "--out", out), "cannot write", os.strerror(number))


@pytest.mark.parametrize("command", ["explain", "layers", "compare", "bundle", "study", "train"])
def test_a_disk_that_fills_up_later_is_one_sentence(commands, command, tmp_path, monkeypatch):
    """The folder is taken, and then every write fails, whoever does it."""
    out, real = tmp_path / "out", io.open

    def full(file, mode="r", *arguments, **more):
        if set(mode) & set("wxa+") and str(file).startswith(str(out)) and not str(file).endswith(MARKED):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return real(file, mode, *arguments, **more)

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", full)
    monkeypatch.setattr("safetensors.torch.serialize_file", lambda *_, **__: full(f"{out}/weights", "wb"))
    done = camscope(*commands[command], "--out", out)
    assert done.returncode in (1, 2)
    assert "No space left on device" in done.stderr
    assert "unexpected" not in done.stderr
    monkeypatch.undo()
    assert not list(out.rglob("*.part"))


ODD = [
    "[]",
    "3",
    "null",
    '"x"',
    "{",
    "",
    "\0",
    '{"plan": []}',
    '{"plan": "x", "cases": [], "finished": "no"}',
    "[" * 9999,
]


@pytest.mark.parametrize("content", ODD)
def test_odd_records_of_a_study_are_one_sentence_or_an_answer(make_study, tmp_path, content):
    out = tmp_path / "out"
    (out / "rows").mkdir(parents=True)
    (out / "study.json").write_text(content)
    for command in (("study", "--status", out), ("study", "--status", out, "--json"), ("report", out), ("audit", out)):
        done = camscope(*command)
        assert done.returncode in (0, 2)
        assert "unexpected" not in done.stderr
        assert done.stderr.count("\n") == (done.returncode == 2)


@pytest.mark.slow
def test_every_odd_value_in_the_record_of_a_study(make_study, tmp_path):
    path, out = make_study(2), tmp_path / "out"
    assert camscope("study", path, "--out", out).returncode == 0
    record = json.loads((out / "study.json").read_text())
    for key in record:
        for odd in (None, 3, "x", [], {}, [[]], True):
            (out / "study.json").write_text(json.dumps(record | {key: odd}))
            for command in (("study", "--status", out), ("report", out)):
                done = camscope(*command)
                assert done.returncode in (0, 2), (key, odd, command)
                assert "unexpected" not in done.stderr, (key, odd, command, done.stderr)


@pytest.mark.slow
def test_every_odd_value_in_an_audit(make_study, tmp_path):
    path, out = make_study(2), tmp_path / "out"
    assert camscope("study", path, "--out", out).returncode == 0
    audit = json.loads((out / "audit.json").read_text())
    contents = ["[]", "3", "{", "", "[" * 9999]
    contents += [json.dumps(audit | {key: odd}) for key in audit for odd in (None, 3, "x", [], {})]
    for content in contents:
        (out / "audit.json").write_text(content)
        done = camscope("report", out)
        assert done.returncode in (0, 2), content[:80]
        assert "unexpected" not in done.stderr, (content[:80], done.stderr)


LONG = "9" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--target", LONG),
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--target", f"top{LONG}"),
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--batch-size", LONG),
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--batch-size", 10**20),
        (
            "explain",
            "PHOTO",
            "-m",
            "timm:resnet10t",
            "--weights",
            "none",
            "--set",
            f"samples={LONG}",
            "--method",
            "sscam",
        ),
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--scale", f"fixed:0,{LONG}"),
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--opacity", "nan"),
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--seed", -1),
        ("explain", "PHOTO", "-m", "timm:resnet10t", "--weights", "none", "--seed", 10**30),
        ("explain", f"PHOTO#{LONG}", "-m", "timm:resnet10t", "--weights", "none"),
        ("bundle", "timm:resnet10t", "--weights", "none", "--input-size", LONG),
        ("bundle", "timm:resnet10t", "--weights", "none", "--mean", "nan"),
        ("bundle", "timm:resnet10t", "--weights", "none", "--option", "in_chans=NaN"),
        ("bundle", "timm:resnet10t", "--weights", "none", "--classes", 10**18),
    ],
)
def test_numbers_that_make_no_sense_are_one_sentence(photo, tmp_path, arguments):
    words = [str(word).replace("PHOTO", str(photo)) for word in arguments]
    done = camscope(*words, "--out", tmp_path / "out")
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "unexpected" not in done.stderr
    assert len(done.stderr) < 12_000


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("[explain]", '[explain]\nlayer = "none.such"'),
        lambda text: text.replace('table = "cohort.csv"', 'table = "none.csv"'),
        lambda text: text.replace('model = "', 'model = "none'),
        lambda _: "[",
        lambda _: f"a = {LONG}",
        lambda _: "",
    ],
)
def test_check_always_prints_json(make_study, change):
    path = make_study(2)
    path.write_text(change(path.read_text()))
    done = camscope("study", "--check", "--json", path)
    assert done.returncode in (1, 2)
    assert json.loads(done.stdout)["problems"]
    for arguments in ((), (path.parent / "none.toml",), (path.parent,)):
        done = camscope("study", "--check", "--json", *arguments)
        assert done.returncode == 2
        assert json.loads(done.stdout)["problems"]


@pytest.mark.parametrize(("fault", "status"), [(TerminatedError("asked to stop"), 143), (KeyboardInterrupt(), 130)])
def test_work_that_was_stopped_says_so_and_does_not_end_with_0(photo, tmp_path, monkeypatch, fault, status):
    def stop(*_, **__):
        raise fault

    monkeypatch.setattr("camscope.explanation.explain_all", stop)
    done = camscope("explain", photo, "-m", "timm:resnet10t", "--weights", "none", "--out", tmp_path / "out")
    one_sentence(done, "stop" if status == 143 else "interrupted; re-run the same command to resume", status=status)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02"])
def test_cut_weights_are_one_sentence(photo, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    done = camscope("explain", photo, "-m", "timm:resnet10t", "--weights", tmp_path / name, "--out", tmp_path / "out")
    one_sentence(done, name)
    assert "unexpected" not in done.stderr
