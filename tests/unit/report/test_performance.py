from __future__ import annotations

import dataclasses
import re

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from camscope.files import write_parquet
from camscope.report import report
from camscope.report.figures import calibration_figure, decision_figure
from camscope.report.performance import label_performance
from camscope.report.results import read_results
from camscope.statistics.performance import rates


@pytest.fixture
def results(made):
    return read_results(made[1])


@dataclasses.dataclass
class Fake:
    """Results with rows of our own."""

    rows: pl.DataFrame
    file: object
    grouped: bool = True

    def scored(self, _):
        return self.rows


@pytest.fixture
def fake(results):
    draw = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 2)
    log_odds = draw.normal(size=120) * 2
    probability = 1 / (1 + np.exp(-log_odds))
    truth = draw.random(120) < probability
    predicted = probability >= 0.5
    columns = {
        "patient": [f"P{n}" for n in patients],
        "group": ["AP", "PA"] * 60,
        "truth": truth,
        "outcome": [("T" if p == t else "F") + "NP"[int(p)] for p, t in zip(predicted, truth, strict=True)],
        "probability": probability,
        "log_odds": log_odds,
    }
    return Fake(pl.DataFrame(columns), results.file)


def test_numbers_are_those_of_the_rows(results):
    rows = results.rows.filter((pl.col("label") == "Nodule") & pl.col("score").is_not_null())
    found = label_performance(results, "Nodule")
    assert (found.images, found.positive, found.patients) == (7, rows["truth"].sum(), 4)
    assert found.left_out == "1 image without a score"
    assert found.auc.estimate == pytest.approx(roc_auc_score(rows["truth"], rows["log_odds"]))
    probabilities = 1 / (1 + np.exp(-rows["log_odds"].to_numpy()))
    assert found.calibrated.brier.estimate == pytest.approx(brier_score_loss(rows["truth"], probabilities))
    predicted = rows["outcome"].is_in(["TP", "FP"]).to_numpy()
    assert found.rates.sensitivity.estimate == rates(predicted, rows["truth"], np.arange(7)).sensitivity.estimate


def test_what_has_no_truth_or_no_number_is_left_out_and_said(fake):
    odd = fake.rows.with_columns(
        truth=pl.when(pl.int_range(pl.len()) < 3).then(None).otherwise("truth"),
        log_odds=pl.when(pl.int_range(pl.len()).is_between(3, 6)).then(float("nan")).otherwise("log_odds"),
    )
    found = label_performance(Fake(odd, fake.file), "Nodule")
    assert found.left_out == "3 images whose truth is not known and 4 images without a score"
    kept = label_performance(Fake(fake.rows[7:], fake.file), "Nodule")
    assert (found.images, found.auc) == (113, kept.auc)
    assert found.calibrated.brier == kept.calibrated.brier


def test_a_value_without_probability_is_not_calibrated(fake):
    values = fake.rows.with_columns(probability=pl.lit(None, pl.Float64))
    found = label_performance(Fake(values, fake.file), "Nodule")
    assert found.calibrated is None
    assert "a value, not a probability" in found.why_not
    assert found.rates.sensitivity.estimate > 0.5
    assert calibration_figure(found, name="x") is None
    assert decision_figure(found, name="x") is None


@pytest.mark.parametrize(
    "kind", ["nothing", "one patient", "absent only", "present only", "ties", "certain", "one image"]
)
def test_odd_cohorts_have_numbers_or_none(fake, kind):
    rows = {
        "nothing": fake.rows.clear(),
        "one image": fake.rows[:1],
        "one patient": fake.rows.with_columns(patient=pl.lit("P")),
        "absent only": fake.rows.filter(~pl.col("truth")),
        "present only": fake.rows.filter(pl.col("truth")),
        "ties": fake.rows.with_columns(probability=pl.lit(0.5), log_odds=pl.lit(0.0)),
        "certain": fake.rows.with_columns(
            probability=pl.col("truth").cast(pl.Float64), log_odds=pl.when("truth").then(99.0).otherwise(-99.0)
        ),
    }[kind]
    found = label_performance(Fake(rows, fake.file), "Nodule")
    assert found.images == len(rows)
    if kind == "nothing":
        assert found.why_not == "no image has both a score and a known truth"
        return
    assert np.isnan(found.auc.estimate) == (kind in ("absent only", "present only", "one image"))
    assert np.isnan(found.calibrated.brier.low) == (kind in ("one patient", "one image"))
    assert np.isnan(found.calibrated.fit.slope.estimate) == (kind != "one patient")
    for figure in (calibration_figure, decision_figure):
        drawn = figure(found, name="x")
        assert "nan" not in drawn.svg.lower()
        assert all("nan" not in cell for row in drawn.rows for cell in row)


def test_the_page_has_the_section_with_and_without_an_audit(made):
    text = report(made[1]).read_text(encoding="utf-8")
    section = re.search(r'<section id="performance">.*?</section>', text, re.DOTALL)[0]
    assert "None of 0" not in section
    assert section.count("<svg") == 4
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", section, flags=re.DOTALL).lower()
    assert 'href="#performance"' in text


def test_the_page_says_why_a_value_has_no_calibration(made):
    for path in (made[1] / "rows").glob("*.parquet"):
        table = pl.read_parquet(path)
        table = table.with_columns(probability=pl.when(pl.col("label") == "Nodule").then(None).otherwise("probability"))
        write_parquet(path, table)
    text = report(made[1]).read_text(encoding="utf-8")
    assert "Nodule: no calibration and no decision curve, because the model returns a value, not a probability." in text


def test_many_patients_are_drawn_in_groups(fake, monkeypatch):
    each = label_performance(fake, "Nodule").calibrated
    monkeypatch.setattr("camscope.report.performance._GROUPS", 30)
    groups = label_performance(fake, "Nodule").calibrated
    assert groups.brier.estimate == each.brier.estimate
    assert groups.brier.low == pytest.approx(each.brier.low, abs=0.02)
    assert groups.error.error.estimate == pytest.approx(each.error.error.estimate)
