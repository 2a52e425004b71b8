"""A shared study: nothing in it names a patient, an image, a folder or a date."""

import base64
import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from camscope.files import MARKER
from running import inside

CANARIES = ("Quimby", "MRN77301", "1961-04-03", "St-Elswhere", "Zebedee", "zz-cohort", "secretcam", "Okapi")
"""Name, number, birthday, ward of one patient, EXIF, folder, camera, broken file."""


@pytest.fixture
def study(make_study):
    """A study with canaries in patients, paths, groups, strata, EXIF, messages and the model's path."""
    file = make_study(8, folder="zz-cohort", explain='when = "all"')
    root = file.parent / "images"
    table = file.parent / "cohort.csv"
    lines = table.read_text().splitlines()
    lines[0] += ",name,born,ward,age"
    for n in range(8):
        number, view = n // 2, ("PA", "AP")[n % 2]
        patient, name = f"MRN7730{number}", f"Quimby-{number}"
        place = root / name / f"{view}-{patient}.jpg"
        place.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x010E], exif[0x0110] = f"Zebedee {patient}", "secretcam"
        Image.open(root / f"P{number:03}" / f"{view}.png").save(place, exif=exif)
        ward = "St-Elswhere" if number == 1 else f"ward of {name}" if number == 2 else "ward 7"
        lines[n + 1] = (
            f'{place.relative_to(root)},{patient},{view},{n % 2},{int(n % 4 < 2)},"4,4,20,24",'
            f"{name},1961-04-0{number},{ward},{40 + number}"
        )
    broken = root / "Quimby-3" / "AP-MRN77303.jpg"
    broken.rename(broken.with_name("Okapi-MRN77303.jpg"))
    broken.with_name("Okapi-MRN77303.jpg").write_bytes(b"Quimby")
    lines[8] = lines[8].replace("AP-MRN77303", "Okapi-MRN77303")
    table.write_text("\n".join(lines) + "\n")
    text = file.read_text().replace('group = "view"', 'group = ["view", "ward"]\nstrata = ["name", "born", "age"]')
    file.write_text(text)
    return file


def everything(folder):
    """Return the bytes of all files, with their names, with base64 decoded, and with what images hold beside pixels."""
    parts = []
    for path in folder.rglob("*"):
        parts.append(str(path.relative_to(folder)).encode())
        content = path.read_bytes() if path.is_file() else b""
        parts.append(content)
        coded = re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", content)
        parts += [base64.b64decode(text + b"=" * (-len(text) % 4)) for text in coded]
    for content in parts:
        if content[:3] == b"\xff\xd8\xff":
            with Image.open(io.BytesIO(content)) as image:
                assert not image.getexif()
                assert np.asarray(image).any()
    return b"\0".join(parts).lower()


def test_a_shared_study_names_nobody(study, tmp_path):
    out, clean = tmp_path / "results", tmp_path / "clean"
    assert inside("study", study, "--out", out).returncode == 1  # one image is damaged
    done = inside("share", out, "--out", clean)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in clean.iterdir()} == {MARKER, "report.html", "rows.csv", "effects.csv"}
    content = everything(clean)
    everyone = everything(out)
    for canary in (*CANARIES, str(tmp_path)):
        assert canary.lower().encode() not in content, canary
    for canary in CANARIES[:4]:
        assert canary.lower().encode() in everyone, canary
    assert not any(canary in done.stderr for canary in CANARIES)
    assert (out / "rows").is_dir()

    rows = list(csv.DictReader(io.StringIO((clean / "rows.csv").read_text("utf-8-sig"))))
    assert {row["patient"] for row in rows} == {"P1", "P2", "P3", "P4"}
    assert {row["stratum:age"] for row in rows} == {"40", "41", "42", "43"}
    assert {row["group"].split("/")[0] for row in rows} == {"AP", "PA"}
    assert {row["group"].split("/")[1] for row in rows if row["patient"] in ("P1", "P4")} == {"ward 7"}
    assert len({row["group"] for row in rows}) == 6
    assert any(row["message"] for row in rows)


def test_sharing_again_and_into_a_foreign_folder(study, tmp_path):
    out, clean = tmp_path / "results", tmp_path / "clean"
    inside("study", study, "--out", out)
    for files in ({"report.html", "rows.csv", "effects.csv"}, {"report.html", "rows.csv"}):
        assert inside("share", out, "--out", clean).returncode == 0
        assert {path.name for path in clean.iterdir()} == {MARKER, *files}
        (out / "audit.json").unlink(missing_ok=True)
    done = inside("share", out, "--out", study.parent)
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)
    assert "results" not in {path.name for path in study.parent.iterdir()}
    done = inside("share", tmp_path / "nothing", "--out", tmp_path / "new")
    assert (done.returncode, "there is no study" in done.stderr) == (2, True)
    assert not (tmp_path / "new").exists()
