"""The audit of a cohort that is larger than what is changed of it, and behind an address."""

import json

import polars as pl
import pytest

from camscope.audit.audit import audit, former_audit
from camscope.files import MARKER, place
from camscope.models.engines import prepare
from camscope.report import report
from camscope.study.run import run
from camscope.study.study import Study

CHANGES = ["case", "region", "test", "fill_in"]


@pytest.fixture
def write(make_study):
    """Writes a study of 40 images in which only so many cases are changed."""

    def make(cases):
        file = make_study(40, explain='when = "all"')
        text = file.read_text(encoding="utf-8").partition("cases =")[0]
        file.write_text(f"{text}cases = {cases}\nreplicates = 99\n", encoding="utf-8")
        return Study.read(file)

    return make


def test_of_many_cases_some_are_changed_and_all_are_counted(write, tmp_path):
    out = tmp_path / "out"
    list(run(write(40), out, device="cpu"))
    whole = audit(write(40), out, device="cpu")
    some = audit(write(12), out, device="cpu")
    changes = pl.read_parquet(out / "audit_changes.parquet")
    rows = pl.read_parquet(out / "rows" / "*.parquet")
    for label in ("Effusion", "Nodule"):
        few, all_ = some["labels"][label], whole["labels"][label]
        assert (all_["drawn"], few["drawn"]) == (40, 12)
        for name in ("cases", "patients", "auc", "metadata"):
            assert few[name] == all_[name]
        assert few["regions"]["border:0.10"]["enrichment"] == all_["regions"]["border:0.10"]["enrichment"]
        assert len(few["clusters"]["cases"]) == 12
        changed = changes.filter(pl.col("label") == label)["case"].unique().to_list()
        assert set(changed) <= set(map(int, few["clusters"]["cases"]))
        own = rows.filter((pl.col("label") == label) & pl.col("case").is_in(list(map(int, few["clusters"]["cases"]))))
        assert own["truth"].sum() == 6
    assert some["settings"]["cases"] == 12
    assert some["patient_source"] == "column"
    before = (out / "audit.json").read_bytes()
    audit(write(12), out, device="cpu", batch_size=7)
    assert (out / "audit.json").read_bytes() == before
    text = report(out).read_text(encoding="utf-8")
    assert "Number of edited cases per label: Effusion 12 of 40; Nodule 12 of 40." in text
    assert "Interventions used a sample of the cases (Effusion 12 of 40; Nodule 12 of 40)" in text


def test_an_audit_of_what_has_not_changed_is_found_again(write, tmp_path):
    out, study = tmp_path / "out", write(12)
    list(run(study, out, device="cpu"))
    assert former_audit(study, out) is None
    content = audit(study, out, device="cpu")
    assert former_audit(write(12), out) == content == json.loads((out / "audit.json").read_text("utf-8"))
    assert former_audit(write(13), out) is None, "another number of cases"
    study = write(12)
    text = study.path.read_text("utf-8")
    study.path.write_text(text.replace('when = "all"', 'when = "all"\nmethods = ["layercam"]'), "utf-8")
    list(run(Study.read(study.path), out, device="cpu"))
    assert former_audit(Study.read(study.path), out) is None, "other maps"
    (out / "audit.json").write_text("[1, 2", "utf-8")
    assert former_audit(write(12), out) is None


@pytest.mark.slow
def test_behind_an_address_everything_is_the_same(write, tmp_path):
    study, here, there = write(16), tmp_path / "out", "memory://audited"
    for out in (here, there):
        list(run(study, out, device="cpu"))
        audit(study, out, device="cpu")
        report(out, inside=3)
    for name in ("audit.json", "report.html"):
        assert (place(there) / name).read_bytes() == (here / name).read_bytes()
    files = {path.name for path in (here / "report_files").iterdir()}
    assert {path.name for path in (place(there) / "report_files").iterdir()} == files
    assert len(files) == 41  # with the manifest
    assert json.loads((place(there) / "audit.json").read_text())["labels"]["Nodule"]["drawn"] == 16
    manifest = place(there) / "report_files" / MARKER
    manifest.write_text(manifest.read_text() + "\nold.jpg")
    (place(there) / "report_files" / "old.jpg").write_bytes(b"")
    assert str(report(there, inside=3)) == "memory://audited/report.html"
    assert {path.name for path in (place(there) / "report_files").iterdir()} == files


def test_an_engine_scores_the_edited_pictures_and_agrees(write, tmp_path, monkeypatch):
    study, used, tables = write(12), [], {}
    list(run(study, tmp_path / "out", device="cpu"))
    monkeypatch.setattr(
        "camscope.models.engines.select.prepare", lambda *a, **k: used.append(prepare(*a, **k)) or used[-1]
    )
    for engine in ("eager", "openvino"):
        used.clear()
        audit(study, tmp_path / "out", device="cpu", engine=engine)
        assert {one.name for one in used} == (set() if engine == "eager" else {"openvino"})
        tables[engine] = pl.read_parquet(tmp_path / "out/audit_changes.parquet").sort("label", *CHANGES)
    for name in ("region_log_odds", "sham_log_odds"):
        assert (tables["eager"][name] - tables["openvino"][name]).drop_nans().abs().max() < 1e-4
