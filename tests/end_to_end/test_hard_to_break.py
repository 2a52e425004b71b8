"""Damage, foreign files, full disks and odd values: one sentence and a status, never a traceback or a silent loss."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

from running import inside


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
    assert camscope("study", path, "--out", out).stderr == ""


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
    from camscope.study.report import report

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
