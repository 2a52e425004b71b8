from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from camscope.audit.audit import audit
from camscope.cli.main import app
from camscope.cohort.store import FAILED
from camscope.errors import StoreError
from camscope.files import MARKER
from camscope.report import report
from camscope.report.results import read_results
from camscope.study.run import run
from camscope.study.study import Study


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_has_every_row_with_its_numbers(made):
    _, out = made
    page = report(out)
    data, rows = data_of(page), pl.read_parquet(out / "rows" / "*.parquet")
    columns = data["rows"]
    assert [data["labels"][n] for n in columns["label"]] == rows["label"].to_list()
    assert [data["cases"]["patient"][n] for n in columns["case"]] == rows["patient"].to_list()
    for name in ("truth", "outcome", "status"):
        assert columns[name] == rows[name].to_list()
    for mine, theirs in (("score", "score"), ("probability", "probability")):
        assert [v is None for v in columns[mine]] == rows[theirs].is_null().to_list()
        kept = [v for v in columns[mine] if v is not None]
        assert kept == pytest.approx(rows[theirs].drop_nulls().to_list(), rel=1e-6)
    for coded, step, grid in zip(columns["grid"], columns["step"], rows["grid"].to_list(), strict=True):
        if grid is None:
            assert coded is None
            continue
        values = np.frombuffer(base64.b64decode(coded), "<i2") * step
        assert np.abs(values - grid).max() <= np.abs(grid).max() / 32767


@pytest.mark.filterwarnings("default::UserWarning")  # of unknown patients
def test_unknown_patients_are_not_counted(make_study, tmp_path):
    file, out = make_study(), tmp_path / "out"
    table = file.parent / "cohort.csv"
    file.write_text(file.read_text().replace('patient = "patient_id"\n', ""))
    table.write_text(table.read_text().replace("patient_id", "who"))
    list(run(Study.read(file), out, device="cpu"))
    page = report(out).read_text(encoding="utf-8")
    assert "on 8 images of unknown patients" in page
    assert "<dt>patients</dt><dd>unknown</dd>" in page
    assert page.count("No patients are known") == 1
    assert "The cohort had 8 images (AP 4, PA 4). The patients are not known" in page
    assert "<span>Patients</span>" not in page
    assert audit(Study.read(file), out, device="cpu")["patient_source"] == "none"


def test_a_failed_row_says_why_and_has_no_picture(made):
    _, out = made
    data = data_of(report(out))
    failed = [n for n, status in enumerate(data["rows"]["status"]) if status == FAILED]
    assert len(failed) == 2
    case = data["rows"]["case"][failed[0]]
    assert data["rows"]["message"][failed[0]]
    assert (data["cases"]["thumbnail"][case], data["cases"]["missing"][case]) == ("", "the image could not be read")
    assert sum(address.startswith("data:image/jpeg;base64,") for address in data["cases"]["thumbnail"]) == 7


def test_without_an_audit_the_page_says_that_heat_proves_nothing(made):
    text = report(made[1]).read_text(encoding="utf-8")
    assert "Heat maps alone cannot show or exclude that a model uses a shortcut." in text
    assert 'id="verdicts"' not in text


def test_an_audit_of_other_rows_is_left_out(made):
    _, out = made
    (out / "audit.json").write_text('{"plan": "another", "labels": {}}')
    results = read_results(out)
    assert results.audit is None
    assert "earlier version of the study" in results.warnings[0]


def test_style_and_script_run_by_their_hashes_and_nothing_else_does(made):
    text = report(made[1]).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    for element, directive in (("style>", "style-src"), ('script type="module">', "script-src")):
        content = re.search(rf"<{element}(.*?)</{element[:5]}", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    markup = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\sstyle=|\son[a-z]+=", markup)
    ids = re.findall(r'\sid="([^"]+)"', markup)
    assert len(ids) == len(set(ids))
    assert not re.search(r'(?:src|href)="(?:https?:)?//', markup)


def test_pseudonyms_leave_no_name_and_no_path(made):
    file, out = made
    content = report(out, pseudonyms=True).read_bytes()
    data = data_of(out / "report.html")
    assert data["cases"]["patient"] == ["P1", "P1", "P2", "P2", "P3", "P3", "P4", "P4"]
    assert not any(data["rows"]["file"])
    for row in pl.read_parquet(out / "rows" / "*.parquet").iter_rows(named=True):
        for name in (row["patient"], row["image"], row["file"], str(file.parent)):
            assert name is None or name.encode() not in content


def test_pseudonyms_hold_where_the_groups_are_patients(make_study, tmp_path):
    file = make_study()
    text = file.read_text().replace('group = "view"', 'group = ["view", "patient_id"]\nstrata = ["patient_id"]')
    file.write_text(text)
    for _ in run(Study.read(file), tmp_path / "out"):
        pass
    assert b"PA/P003" in report(tmp_path / "out").read_bytes()
    content = report(tmp_path / "out", pseudonyms=True).read_bytes()
    assert not re.findall(rb"P00\d", re.sub(rb"base64,[^\"]+", b"", content))
    assert b"PA/P4" in content


def test_pictures_of_larger_cohorts_lie_beside_the_page_and_old_ones_go(made):
    _, out = made
    (out / "report_files").mkdir()
    (out / "report_files" / MARKER).write_text("old.jpg")
    (out / "report_files" / "old.jpg").write_bytes(b"")
    data = data_of(report(out, inside=3))
    names = {address for address in data["cases"]["thumbnail"] if address}
    assert names == {f"report_files/{path.name}" for path in (out / "report_files").iterdir() if path.name != MARKER}
    assert len(names) == 7
    report(out)
    assert not (out / "report_files").exists()


def test_a_picture_that_has_changed_is_not_shown(made):
    file, out = made
    Image.new("L", (48, 40)).save(file.parent / "images" / "P000" / "PA.png")
    (file.parent / "images" / "P000" / "AP.png").unlink()
    missing = data_of(report(out))["cases"]["missing"]
    assert missing[:3] == ["the image has changed since the study was run", "the image no longer exists", ""]


def test_a_study_that_has_moved_is_found_by_its_file(made, tmp_path):
    file, out = made
    moved = file.parent.rename(tmp_path / "moved")
    assert not any(data_of(report(out))["cases"]["thumbnail"])
    assert sum(map(bool, data_of(report(out, study=Study.read(moved / file.name)))["cases"]["thumbnail"])) == 7


def test_the_same_folder_gives_the_same_page(made):
    _, out = made
    assert report(out).read_bytes() == report(out).read_bytes()


def test_the_command_writes_the_page_and_says_where(made):
    _, out = made
    done = CliRunner().invoke(app, ["report", str(out), "--pseudonyms"])
    assert (done.exit_code, done.stdout.split()) == (0, [str(out / "report.html")])
    assert data_of(out / "report.html")["cases"]["patient"][0] == "P1"


def test_methods_that_are_one_are_marked(make_study, tmp_path):
    file = make_study(explain='when = "all"\nmethods = ["gradcam", "hirescam", "layercam"]')
    for _ in run(Study.read(file), tmp_path / "out"):
        pass
    text = report(tmp_path / "out").read_text(encoding="utf-8")
    pairs = re.findall(
        r"<td>(\w+), (\w+)( <span class=\"badge none\">the same method on this model</span>)?</td>", text
    )
    marked = {(one, other) for one, other, mark in pairs if mark}
    assert marked == {("gradcam", "hirescam")}
    assert ("gradcam", "layercam", "") in pairs


@pytest.mark.parametrize("record", [None, {"plan": "00000000", "study": {}}])
def test_a_folder_without_rows_is_an_error(tmp_path, record):
    if record is not None:
        (tmp_path / "study.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"no study|no rows"):
        report(tmp_path)


def test_a_large_cohort_is_shown_in_part_and_counted_whole(make_study, tmp_path):
    file, out = make_study(40, explain='when = "all"'), tmp_path / "out"
    (file.parent / "images" / "P002" / "AP.png").write_bytes(b"no image")
    for _ in run(Study.read(file), out):
        pass
    whole = report(out).read_text(encoding="utf-8")
    text = report(out, most=12).read_text(encoding="utf-8")
    data, all_ = data_of(out / "report.html"), pl.read_parquet(out / "rows" / "*.parquet")
    said = re.search(r"12 of 40 cases are shown: ([^.]+)\.", text)[1]
    parts = {" ".join(part.split()[1:]): int(part.split()[0]) for part in re.split(r", (?=\d)", said)}
    assert parts["with a row that failed"] == 1
    assert parts["wrong predictions with extreme scores"] == 3
    assert sum(parts.values()) == 12 == len(data["cases"]["number"]) == len(data["cases"]["thumbnail"])
    assert data["cases"]["number"] == sorted(data["cases"]["number"])
    shown = all_.filter(pl.col("case").is_in(data["cases"]["number"]))
    assert [data["cases"]["number"][n] for n in data["rows"]["case"]] == shown["case"].to_list()
    assert data["rows"]["outcome"] == shown["outcome"].to_list()
    for coded, step, grid in zip(data["rows"]["grid"], data["rows"]["step"], shown["grid"].to_list(), strict=True):
        assert (coded is None) == (grid is None)
        if grid is not None:
            assert np.abs(np.frombuffer(base64.b64decode(coded), "<i2") * step - grid).max() <= step
    wrong = all_.filter(pl.col("outcome").is_in(["FP", "FN"])).with_columns(
        sure=pl.when("truth").then(-pl.col("log_odds")).otherwise("log_odds")
    )
    for label in ("Effusion", "Nodule"):
        (surest,) = wrong.filter(pl.col("label") == label).sort("sure", descending=True)["case"].head(1)
        assert surest in data["cases"]["number"]
    assert "cases are shown" not in whole
    for section in ("cohort", "scores"):
        assert _section(text, section).replace(", which shows a choice of the cases", "") == _section(whole, section)
    tables = re.compile(r"<tbody>.*?</tbody>", re.DOTALL)
    assert tables.findall(_section(text, "maps")) == tables.findall(_section(whole, "maps"))


def _section(text, name):
    return re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)[0]
