"""The table: patients are the unit, baselines are beside everything, p is Holm's."""

import numpy as np
import polars as pl
import pytest

from camscope.cohort.store import OK, frame
from camscope.evaluation.rows import schema
from camscope.evaluation.summary import summary
from camscope.evaluation.summary_text import headline_table, sentences
from camscope.statistics.hypotheses import holm, patient_means, sign_flip

BASELINES = ("uniform", "centre", "averagemask", "randomcam")
METRICS = ("pointing", "deletion", "gini", "cascading_randomisation")


def made(method, values, *, patients=None, deletion=0.5, curve=None, seconds=0.1):
    return [
        {
            "case": case, "image": f"{case}.png", "patient": f"P{case if patients is None else patients[case]}",
            "method": method, "status": OK, "pointing": value, "deletion": deletion, "gini": 0.3, "cascade": curve,
            "cascading_randomisation": None if curve is None else curve[-1], "passes": 1, "seconds": seconds,
            "empty": False, "layer": "l",
        }
        for case, value in enumerate(values)
    ]  # fmt: skip


def table_of(rows, **changes):
    names = list(dict.fromkeys(row["method"] for row in rows))
    contestants = [{"name": name, "restricted": "", "refused": ""} | changes.get(name, {}) for name in names]
    return summary(frame(rows, schema(METRICS)), metrics=METRICS, contestants=contestants, seed=0)


def cell(table, method, metric):
    return next(c for c in table["cells"] if (c["method"], c["metric"]) == (method, metric))


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    base = draw.uniform(0.2, 0.4, 24)
    listed = [row for name in BASELINES for row in made(name, base + 0.01 * BASELINES.index(name))]
    listed += made("gradcam", base + 0.3 + draw.normal(0, 0.02, 24), deletion=0.2, curve=[0.9, 0.3, 0.1])
    listed += made("layercam", base + 0.02 + draw.normal(0, 0.1, 24), deletion=0.4, curve=[0.9, 0.9, 0.8])
    return listed


def test_estimates_ranks_and_comparisons(rows):
    table = table_of(rows)
    assert table["reference"] == "gradcam"
    best = cell(table, "gradcam", "pointing")
    values = np.array([row["pointing"] for row in rows if row["method"] == "gradcam"])
    baseline = np.array([row["pointing"] for row in rows if row["method"] == "randomcam"])
    assert best["estimate"] == pytest.approx(values.mean())
    assert best["low"] < best["estimate"] < best["high"]
    assert (best["rank"], best["best_baseline"], best["beats_baseline"]) == (1, "randomcam", True)
    assert best["against_baseline"]["difference"] == pytest.approx((values - baseline).mean())
    other = np.array([row["pointing"] for row in rows if row["method"] == "layercam"])
    ps = [sign_flip(values - baseline, seed=0, replicates=9999), sign_flip(other - baseline, seed=0, replicates=9999)]
    assert [cell(table, m, "pointing")["against_baseline"]["p"] for m in ("gradcam", "layercam")] == pytest.approx(
        holm(ps)
    )
    assert not cell(table, "layercam", "pointing")["beats_baseline"]
    assert cell(table, "layercam", "pointing")["against_reference"]["difference"] < 0
    assert cell(table, "gradcam", "deletion")["rank"] == 1  # low is good
    assert cell(table, "gradcam", "gini")["rank"] is None  # neither is good
    assert cell(table, "uniform", "pointing")["beats_baseline"] is None


def test_images_of_one_patient_count_once(rows):
    patients = [0] * 20 + [1, 2, 3, 4]
    listed = [row | {"patient": f"P{patients[row['case']]}"} for row in rows]
    table = table_of(listed)
    values = [row["pointing"] for row in listed if row["method"] == "gradcam"]
    found = cell(table, "gradcam", "pointing")
    assert found["patients"] == 5
    assert found["estimate"] == pytest.approx(patient_means(values, patients).mean())
    assert not found["beats_baseline"]  # five patients cannot give p < .05


def test_methods_on_few_pictures_have_no_rank(rows):
    table = table_of(rows, gradcam={"restricted": "4000 passes"})
    assert cell(table, "gradcam", "pointing")["rank"] is None
    assert cell(table, "layercam", "pointing")["rank"] is not None


def test_sanity_and_sameness_and_words(rows):
    rows = [*rows, *(row | {"method": "xgradcam"} for row in rows if row["method"] == "gradcam")]
    table = table_of(rows)
    methods = {one["method"]: one for one in table["methods"]}
    assert methods["gradcam"]["sanity"]["passed"]
    assert not methods["layercam"]["sanity"]["passed"]
    assert methods["xgradcam"]["same_as"] == "gradcam"
    assert methods["layercam"]["same_as"] is None
    said = " ".join(sentences(table))
    why = "since their maps stay alike when the weights are random"
    assert f"Failed the sanity check on 24 images, {why}: layercam." in said
    assert "3 of 3 methods rank before the best baseline, randomcam" in said
    assert "These methods have the same values in all metrics: gradcam, xgradcam." in said
    lines = headline_table(table)
    assert lines[0].split() == ["method", "pointing↑", "deletion↓", "sanity", "passes", "s/map"]
    assert lines[1].startswith(("gradcam", "xgradcam"))
    assert "*" in lines[1]


def test_words_of_one_method_on_one_picture(rows):
    few = [row for row in rows if row["method"] in (*BASELINES, "gradcam")]
    few = [row | ({"cascade": None} if row["case"] else {}) for row in few]
    said = " ".join(sentences(table_of(few)))
    assert "1 of 1 method ranks before the best baseline, randomcam" in said
    assert "None of 1 method failed the sanity check on 1 image: maps change" in said


def test_a_flat_map_is_not_sane():
    rows = [row for name in (*BASELINES, "gradcam") for row in made(name, [0.5] * 4, curve=[float("nan")] * 3)]
    table = summary(
        pl.DataFrame(frame(rows, schema(METRICS))),
        metrics=METRICS,
        contestants=[{"name": name, "restricted": "", "refused": ""} for name in (*BASELINES, "gradcam")],
        seed=0,
    )
    assert [one["sanity"]["passed"] for one in table["methods"]] == [False] * 5
