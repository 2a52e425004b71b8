"""`camscope train` and `camscope failures`, and what the other commands do with a run."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import camscope as cs
from running import inside

pytestmark = pytest.mark.filterwarnings("ignore:.*no patients are known")
COMMAND = Path(sys.executable).with_name("camscope")
QUICK = ("--model", "timm:resnet10t", "--weights", "none", "--input-size", 32, "--batch-size", 8, "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes whose square is at another place; one file is damaged."""
    place = tmp_path_factory.mktemp("data")
    for c, name in enumerate(("cat", "dog <b>")):
        (place / name).mkdir()
        for n in range(12):
            pixels = np.random.default_rng([c, n]).integers(0, 90, (32, 40), np.uint8)
            pixels[2 + 16 * c : 12 + 16 * c, 6:16] += 120
            Image.fromarray(pixels).save(place / name / f"{n}.png")
    (place / "cat/3.png").write_bytes(b"damaged")
    return place


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    done = inside("train", folder, *QUICK, "--epochs", 2, "--split", "0.5,0.2,0.3", "--json", "--out", out)
    assert "Traceback" not in done.stderr
    return out, done


def test_a_run_is_judged_written_and_says_what_it_left_out(run):
    out, done = run
    assert done.returncode == 1, done.stderr
    assert "not used: cat/3.png" in done.stderr
    said = json.loads(done.stdout)
    assert said["test"] == json.loads((out / "metrics.json").read_text())
    with (out / "split.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert sum(row["split"] == "test" for row in rows) == said["test"]["pictures"]
    sizes = [Image.open(out / name).size for name in ("samples.png", "samples_batch.png", "confusion_matrix.png")]
    assert min(min(size) for size in sizes) > 200


def test_the_page_fetches_nothing_and_escapes_names(run):
    page = (run[0] / "report.html").read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in page
    assert "<script" not in page
    assert "dog <b>" not in page
    assert "dog &lt;b&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


@pytest.mark.filterwarnings("default::UserWarning")  # of unknown patients or missing images
def test_the_run_goes_straight_into_explain_study_and_failures(run, folder, tmp_path):
    out, _ = run
    assert cs.load(out).labels == ("cat", "dog <b>")
    done = inside("explain", folder / "cat/0.png", "--model", out, "--write", "json", "--out", tmp_path / "maps")
    assert done.returncode == 0, done.stderr
    (tmp_path / "study.toml").write_text(
        f'[cohort]\ntable = "{folder}"\n[labels.cat]\ncolumn = "cat"\nmodel = "{out}"\n', encoding="utf-8"
    )
    done = inside("study", tmp_path / "study.toml", "--out", tmp_path / "study")
    assert done.returncode == 1, done.stderr
    done = inside("failures", out, "--split", "all", "--json", "--out", tmp_path / "failures")
    assert done.returncode == 1
    assert "not judged: " in done.stderr
    figures = json.loads(done.stdout)
    assert figures["pictures"] == 23
    with (out / "split.csv").open(encoding="utf-8") as file:
        used = [row for row in csv.DictReader(file) if not row["problem"]]
    splits, splits_of_3 = [row["split"] for row in used], [row["split"] for row in used if "/3.png" in row["path"]]
    assert figures["of_training"] == {split: splits.count(split) for split in ("train", "val", "test")}
    sentence = f"The model was trained on {splits.count('train')} of these 23 images, and {splits.count('val')} chose"
    assert sentence in done.stderr
    assert sentence in (tmp_path / "failures/report.html").read_text(encoding="utf-8")
    copies = shutil.copytree(folder, tmp_path / "copies", ignore=lambda *_: ["3.png"])
    done = inside("failures", out, "--data", copies, "--json", "--out", tmp_path / "of_copies")
    assert json.loads(done.stdout)["of_training"]["train"] == splits.count("train") - splits_of_3.count("train")
    with (tmp_path / "failures/failures.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wrong = len({row["path"] for row in rows})
    assert figures["accuracy"]["estimate"] == pytest.approx(1 - wrong / 23)
    assert (tmp_path / "failures/report.html").read_text().count('alt="Map for') == 2 * sum(
        min(4, sum(row["label"] == label and row["kind"] == kind for row in rows))
        for label in ("cat", "dog <b>")
        for kind in ("false positive", "false negative")
    )


def test_failures_of_any_model_and_data(folder, tmp_path):
    inside(
        "bundle",
        "timm:resnet10t",
        "--weights",
        "none",
        "--labels",
        "dog <b>",
        "--input-size",
        32,
        "--out",
        tmp_path / "m",
    )
    done = inside("failures", tmp_path / "m", "--data", folder, "--out", tmp_path / "out")
    assert done.returncode == 1
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "no dog &lt;b&gt;" in page
    done = inside("failures", tmp_path / "m", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "give labelled images with --data" in done.stderr


def test_a_model_for_each_label(tmp_path):
    for n in range(16):
        pixels = np.random.default_rng(n).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    lines = ["path,patient,a,b", *(f"{n}.png,P{n // 2},{n % 2},{n // 2 % 2}" for n in range(16))]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    more = ("--epochs", 1, "--each", "--split", "0.5,0.25,0.25", "--out", tmp_path / "runs")
    done = inside("train", tmp_path / "table.csv", *QUICK, *more)
    assert done.returncode == 0, done.stderr
    assert [cs.load(tmp_path / "runs" / name).labels for name in "ab"] == [("a",), ("b",)]
    assert done.stdout.count("report.html") == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--split", "0.5,0.5"), "three shares above 0"),
        (("--hide", "boder:0.1"), "no region called 'boder'; nearest: 'border'"),
        (("--right-reasons", "lung"), "no mask called 'lung'"),
        (("--label", "cat"), "leave --label out"),
        (("--epochs", 0), "epochs must be a whole number from 1"),
    ],
)
def test_wrong_usage_is_one_line(folder, tmp_path, more, said):
    done = inside("train", folder, *QUICK, *more, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run/model.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGKILL, -9, ""), (signal.SIGTERM, 143, "re-run the same command to resume"), (signal.SIGINT, 130, "")],
)
def test_a_stopped_process_goes_on_and_ends_the_same(folder, tmp_path, number, code, said):
    def words(out):
        return [str(w) for w in (COMMAND, "train", folder, *QUICK, "--epochs", 6, "--out", out)]

    subprocess.run(words(tmp_path / "whole"), capture_output=True, check=False)
    process = subprocess.Popen(words(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    history = tmp_path / "killed/history.csv"
    deadline = time.monotonic() + 300
    while not (history.is_file() and len(history.read_text().splitlines()) > 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert said in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "killed/model.json").exists()
    done = subprocess.run(words(tmp_path / "killed"), capture_output=True, text=True, check=False)
    assert "going on after epoch" in done.stderr
    digests = [cs.load(tmp_path / name).digest for name in ("whole", "killed")]
    assert digests[0] == digests[1]
    assert history.read_bytes() == (tmp_path / "whole/history.csv").read_bytes()


@pytest.mark.slow
def test_two_processes_train_one_model(folder, tmp_path):
    out = tmp_path / "run"
    words = [str(w) for w in (COMMAND, "train", folder, *QUICK, "--epochs", 2, "--devices", 2, "--out", out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert cs.load(out).facts["test"]["pictures"] > 0
    assert len((out / "history.csv").read_text().splitlines()) == 3
