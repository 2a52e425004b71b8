"""Alignment of regions and labels, from unedited and from edited images, against numbers by hand."""

import math

import numpy as np
import polars as pl
import pytest

from camscope.audit.alignment import association, counterfactual, cue_alignment, direction_of
from camscope.audit.interventions import Change
from camscope.audit.settings import AuditSettings

SETTINGS = AuditSettings(replicates=499)


def make_rows(*, patients=60, effect=2.0, lesion=0.0, cue_of=lambda truth, draw: draw.random() < 0.5, seed=0):
    """One case per patient: log-odds = lesion where the label is + effect where the cue is + noise."""
    draw = np.random.default_rng(seed)
    truth = [i % 2 == 0 for i in range(patients)]
    cue = [bool(cue_of(t, draw)) for t in truth]
    noise = 0.5 * draw.standard_normal(patients)
    log_odds = [lesion * t + effect * c + float(n) for t, c, n in zip(truth, cue, noise, strict=True)]
    names = [f"P{i}" for i in range(patients)]
    return pl.DataFrame(
        {"case": range(patients), "patient": names, "truth": truth, "cue:token": cue, "log_odds": log_odds}
    )


def removals(rows, effect, *, region="cue:token", insert=False, sham=0.1):
    """Removing takes the effect away, and any edit adds ``sham``."""
    made = []
    for row in rows.iter_rows(named=True):
        for fill in ("impute", "donor"):
            if row["cue:token"]:
                clean = row["log_odds"] + sham
                made.append(Change(row["case"], region, "remove", "", fill, clean - effect, clean))
            elif insert and fill == "donor":
                clean = row["log_odds"] + sham
                made.append(Change(row["case"], region, "insert", "", fill, clean + effect, clean))
    return made


def without_lesion(rows, test, by, fill):
    """Changes of the lesions of the cases that have one, which take 3 away."""
    return [
        Change(row["case"], "mask:label", test, by, fill, row["log_odds"] - 3.0, row["log_odds"])
        for row in rows.filter("truth").iter_rows(named=True)
    ]


def by_hand(aligned, anti, truth):
    def area(values):
        present, absent = values[truth], values[~truth]
        return np.mean((present[:, None] > absent[None]) + 0.5 * (present[:, None] == absent[None]))

    return area(aligned), area(anti)


def test_a_removed_cue_against_numbers_by_hand():
    rows = make_rows(lesion=0.5)
    found, why = counterfactual(rows, removals(rows, 2.0), settings=SETTINGS)
    assert why == ""
    carriers = rows.filter("cue:token")
    clean, truth = carriers["log_odds"].to_numpy(), carriers["truth"].to_numpy()
    aligned, anti = np.where(truth, clean, clean - 2), np.where(truth, clean - 2, clean)
    expected = by_hand(aligned, anti, truth)
    assert (found.aligned.estimate, found.anti.estimate) == pytest.approx(expected)
    assert found.reliance.estimate == pytest.approx(expected[0] - expected[1])
    first, second = (x[truth].mean() - x[~truth].mean() for x in (aligned, anti))
    assert found.share.estimate == pytest.approx((first - second) / (first + second))
    assert found.flips == pytest.approx(np.mean((aligned > 0) != (anti > 0)))
    assert found.is_reliance


def test_a_cue_that_goes_with_the_absence_of_the_label():
    rows = make_rows(effect=-2.0, cue_of=lambda truth, draw: draw.random() < (0.1 if truth else 0.9))
    changes = removals(rows, -2.0, insert=True)
    assert association(rows, "cue:token", settings=SETTINGS).high < 0
    against, _ = counterfactual(rows, changes, direction=-1, settings=SETTINGS)
    assert against.is_reliance
    wrong, _ = counterfactual(rows, changes, direction=1, settings=SETTINGS)
    assert not wrong.is_reliance


def test_insertions_fill_the_side_without_carriers():
    rows = make_rows(cue_of=lambda truth, draw: truth)
    alone, why = counterfactual(rows, removals(rows, 2.0), settings=SETTINGS)
    assert alone is None
    assert why == "images of 0 patients with the label absent could be edited, and 8 are needed"
    both, why = counterfactual(rows, removals(rows, 2.0, insert=True), settings=SETTINGS)
    assert why == ""
    assert both.aligned.estimate > 0.9
    assert both.anti.estimate < 0.1


def test_few_positives_leave_it_open():
    rows = make_rows(patients=140).with_columns((pl.col("case") < 6).alias("truth"))
    found, why = counterfactual(rows, removals(rows, 0.3, insert=True), settings=SETTINGS)
    assert found is None
    assert "6 patients" in why
    assert cue_alignment(rows, "cue:token", settings=SETTINGS)[0] is None


def test_an_exchange_by_a_cue_uses_both_donors():
    rows = make_rows(effect=2.0)
    changes = []
    for row in rows.iter_rows(named=True):
        base = row["log_odds"] - 2.0 * row["cue:token"]
        same, other = base + 2.0 * row["cue:token"], base + 2.0 * (not row["cue:token"])
        changes.append(Change(row["case"], "border:0.10", "exchange", "cue:token", "donor 1", other, same))
    found, _ = counterfactual(rows, changes, settings=SETTINGS)
    truth = rows["truth"].to_numpy()
    base = rows["log_odds"].to_numpy() - 2.0 * rows["cue:token"].to_numpy()
    assert (found.aligned.estimate, found.anti.estimate) == pytest.approx(
        by_hand(base + 2 * truth, base + 2 * ~truth, truth)
    )
    assert found.how == "cue:token"


def test_a_lesion_that_is_hidden_leaves_the_other_side_as_it_is():
    rows = make_rows(effect=0.0, lesion=3.0)
    found, _ = counterfactual(rows, without_lesion(rows, "remove", "", "impute"), settings=SETTINGS)
    assert found.aligned.estimate > 0.95
    assert 0.3 < found.anti.estimate < 0.7
    assert found.is_reliance
    assert math.isnan(found.absent.estimate)


def test_without_the_cells_unedited_pictures_say_nothing():
    found, why = cue_alignment(make_rows(cue_of=lambda truth, draw: False), "cue:token", settings=SETTINGS)
    assert found is None
    assert why == "a combination of cue and label has 0 patients, and 8 are needed"


def test_an_association_is_the_difference_of_two_rates():
    rows = make_rows()
    cue, truth = (rows[name].to_numpy() for name in ("cue:token", "truth"))
    assert association(rows, "cue:token", settings=SETTINGS).estimate == pytest.approx(
        truth[cue].mean() - truth[~cue].mean()
    )


def test_a_large_lesion_is_exchanged_on_its_side_alone():
    rows = make_rows(effect=0.0, lesion=3.0)
    found, why = counterfactual(rows, without_lesion(rows, "exchange", "label", "donor 1"), settings=SETTINGS)
    assert why == ""
    assert found.is_reliance


@pytest.mark.parametrize("effect", [2.0, -2.0])
def test_a_cue_without_an_association_points_where_the_model_reads_it(effect):
    """The verdict must not depend on which of two values of a balanced cue is called 1."""
    rows = make_rows(effect=effect, cue_of=lambda truth, draw: draw.random() < 0.5, patients=80)
    assert direction_of(rows, "cue:token", settings=SETTINGS) == 0
    found, why = counterfactual(rows, removals(rows, effect, insert=True), direction=0, settings=SETTINGS)
    assert why == ""
    assert found.reliance.low > 0.5
    unedited, _ = cue_alignment(rows, "cue:token", direction=0, settings=SETTINGS)
    assert unedited.reliance.low > 0.5
    assert found.as_read
    assert unedited.as_read


def test_a_chance_association_does_not_say_where_a_cue_points():
    """A 95 % interval excludes 0 in one of 20 balanced cohorts; half of these would point away from the model."""
    cohorts = (make_rows(patients=70, seed=seed) for seed in range(20))
    sides = [direction_of(rows, "cue:token", settings=SETTINGS) for rows in cohorts]
    assert sides == [0] * 20


def test_a_property_without_an_association_is_still_no_reliance():
    rows = make_rows().rename({"cue:token": "property:noise"})
    change = [Change(0, "property:noise", "exchange", "property:noise", "donor 1", 0.0, 1.0)]
    assert counterfactual(rows, change, direction=0, settings=SETTINGS)[0] is None


def test_a_mask_that_some_cases_lack_is_read_like_a_cue():
    """Compared among carriers alone, a device in many cases without the label would never matter."""
    rows = make_rows(cue_of=lambda truth, draw: draw.random() < (0.85 if truth else 0.3), patients=80)
    changes = removals(rows, 2.0, region="mask:device", insert=True)
    as_cue, _ = counterfactual(rows, changes, as_cue=True, settings=SETTINGS)
    assert as_cue.is_reliance
    assert as_cue.anti.estimate < 0.1
