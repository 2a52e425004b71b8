from __future__ import annotations

import polars as pl
import pytest

from camscope.cohort.shown_names import ShownNames
from camscope.report.prose import limitations, methods_text, record_rows
from camscope.report.results import read_results
from camscope.report.tables import areas, flow, make_up, outcomes
from camscope.statistics.auc import auc_interval
from camscope.study.run import run
from camscope.study.study import Study


@pytest.fixture
def results(made):
    return read_results(made[1])


def test_the_flow_counts_everything_and_loses_nothing(results):
    patients, images, rows, scored, maps = flow(results, ShownNames(None))
    assert (patients.count, images.count, rows.count, scored.count, maps.count) == (4, 8, 16, 14, 14)
    assert images.lost == [("could not be used", 1)]
    ((reason, number),) = rows.lost
    assert number == rows.count - scored.count
    assert "AP.png" in reason
    (hidden,) = flow(results, ShownNames(results.named))[2].lost
    assert "AP.png" not in hidden[0]


def test_the_make_up_adds_up(results):
    for parts in make_up(results).values():
        assert set(parts) == {"all", "AP", "PA"}
        for kind in ("present", "absent", "unknown"):
            assert parts["all"][kind].images == parts["AP"][kind].images + parts["PA"][kind].images
        assert sum(cell.images for cell in parts["all"].values()) == 8


def test_areas_are_those_of_the_rows(results):
    own = results.rows.filter((pl.col("label") == "Nodule") & pl.col("score").is_not_null() & (pl.col("group") == "PA"))
    (found,) = [part for part in areas(results)["Nodule"] if part.name == "PA"]
    assert (found.cases, found.positive) == (len(own), own["truth"].sum())
    assert found.auc == auc_interval(own["log_odds"], own["truth"], patients=own["patient"])
    assert sum(outcomes(results, "Nodule").values()) == 7


def test_texts_have_the_numbers_of_the_study(results):
    paragraphs, references = methods_text(results)
    text = " ".join(paragraphs)
    assert "4 patients with 8 images (AP 4, PA 4)" in text
    assert "(14 maps; layer " in text
    assert "gradcam [1]" in text
    assert references[0].startswith("Selvaraju")
    assert all(f"[{number}" in text for number in range(1, len(references) + 1))
    said = " ".join(limitations(results))
    assert "There is no audit" in said
    assert "4 patients are few" in said
    assert "2 of 16 rows failed" in said


def test_the_record_says_how_well_a_lower_precision_agrees(make_study, tmp_path):
    file = make_study(explain='when = "all"')
    for precision, number in (("float32", 0), ("bfloat16", 1)):
        for _ in run(Study.read(file), tmp_path / precision, precision=precision):
            pass
        record = record_rows(read_results(tmp_path / precision), pseudonyms=False)
        told = [text for name, text in record if name.startswith("Precision of ")]
        assert len(set(told)) == number
        assert all("bfloat16" in text and "rank correlation" in text for text in told)
