"""The order of the tests, and that heat alone never convicts."""

import math

import pytest

from camscope.audit.verdicts import Alignment, Effect, Heat, judge
from camscope.statistics.intervals import Interval

STRONG, NONE, WIDE = Interval(-1.2, -0.8, -1.0), Interval(-0.03, 0.03, 0.0), Interval(-0.5, 0.5, 0.0)


def effect(size, *, test="remove", fills=None, p=0.001, equivalence=0.9, stratum="present"):
    return Effect(
        stratum=stratum,
        test=test,
        cases=60,
        patients=30,
        sd=2.0,
        effect=size,
        sham=0.0,
        by_fill=fills or {"impute": size, "donor": size},
        p=p,
        p_equivalence=equivalence,
        smallest_delta=0.3,
        p_adjusted=p,
    )


def heat(enrichment, nulls, frame=math.nan, content=math.nan):
    return Heat(
        cases=30,
        patients=20,
        area=0.36,
        mass=0.6,
        enrichment=enrichment,
        peak=0.5,
        nulls=nulls,
        frame=frame,
        content=content,
    )


def judged(effects=(), *, role="shortcut", heat=None, alignment=None):
    return judge("L", "border:0.10", role, effects=effects, heat=heat, alignment=alignment, untestable="why", delta=0.1)


def aligned(reliance):
    good, bad = Interval(0.9, 1, 0.95), Interval(0.0, 0.2, 0.1)
    return Alignment(good, good, bad, reliance, edited=False)


HOT = heat(Interval(1.4, 1.8, 1.6), {"random weights": [1.0, 1.1]})
WARM = heat(Interval(1.4, 1.8, 1.6), {"random weights": [1.0, 1.7]})


def test_no_effect_could_be_measured():
    found = judged()
    assert (found.verdict, "why" in found.reason) == ("NOT TESTABLE", True)


@pytest.mark.parametrize(("role", "words"), [("shortcut", "a shortcut"), ("disease", "where the disease is")])
def test_relies(role, words):
    found = judged([effect(STRONG)], role=role)
    assert found.verdict == "RELIES"
    assert words in found.reason
    assert (
        "changes the logit by -1.00 SD (95 % confidence interval -1.20 to -0.80; 30 patients, label present"
        in found.reason
    )


@pytest.mark.parametrize(
    "one",
    [
        effect(Interval(-1.0, -0.05, -0.5)),
        effect(STRONG, p=0.06),
        effect(STRONG, fills={"impute": STRONG, "donor": Interval(-0.2, 0.3, 0.1)}),
        effect(STRONG, fills={"impute": STRONG, "donor": Interval(-0.2, 0.01, -0.1)}),
        effect(STRONG, test="insert"),
    ],
    ids=["reaches into delta", "p", "signs differ", "one fill shows nothing", "insertion alone"],
)
def test_what_is_missing_for_reliance(one):
    assert judged([one, effect(WIDE, p=0.9)]).verdict != "RELIES"


def test_alignment_has_a_say_where_it_can_be_had():
    assert judged([effect(STRONG)], alignment=aligned(Interval(0.5, 0.9, 0.7))).verdict == "RELIES"
    denied = judged([effect(STRONG)], alignment=aligned(Interval(-0.1, 0.2, 0.05)))
    assert denied.verdict == "NOT SHOWN"
    assert "reliance index" in denied.reason


def test_heat_alone_never_convicts():
    for shown in (HOT, WARM):
        assert judged([effect(WIDE, p=0.9)], heat=shown).verdict == "NOT SHOWN"
        assert judged([effect(NONE, p=0.9, equivalence=0.01)], heat=shown).verdict != "RELIES"


def test_heat_that_is_no_more_than_chance_on_a_region_without_effect_is_an_artefact():
    nothing = effect(NONE, p=0.9, equivalence=0.01)
    assert judged([nothing], heat=WARM).verdict == "ARTEFACT-CONSISTENT"
    assert judged([nothing], heat=HOT).verdict == "EQUIVALENT TO NONE"
    stays = heat(Interval(1.4, 1.8, 1.6), {"random weights": [1.0]}, frame=1.5, content=0.9)
    assert "stays at the frame" in judged([nothing], heat=stays).reason


def test_equivalence_needs_every_stratum():
    nothing = effect(NONE, p=0.9, equivalence=0.01)
    assert judged([nothing, effect(WIDE, p=0.9, stratum="absent")]).verdict == "NOT SHOWN"
    assert judged([nothing, effect(NONE, p=0.9, equivalence=0.01, stratum="absent")]).verdict == "EQUIVALENT TO NONE"


def test_a_cue_that_only_acts_when_put_in():
    found = judged([effect(WIDE, p=0.9), effect(Interval(0.8, 1.2, 1.0), test="insert")])
    assert found.verdict == "SENSITIVE, OUT OF DISTRIBUTION"


def test_nulls_that_are_not_known_do_not_count():
    shown = heat(Interval(1.4, 1.8, 1.6), {"N1": [math.nan]})
    assert not shown.beyond_nulls
