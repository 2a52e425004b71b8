"""camscope study, as a user types it: bad rows, hostile names, kills, and folders that stay clean."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import camscope as cs
from running import inside

COMMAND = Path(sys.executable).with_name("camscope")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def camscope(*arguments):
    done = inside(*arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def tree(folder, *, without=()):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if not any(path.is_relative_to(other) for other in without)
    }


def tables(out):
    return pl.read_parquet(out / "rows/*.parquet").sort("case", "label", "method")


HOSTILE = [
    "../../up",
    "/abs",
    "..",
    "a/b\\c",
    "x\x1b[31my\x07",
    "n" * 300,
    "患者 №1",
    "<b>x</b>",
    "=1+1",
    "{image}",
    "~",
]


@pytest.fixture
def bad(make_study):
    """A cohort with every kind of bad row; returns the study file and what is expected of each row."""
    path = make_study(4)
    images = path.parent / "images"
    whole = (images / "P000/PA.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "empty.png").write_bytes(b"")
    (images / "text.png").write_bytes(b"no image")
    (images / "folder.png").mkdir()
    odd = {}
    for n, name in enumerate(["<b>x</b>", "患者", "a b; c", "=1+1", "x\x1b[31my"]):
        odd[name] = f"odd/{name.replace('/', '_')}.png"
        (images / "odd").mkdir(exist_ok=True)
        Image.new("L", (48, 40), 20 * n).save(images / odd[name])
    for n, name in enumerate(["a/x.png", "b/x.png"]):
        (images / name).parent.mkdir()
        Image.new("L", (48, 40), 90 + n).save(images / name)
    rows = [
        ("P000/PA.png", "P0", "PA", "1", "0", "ok"),
        ("cut.png", "P1", "PA", "1", "0", "damaged or truncated"),
        ("missing.png", "P1", "PA", "1", "0", "there is no file"),
        ("empty.png", "P1", "PA", "1", "0", "is empty"),
        ("text.png", "P1", "PA", "1", "0", "is not an image"),
        ("folder.png", "P1", "PA", "1", "0", "is a folder"),
        ("P000/PA.png", "P0", "AP", "1", "0", "the same image and patient as line 2"),
        ("P000/AP.png", "P0", "AP", "maybe", "1", "effusion = 'maybe'"),
        ("P001/PA.png", "P2", "AP", "", "-1", "the label is blank or uncertain"),
        ("P001/AP.png", "", "AP", "1", "0", "patient_id is blank"),
        ("", "P3", "AP", "1", "0", "path is blank"),
        ("n" * 300 + ".png", "P3", "AP", "1", "0", "cannot read"),
        *((name, "P4", "AP", "1", "1", "ok") for name in ("a/x.png", "b/x.png")),
        *((name, "P5", hostile, "1", "1", "ok") for name, hostile in zip(odd.values(), HOSTILE, strict=False)),
    ]
    lines = ['"' + '";"'.join([*row[:5], ""]) + '"' for row in rows]
    lines.insert(5, '"ragged.png";"P1"')
    rows.insert(5, ("ragged.png", "P1", "", "", "", "has 2 cells"))
    for n, hostile in enumerate(HOSTILE):
        Image.new("L", (48, 40), 120 + n).save(images / f"h{n}.png")
        rows.append((f"h{n}.png", hostile, "AP", "1", "0", "ok"))
        lines.append(f'"h{n}.png";"{hostile}";"AP";"1";"0";""')
    text = "path;patient_id;view;effusion;nodule;box\n" + "\n".join(lines)
    (path.parent / "cohort.csv").write_bytes(text.encode("utf-16"))
    return path, rows


@pytest.mark.filterwarnings("default::UserWarning")  # of unknown patients or missing images
def test_a_cohort_with_every_kind_of_bad_row(bad, tmp_path):
    path, rows = bad
    text = path.read_text().replace("[labels.Nodule]", '[labels."<b>No</b>, dule/../x"]')
    path.write_text(text)
    out = tmp_path / "results"
    before = tree(tmp_path)
    done = camscope("study", path, "--out", out, "--json")
    assert done.returncode == 1
    assert tree(tmp_path, without=[out]) == before
    table = tables(out)
    assert table["case"].to_list() == [n for n in range(len(rows)) for _ in range(2)]
    for row in table.to_dicts():
        expected = rows[row["case"]][5]
        if expected == "ok":
            assert row["status"] in ("ok", "not asked"), row
        elif expected not in (row["message"] or ""):
            assert expected.startswith("effusion")
            assert row["label"] != "Effusion"
    said = json.loads(done.stdout)
    assert said["cases"] == len(rows)
    assert said["rows"] == dict(table["status"].value_counts().iter_rows())
    failed = {row["line"] for row in table.filter(pl.col("status") == "failed").to_dicts()}
    lines = [line for line in done.stderr.splitlines() if "3 of 29 images are missing" not in line]
    assert {int(line.split("cohort.csv:")[1].split(":")[0]) for line in lines} == failed
    assert "\x1b" not in done.stderr
    files = table["file"].drop_nulls().to_list()
    assert len(set(files)) == len(files) == (table["status"] == "ok").sum()
    for name in files:
        with Image.open(out / name) as image:
            image.load()
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.jpg")} == set(files)


def test_check_says_all_of_it_with_lines(bad):
    path, rows = bad
    before = tree(path.parent)
    done = camscope("study", "--check", path, "--json")
    assert done.returncode == 1, done.stderr
    assert tree(path.parent) == before
    said = json.loads(done.stdout)
    problems = {problem["line"]: problem["text"] for problem in said["problems"]}
    for line, row in enumerate(rows, 2):
        if row[5] not in ("ok", "damaged or truncated") and not row[5].startswith("the label"):
            assert row[5] in problems[line]
    assert said["plan"]["rows"] == 2 * len(rows)
    assert said["plan"]["seconds"] > 0
    path.write_text(path.read_text().replace('"nodule"', '"nodul"').replace("border:0.10", "edge:0.10"))
    done = camscope("study", "--check", path)
    assert done.returncode == 2
    assert "cohort.csv:1: no column called 'nodul'; nearest: 'nodule'" in done.stdout
    line = path.read_text().splitlines().index('shortcuts = ["edge:0.10"]') + 1
    assert f"study.toml:{line}: no region called 'edge'" in done.stdout
    assert "cohort.csv:4: there is no file" in done.stdout


def test_a_second_process_and_how_far_it_is(make_study, tmp_path):
    path, out = make_study(200), tmp_path / "out"
    first = subprocess.Popen([COMMAND, "study", path, "--out", out], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(out.glob("*/*/*/*.jpg")), first)
        first.send_signal(signal.SIGSTOP)
        second = camscope("study", path, "--out", out)
        assert second.returncode == 2
        assert second.stderr == f"camscope: another process is at work in {out}: wait for it, or give another --out\n"
        found = json.loads(camscope("study", "--status", out, "--json").stdout)
        assert (found["cases"], found["running"], found["finished"]) == (200, True, False)
    finally:
        first.kill()
        first.wait()
    assert "; stopped; re-run the same command to resume" in camscope("study", "--status", out).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no study file given"),
        (["none.toml", "--out", "x"], "cannot be read: No such file"),
        (["STUDY"], "no --out given"),
        (["STUDY", "--out", "STUDY"], "cannot write"),
        (["STUDY", "--out", "OUT", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["STUDY", "--out", "OUT", "--workers", "2"], "--workers is for a cluster; give --engine ray with it"),
        (["STUDY", "--out", "OUT", "--engine", "rai"], "no engine called 'rai'"),
        (["STUDY", "--out", "OUT", "--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster can be used at"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(make_study, tmp_path, arguments, said):
    path = make_study(2)
    places = {"STUDY": path, "OUT": tmp_path / "out"}
    done = camscope("study", *(places.get(argument, argument) for argument in arguments))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def wait_for(happened, process):
    while not happened():
        assert process.poll() is None, "it ended too soon"
        time.sleep(0.01)


def killed_and_resumed(path, out, *, kills, draw):
    """Kill the command at random moments of its work; returns how many kills hit it."""
    hit = 0
    for _ in range(kills):
        before = {file.name for file in out.glob("rows/*.parquet")}
        pictures = len(list(out.glob("*/*/*/*.jpg")))
        process = subprocess.Popen([COMMAND, "study", path, "--out", out], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        moment = draw.random()
        if moment < 0.5:  # just before or while a shard is written
            happened = lambda: {file.name for file in out.glob("rows/*.parquet")} - before  # noqa: B023, E731
        else:
            happened = lambda: len(list(out.glob("*/*/*/*.jpg"))) > pictures  # noqa: B023, E731
        while process.poll() is None and not happened():
            time.sleep(0.002)
        time.sleep(draw.random() * 0.1)
        hit += process.poll() is None
        process.kill()
        process.wait()
    return hit


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 10])
def test_killed_at_random_and_resumed_it_equals_an_undisturbed_run(make_study, tmp_path, kills):
    path = make_study(120 * kills)
    out, calm = tmp_path / "killed", tmp_path / "calm"
    assert killed_and_resumed(path, out, kills=kills, draw=random.Random(7)) >= max(1, kills - 2)
    assert camscope("study", path, "--out", out).returncode == 0
    assert camscope("study", path, "--out", calm, "--batch-size", 7).returncode == 0
    one, two = tables(out), tables(calm)
    assert one.schema == two.schema
    numbers = [name for name, kind in one.schema.items() if kind in (pl.Float64, pl.List(pl.Float32))]
    assert one.drop(*numbers, "notes").equals(two.drop(*numbers, "notes"))
    said = [[re.sub(r"[\d.e-]*\d", "#", str(notes)) for notes in table["notes"].to_list()] for table in (one, two)]
    assert said[0] == said[1]
    for name in numbers:
        got, expected = (np.array(table[name].drop_nulls().to_list()) for table in (one, two))
        largest = np.abs(expected).max(axis=-1, keepdims=True)  # of each map; of all rows' numbers
        if name == "map_sum":  # positive and negative cells cancel
            largest = np.abs(np.array(two["grid"].drop_nulls().to_list())).sum(axis=1)
        assert (np.abs(got - expected) <= 1e-5 * largest).all(), name
    assert sorted(tree(out)) == sorted(tree(calm))
    for name in one["file"].drop_nulls():
        a, b = (np.asarray(Image.open(folder / name), int) for folder in (out, calm))
        assert np.abs(a - b).max() <= 24  # JPEG: a last digit of the map may turn a colour by one step


def test_dicom_without_patients_and_views(make_study, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path, out = make_study(2), tmp_path / "out"
    draw = np.random.default_rng(0)
    lines = ["path,effusion,nodule,box"]
    for n in range(6):
        d = pydicom.Dataset()
        d.file_meta = pydicom.dataset.FileMetaDataset()
        d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = f"1.2.{n}"
        d.PatientName, d.PatientID, d.ViewPosition = "Doe^SECRETNAME", f"SECRETID-{n // 3}", "AP" if n % 2 else "PA"
        d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = 40, 48, 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation, d.NumberOfFrames = 16, 12, 11, 0, 3
        d.PixelData = draw.integers(0, 4096, (3, 40, 48), np.uint16).tobytes()
        d.save_as(path.parent / f"images/scan{n}.dcm", enforce_file_format=True)
        lines.append(f"scan{n}.dcm#{n % 3},1,{n % 2},")
    (path.parent / "cohort.csv").write_text("\n".join(lines))
    text = path.read_text().replace('patient = "patient_id"\n', "").replace('group = "view"\n', "")
    path.write_text(text)
    assert {row["status"] for row in cs.run(cs.Study.read(path), out, device="cpu")} == {"ok", "not asked"}
    table = tables(out).filter(pl.col("label") == "Effusion")
    assert table["group"].to_list() == ["PA", "AP"] * 3
    patients = table["patient"].to_list()
    assert len(set(patients)) == 2
    assert patients[:3] == [patients[0]] * 3
    assert (out / "PA" / patients[0] / "scan0" / "gradcam_Effusion_effusion.jpg").is_file()
    assert (out / "private/salt").is_file()
    for file in (file for file in out.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += pl.read_parquet(file).write_ndjson().encode()
        assert b"SECRET" not in content
        assert b"SECRET" not in file.name.encode()


def test_a_folder_of_class_folders(make_bundle, tmp_path):
    draw = np.random.default_rng(0)
    for kind in ("COVID", "Normal"):
        for n in range(3):
            for part in ("images", "masks"):
                place = tmp_path / "data" / kind / part / f"{kind}-{n}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 255, (40, 40), np.uint8) // (1 if part == "images" else 200)).save(
                    place
                )
    study = tmp_path / "study.toml"
    study.write_text(f"""\
[cohort]
table = "data"
group = "class"
masks = {{ lung = "mask" }}
[labels.COVID]
column = "COVID"
model = "{make_bundle("COVID")}"
""")
    out = tmp_path / "data" / "results"
    for _ in range(2):
        rows = list(cs.run(cs.Study.read(study), out, device="cpu"))
        assert [row["status"] for row in rows] == ["ok"] * 3 + ["not asked"] * 3
        assert all(0 <= row["mass:mask:lung"] <= 1 for row in rows[:3])
        assert (out / "COVID/COVID-0/COVID-0/gradcam_COVID_covid.jpg").is_file()


def test_images_at_an_address(make_study, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = make_study(4)
    memory = fsspec.filesystem("memory")
    for file in (path.parent / "images").rglob("*.png"):
        memory.pipe(f"/bucket/{file.relative_to(path.parent / 'images').as_posix()}", file.read_bytes())
    here = list(cs.run(cs.Study.read(path), tmp_path / "here", device="cpu"))
    path.write_text(path.read_text().replace('root = "images"', 'root = "memory://bucket"'))
    there = list(cs.run(cs.Study.read(path), tmp_path / "there", device="cpu"))
    assert [row["key"] for row in there] == [row["key"] for row in here]
    assert {row["status"] for row in there} == {"ok", "not asked"}
