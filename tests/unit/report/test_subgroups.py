from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.multitest import multipletests

from camscope.report.subgroups import banded, groupings, subgroups
from camscope.statistics.auc import auc_interval, clustered_auc
from camscope.statistics.clustered import difference_p, share
from camscope.study.config import StudyFile


@pytest.fixture
def data():
    """Two images per patient, one of each view; the model misses many of the label in PA."""
    draw = np.random.default_rng(0)
    patients = np.repeat(np.arange(80), 2)
    truth = (np.arange(80) % 2 == 0)[patients]
    view = np.tile(["AP", "PA"], 80)
    log_odds = draw.normal(size=160) + np.where(truth, np.where(view == "AP", 3.0, 0.2), -2.0)
    return {"log_odds": log_odds, "predicted": log_odds > 0, "truth": truth, "patients": patients}, view.tolist()


def column(values, name="view"):
    return [(name, values, "")]


def test_a_subgroup_has_the_numbers_of_its_images(data):
    numbers, view = data
    found = subgroups(column(view), **numbers)
    ap, pa = found.columns["view"]
    mask = np.array(view) == "AP"
    assert (ap.value, ap.images, ap.patients, ap.with_label, ap.without_label) == ("AP", 80, 80, 40, 40)
    assert ap.prevalence.estimate == 0.5
    theirs = auc_interval(numbers["log_odds"][mask], numbers["truth"][mask], patients=numbers["patients"][mask])
    assert ap.measures["AUC"].estimate == theirs
    sensitivity = numbers["predicted"][mask & numbers["truth"]].mean()
    assert ap.measures["Sensitivity"].estimate.estimate == sensitivity
    gain = sensitivity - numbers["predicted"][~mask & numbers["truth"]].mean()
    assert ap.measures["Sensitivity"].difference.estimate == pytest.approx(gain)
    assert ap.measures["Sensitivity"].p < 0.001
    assert pa.measures["Sensitivity"].difference is None, "two values have one comparison"
    assert found.tests == 3
    assert found.sentence == "1 of 3 comparisons shows a difference from the rest:"
    (text,) = found.differences
    assert text.startswith("Sensitivity in view AP: 1.00 (0.91 to 1.00); difference from the rest: 0.40 (")
    same = subgroups(column([str(n % 2) for n in numbers["patients"] // 2]), **numbers)
    assert same.sentence.startswith("None of 3 comparisons shows")
    assert same.differences == []


def test_p_is_adjusted_over_all_comparisons_of_the_label(data):
    numbers, view = data
    sites = [str(n % 3) for n in numbers["patients"]]
    found = subgroups([("view", view, ""), ("site", sites, "")], **numbers)
    patients, truth, raw = numbers["patients"], numbers["truth"], []
    for values, tested in ((np.array(view), ["AP"]), (np.array(sites), ["0", "1", "2"])):
        for value in tested:
            a, b = values == value, values != value
            raw += [
                difference_p(*(clustered_auc(numbers["log_odds"], truth, patients, cases=of) for of in (a, b))),
                difference_p(*(share(numbers["predicted"], of & truth, patients) for of in (a, b))),
                difference_p(*(share(~numbers["predicted"], of & ~truth, patients) for of in (a, b))),
            ]
    adjusted = multipletests(raw, method="holm")[1]
    groups = [found.columns["view"][0], *found.columns["site"]]
    assert [one.p for group in groups for one in group.measures.values()] == pytest.approx(list(adjusted))
    assert found.tests == 12


def test_too_few_patients_have_no_number(data):
    numbers, _ = data
    few = ["few" if patient < 15 else "many" for patient in numbers["patients"]]
    small, large = subgroups(column(few), **numbers).columns["view"]
    assert (small.with_label, small.without_label) == (8, 7)
    assert small.measures["Sensitivity"].estimate is not None
    assert small.measures["Specificity"].estimate is small.measures["AUC"].estimate is None
    assert small.measures["Specificity"].difference is None
    assert large.measures["Specificity"].estimate is not None


def test_a_rest_of_too_few_patients_is_not_compared(data):
    numbers, _ = data
    few = ["b" if patient < 10 else "a" for patient in numbers["patients"]]
    found = subgroups(column(few), **numbers)
    assert found.columns["view"][0].measures["AUC"].estimate is not None
    assert found.tests == 0
    assert "No subgroup could be compared" in found.sentence


def test_images_of_unknown_value_are_left_out_and_said(data):
    numbers, view = data
    some = [None if n < 30 else value for n, value in enumerate(view)]
    found = subgroups(column(some), **numbers)
    assert found.remarks == ["view: images without a value are left out (30)."]
    kept = {name: values[30:] for name, values in numbers.items()} | {"patients": numbers["patients"][30:] - 15}
    ap, expected = found.columns["view"][0], subgroups(column(view[30:]), **kept).columns["view"][0]
    assert (ap.images, ap.patients) == (expected.images, expected.patients) == (65, 65)
    for measure, one in ap.measures.items():
        assert one.p == pytest.approx(expected.measures[measure].p)
        assert one.estimate.low == pytest.approx(expected.measures[measure].estimate.low)


def test_of_many_values_those_of_most_patients_are_shown(data):
    numbers, _ = data
    sites = [f"site {min(patient // 3, 11):02}" for patient in numbers["patients"]]
    found = subgroups(column(sites, "site"), **numbers)
    assert len(found.columns["site"]) == 8
    assert "site 11" in [group.value for group in found.columns["site"]]
    assert "site has 12 values" in found.remarks[0]


def test_numbers_become_bands_that_hold_each_once():
    ages = [str(age) for age in np.random.default_rng(0).integers(18, 90, 200)] + [None, None]
    bands = banded(ages)
    assert bands[-2:] == [None, None]
    edges = sorted({tuple(map(int, band.split(" to "))) for band in bands[:-2]})
    assert len(edges) == 4
    for age, band in zip(ages[:-2], bands[:-2], strict=True):
        low, high = map(int, band.split(" to "))
        assert low <= int(age) <= high
    assert all(edges[n][1] < edges[n + 1][0] for n in range(3))
    assert all(35 <= bands.count(band) <= 65 for band in set(bands) - {None})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2", "3", "4", "5", "6"] * 5, None),
        ([f"site {n}" for n in range(20)], None),
        (["nan", *map(str, range(20))], None),
        ([], None),
        ([None, None], None),
        ([f"{age:03}Y" for age in range(8)], ["0 to 1", "2 to 3", "4 to 5", "6 to 7"]),
        (["5"] * 90 + list("1234678"), ["1 to 5", "6 to 8"]),
        (["-1.5", "0", "0.25", "1", "2", "3", "4", "1e3"], ["-1.5 to 0", "0.25 to 1", "2 to 3", "4 to 1000"]),
    ],
)
def test_bands_of_odd_columns(values, expected):
    found = banded(values)
    assert found == expected if expected is None else list(dict.fromkeys(sorted(set(found), key=found.index)))


def file(**cohort):
    return StudyFile.model_validate(
        {"cohort": {"table": "t.csv", **cohort}, "labels": {"L": {"column": "c", "model": "none"}}}
    )


def names_of(study, table, **settings):
    settings = {"grouped": True, "shown": str} | settings
    return {name: values for name, values, _ in groupings(pl.DataFrame(table), study, **settings)}


def test_columns_are_strata_groups_and_cues():
    study = file(group=["site", "view"], strata=["sex", "view"], cues={"token": {"column": "t"}})
    table = {
        "group": ["A/AP", "B/PA", "B/AP"],
        "stratum:sex": ["F", " ", "M"],
        "stratum:view": ["AP", "PA", "AP"],
        "cue:token": [True, False, None],
    }
    found = names_of(study, table)
    assert list(found) == ["sex", "view", "site", "cue “token”"]
    assert found["sex"] == ["F", None, "M"]
    assert found["site"] == ["A", "B", "B"]
    assert found["cue “token”"] == ["present", "absent", None]
    assert list(names_of(study, table, grouped=False)) == ["sex", "view", "cue “token”"]
    assert names_of(study, table, shown=lambda value: f"<{value}>")["site"] == ["<A>", "<B>", "<B>"]


def test_no_band_tells_the_name_of_a_patient():
    table = {"group": [""] * 20, "stratum:id": [str(1000 + n) for n in range(20)]}
    assert len(set(names_of(file(strata=["id"]), table)["id"])) == 4
    hidden = names_of(file(strata=["id"]), table, shown=lambda value: f"P{int(value) - 999}")["id"]
    assert hidden == [f"P{n + 1}" for n in range(20)]


def test_groups_that_cannot_be_taken_apart_stay_whole():
    study = file(group=["site", "view"])
    assert names_of(study, {"group": ["A/1/AP", "B/PA"]}) == {"site/view": ["A/1/AP", "B/PA"]}
    assert names_of(file(group=["site"]), {"group": ["A/1", "B"]}) == {"site": ["A/1", "B"]}
    assert names_of(file(), {"group": ["AP", "PA", None]}) == {"view": ["AP", "PA", None]}
    assert names_of(file(), {"group": ["", ""]}) == {}


def test_a_study_without_subgroups_says_how_to_get_them(data):
    found = subgroups([], **data[0])
    assert found.columns == {}
    assert "list columns such as view, site, sex or age as strata" in found.sentence
