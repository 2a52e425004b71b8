"""The unit of effects, and what a few unusual patients do to it."""

import numpy as np
import polars as pl
import pytest

from camscope.audit.evidence import Response
from camscope.audit.interventions import Change
from camscope.audit.measures import adjusted_responses, responses, spread, typical_spread
from camscope.audit.settings import AuditSettings
from camscope.statistics.intervals import Interval


def rows(values):
    patients = [f"P{n}" for n in range(len(values))]
    return pl.DataFrame({"log_odds": np.asarray(values, float), "patient": patients})


def test_patients_far_from_the_others_do_not_make_every_effect_small():
    values = np.random.default_rng(0).normal(0, 1, 60)
    odd = np.concatenate([values, [240.0] * 6])
    assert spread(rows(odd)) > 50
    assert typical_spread(rows(odd)) == pytest.approx(values.std(ddof=1), rel=0.05)
    assert typical_spread(rows(values)) == pytest.approx(spread(rows(values)))


def test_of_few_or_equal_values():
    assert np.isnan(typical_spread(rows([1.0])))
    assert typical_spread(rows([2.0, 2.0, 2.0, 2.0, 2.0, 9.0])) == spread(rows([2.0, 2.0, 2.0, 2.0, 2.0, 9.0]))


def test_responses_are_absolute_changes_over_patients():
    """Opposite changes of single cases do not cancel; two images of a patient count as one."""
    cases = (
        rows([0.0, 2.0] * 12)
        .with_columns(
            pl.Series("patient", [f"P{n // 2}" for n in range(24)]),
            case=pl.int_range(24),
            truth=pl.Series([n < 12 for n in range(24)]),
        )
        .with_columns(log_odds=pl.col("log_odds") + pl.Series([n // 2 % 2 for n in range(24)], dtype=pl.Float64))
    )
    changes = [
        Change(n, "border:0.10", "swap", "", donor, value + sign, value)
        for n, value in enumerate(cases["log_odds"].to_list())
        for donor, sign in (("donor 1", 1.0), ("donor 2", -1.0))
    ]
    assert responses(cases, changes, settings=AuditSettings(replicates=99)) == {}  # 6 patients, 8 are needed
    more = pl.concat([cases, cases.with_columns(patient="Q" + pl.col("patient"), case=pl.col("case") + 24)])
    changes += [Change(c.case + 24, *list(vars(c).values())[1:]) for c in changes]
    found = responses(more, changes, settings=AuditSettings(replicates=99))["border:0.10"]
    assert [(r.stratum, r.cases, r.patients) for r in found] == [("present", 24, 12), ("absent", 24, 12)]
    assert found[0].change.estimate == found[0].excess.estimate == pytest.approx(1 / spread(more.filter("truth")))


def test_responses_are_adjusted_over_all_labels():
    listed = responses_of([0.01, 0.2]), responses_of([0.03])
    found = adjusted_responses({"A": {"border:0.10": listed[0]}, "B": {"corner:0.15": listed[1]}})
    assert [r.p for r in found["A"]["border:0.10"]] == pytest.approx([0.03, 0.2])
    assert [r.p for r in found["B"]["corner:0.15"]] == pytest.approx([0.06])


def test_a_response_without_a_part_beside_has_no_p_and_leaves_the_others_alone():
    cases = rows([float(n % 3) for n in range(12)]).with_columns(
        patient=pl.Series([f"P{n}" for n in range(12)]), case=pl.int_range(12), truth=True
    )
    alone = [Change(n, "border:0.20", "swap", "", "donor 1", 5.0, float("nan")) for n in range(12)]
    blurred = [Change(n, "border:0.20", "blur", "", "blur", 5.0, float("nan")) for n in range(12)]
    found = responses(cases, alone + blurred, settings=AuditSettings(replicates=99))["border:0.20"]
    assert [r.test for r in found] == ["swap", "blur"]
    assert all(r.change.low > 0 and np.isnan(r.excess.estimate) and np.isnan(r.p) for r in found)
    partly = [Change(n, "border:0.20", "swap", "", "donor 2", 5.0, 4.0) for n in range(4)]
    assert np.isnan(responses(cases, alone[4:] + partly, settings=AuditSettings(replicates=99))["border:0.20"][0].p)
    listed = adjusted_responses({"A": {"border:0.20": [*found, *responses_of([0.03])]}})["A"]["border:0.20"]
    assert [r.p for r in listed] == pytest.approx([np.nan, np.nan, 0.03], nan_ok=True)


def responses_of(p_values):
    unknown = Interval(0.0, 1.0, 0.5)
    return [Response("present", "swap", 10, 10, change=unknown, excess=unknown, p=p) for p in p_values]
