"""The order of the tests, and that heat alone never convicts."""

import dataclasses
import math

import pytest

from camscope.audit.evidence import Alignment, Alignments, Effect, Heat, Response
from camscope.audit.verdicts import judge
from camscope.statistics.intervals import Interval

STRONG, NONE, WIDE = Interval(-1.2, -0.8, -1.0), Interval(-0.03, 0.03, 0.0), Interval(-0.5, 0.5, 0.0)


def effect(
    size, *, test="remove", by="", fills=None, p=0.001, equivalence=0.9, stratum="present", spread=NONE, own=None
):
    return Effect(
        own=own or size,
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
        by=by,
        spread=spread,
        p_spread=p,
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


GOOD, BAD = Interval(0.9, 0.96, 0.95), Interval(0.0, 0.2, 0.1)
UNKNOWN = Interval(math.nan, math.nan, math.nan)
USED = Alignment(GOOD, UNKNOWN, BAD, Interval(0.5, 0.9, 0.7), how="remove")
UNUSED = Alignment(GOOD, UNKNOWN, GOOD, Interval(-0.1, 0.2, 0.05), how="remove")


def judged(effects=(), *, role="shortcut", heat=None, edited=USED, doubt="", responses=(), untested=(), **alignments):
    known = Alignments({} if edited is None else {("remove", ""): edited}, **alignments)
    asked = {"effects": effects, "heat": heat, "alignments": known, "untestable": "why", "delta": 0.1, "doubt": doubt}
    found = judge("L", "border:0.10", role, responses=responses, untested=untested, **asked)
    if found.effect is not None and "single cases" not in found.reason:
        assert f"by {found.effect.effect.estimate:.2f} SD" in found.reason  # a report states one size of one effect
    return found


CHANGE, EXCESS = Interval(0.8, 1.2, 1.0), Interval(0.7, 1.1, 0.9)


def response(stratum, change=CHANGE, excess=EXCESS, p=0.001, test="swap"):
    return Response(stratum, test, 60, 30, change=change, excess=excess, p=p)


HOT = heat(Interval(1.4, 1.8, 1.6), {"random weights": [1.0, 1.1]})
WARM = heat(Interval(1.4, 1.8, 1.6), {"random weights": [1.0, 1.7]})


def test_no_effect_could_be_measured():
    found = judged()
    assert (found.verdict, "why" in found.reason) == ("NOT TESTABLE", True)


@pytest.mark.parametrize(("role", "words"), [("shortcut", "a shortcut"), ("disease", "a disease region")])
def test_relies(role, words):
    found = judged([effect(STRONG)], role=role)
    assert found.verdict == "RELIES"
    assert words in found.reason
    assert (
        "changes the log-odds by -1.00 SD on average (95 % confidence interval -1.20 to -0.80; 30 patients, label "
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


@pytest.mark.parametrize(
    ("alignments", "verdict", "words"),
    [
        ({}, "RELIES", "the AUC is 0.95 with the region and 0.10 without it"),
        ({"edited": UNUSED}, "RESPONDS", "it is not shown that this helps to separate the classes"),
        (
            {"edited": None, "missing": {("remove", ""): "only 4 patients"}},
            "RESPONDS",
            "not be tested (only 4 patients)",
        ),
        ({"unedited": dataclasses.replace(UNUSED, how="")}, "RESPONDS", "unedited images do not show"),
        ({"unedited": dataclasses.replace(USED, how="")}, "RELIES", "where it points to the right label"),
    ],
)
def test_a_response_is_reliance_only_where_it_serves_to_tell_the_label(alignments, verdict, words):
    found = judged([effect(STRONG)], **alignments)
    assert found.verdict == verdict
    assert words in found.reason
    assert "nan" not in found.reason


def test_a_border_into_which_unseen_disease_may_reach_says_so():
    assert "is not known: add a mask of the disease" in judged([effect(STRONG)], doubt="unseen").reason
    assert "is not known" not in judged([effect(STRONG)]).reason


def test_tissue_under_a_fixed_cue_must_have_been_compared():
    assert judged([effect(STRONG)], doubt="tissue").verdict == "RESPONDS"
    compared = effect(STRONG, fills={"impute": STRONG, "same place": STRONG})
    assert judged([compared], doubt="tissue").verdict == "RELIES"


def test_a_small_effect_that_decides_is_no_absence_of_use():
    little = effect(Interval(-0.08, -0.06, -0.07), equivalence=0.001, spread=Interval(0.0, 0.08, 0.05))
    found = judged([little])
    assert found.verdict == "RESPONDS"
    assert "it helps to separate the classes: the AUC is" in found.reason
    assert judged([little], edited=UNUSED).verdict == "EQUIVALENT TO NONE"


def test_changes_of_single_cases_count_if_every_fill_in_makes_them():
    wide = Interval(0.5, 0.9, 0.7)
    single = effect(NONE, p=0.001, spread=wide)
    assert judged([single], edited=UNUSED).verdict == "RESPONDS"
    of_one = dataclasses.replace(single, spread_by_fill={"impute": wide, "same place": NONE})
    assert judged([of_one], edited=UNUSED).verdict != "RESPONDS"


def test_nan_passes_no_gate():
    unknown = Interval(math.nan, math.nan, math.nan)
    for reliance in (unknown, Interval(math.nan, math.nan, 0.7)):
        found = judged([effect(STRONG)], edited=dataclasses.replace(USED, reliance=reliance))
        assert found.verdict == "RESPONDS"
        assert judged([effect(Interval(math.nan, math.nan, -1.0))]).verdict != "RELIES"


def test_the_alignment_must_be_that_of_the_same_intervention():
    exchanged = effect(STRONG, test="exchange", by="label")
    assert judged([exchanged]).verdict == "RESPONDS"


def test_at_the_ceiling_the_share_of_the_separation_decides():
    top = Interval(0.98, 1.0, 0.99)
    near = Alignment(top, top, top, Interval(-0.01, 0.01, 0.0), share=Interval(0.2, 0.4, 0.3), flips=0.05, how="remove")

    def unedited(low, high):
        return dataclasses.replace(near, share=Interval(low, high, (low + high) / 2), flips=math.nan, how="")

    assert judged([effect(STRONG)], edited=near, unedited=unedited(-0.02, 0.04)).verdict == "RESPONDS"
    assert judged([effect(STRONG)], edited=near, unedited=unedited(math.nan, math.nan)).verdict == "RESPONDS"
    found = judged([effect(STRONG)], edited=near, unedited=unedited(0.01, 0.08))
    assert found.verdict == "RELIES"
    assert "carries 30% of the separation of the classes" in found.reason
    less = dataclasses.replace(near, anti=Interval(0.8, 0.95, 0.9), reliance=Interval(0.03, 0.2, 0.09))
    assert judged([effect(STRONG)], edited=less).verdict == "RELIES"
    small = dataclasses.replace(near, share=Interval(0.02, 0.2, 0.1))
    assert judged([effect(STRONG)], edited=small).verdict == "RESPONDS"


def test_opposite_changes_are_a_response_and_never_no_effect():
    opposite = effect(NONE, p=0.001, equivalence=0.01, spread=Interval(0.8, 1.2, 1.0))
    found = judged([opposite])
    assert found.verdict == "RESPONDS"
    assert "of single cases by 1.00 SD" in found.reason
    wide = judged([effect(NONE, p=0.9, equivalence=0.01, spread=Interval(-0.1, 0.5, 0.2))])
    assert wide.verdict == "NOT SHOWN"
    assert "single cases may change by 0.50 SD more than by the sham" in wide.reason


def test_a_cue_that_is_used_against_its_association_is_said_to_be():
    against = Alignment(GOOD, BAD, GOOD, Interval(-0.9, -0.5, -0.7), how="remove")
    found = judged([effect(STRONG)], edited=against)
    assert found.verdict == "RESPONDS"
    assert "its sign is the opposite of the association with the label in these images" in found.reason
    assert "it is not shown that this helps" in judged([effect(STRONG)], edited=UNUSED).reason


def test_a_spread_with_a_mean_does_not_cancel():
    opposite = {"impute": Interval(-2.9, -2.7, -2.8), "donor": NONE}
    mean = effect(Interval(-1.5, -1.3, -1.4), fills=opposite, spread=Interval(1.4, 1.6, 1.5))
    found = judged([mean])
    assert found.verdict == "RESPONDS"
    assert "cancel" not in found.reason
    assert "by -1.40 SD on average, on which the fill-ins do not agree (impute -2.80 SD, donor 0.00 SD)" in found.reason
    assert "the changes cancel on average" in judged([effect(NONE, p=0.001, spread=Interval(0.8, 1.2, 1.0))]).reason


@pytest.mark.parametrize(
    ("sham", "verdict"), [(1.0, "NOT SHOWN"), (0.9, "NOT SHOWN"), (0.8, "RELIES"), (-2.0, "RELIES")]
)
def test_an_effect_that_the_sham_alone_makes_convicts_nobody(sham, verdict):
    """The region alone must change the log-odds by more than delta, in the same direction."""
    own = Interval(sham - 1.05, sham - 0.95, sham - 1)
    found = judged([dataclasses.replace(effect(STRONG, own=own), sham=sham)])
    assert found.verdict == verdict
    if verdict == "NOT SHOWN":
        text = f"this is the change by the sham, {sham:.2f} SD; the region itself changes it by {sham - 1:.2f} SD"
        assert text in found.reason


@pytest.mark.parametrize(
    ("stratum", "test", "by", "verdict"),
    [
        ("absent", "exchange", "label", "RESPONDS"),  # donors with the label bring their disease
        ("absent", "exchange", "cue:token", "RELIES"),
        ("present", "exchange", "cue:token", "RESPONDS"),
    ],
)
def test_only_edits_without_disease_convict_where_disease_may_lie(stratum, test, by, verdict):
    one = effect(STRONG, stratum=stratum, test=test, by=by)
    found = judge(
        *("L", "border:0.10", "shortcut"),
        effects=[one],
        heat=None,
        alignments=Alignments({(test, by): dataclasses.replace(USED, how=by)}),
        untestable="why",
        delta=0.1,
        doubt="disease",
    )
    assert found.verdict == verdict


def test_a_stratum_that_could_not_be_tested_excludes_nothing():
    small = effect(NONE, p=0.9, equivalence=0.001, stratum="absent")
    for hot in (None, WARM):
        found = judged([small], heat=hot, untested=["present"])
        assert found.verdict == "NOT SHOWN"
        assert "with the label present, fewer than 8 patients could be tested" in found.reason


def test_a_removal_that_takes_away_more_than_the_label_brings_is_no_reliance():
    """Removing what all images have, in images with the label alone, makes them score lower than the others."""
    below = dataclasses.replace(USED, aligned=Interval(0.7, 0.85, 0.78), anti=Interval(0.0, 0.06, 0.02))
    found = judged([effect(STRONG)], role="disease", edited=below)
    assert found.verdict == "RESPONDS"
    assert "takes away more than what separates the classes" in found.reason


def test_patients_far_from_the_others_do_not_shrink_an_effect_below_delta():
    """0.05 of a spread that outliers make ten times as large is half of the usual spread."""
    near = Interval(0.03, 0.07, 0.05)
    small = dataclasses.replace(effect(NONE, p=0.9, equivalence=0.001, spread=near), margin=0.1)
    found = judged([small])
    assert found.verdict == "NOT SHOWN"
    assert "Without a few patients far from the others, the SD is 0.10 times as large." in found.reason
    swapped = [dataclasses.replace(response(stratum, change=near, excess=NONE), margin=0.1) for stratum in _BOTH]
    still = dataclasses.replace(small, effect=Interval(-0.003, 0.003, 0.0), spread=Interval(0.0, 0.002, 0.001))
    assert judged([still]).verdict == "EQUIVALENT TO NONE"
    assert judged([still], responses=swapped).verdict == "NOT SHOWN"


def test_a_swap_that_acts_in_one_stratum_or_cannot_be_compared_is_told():
    wide = effect(WIDE, p=0.9)
    alone = judged([wide], responses=[response("present"), response("absent", change=NONE, excess=NONE, p=0.9)])
    assert "log-odds of single cases by 1.00 SD" in alone.reason
    assert alone.reason.endswith("more than the part beside it.")
    bare = judged([wide], responses=[response(stratum, excess=UNKNOWN, p=math.nan) for stratum in _BOTH])
    assert (bare.verdict, bare.reason.endswith("no equally large part lies beside it.")) == ("NOT SHOWN", True)


_BOTH = ("present", "absent")


def test_heat_alone_never_convicts():
    for shown in (HOT, WARM):
        assert judged([effect(WIDE, p=0.9)], heat=shown).verdict == "NOT SHOWN"
        assert judged([effect(NONE, p=0.9, equivalence=0.01)], heat=shown).verdict != "RELIES"


def test_heat_that_is_no_more_than_chance_on_a_region_without_effect_is_an_artefact():
    nothing = effect(NONE, p=0.9, equivalence=0.01)
    assert judged([nothing], heat=WARM).verdict == "ARTEFACT-CONSISTENT"
    assert judged([nothing], heat=HOT).verdict == "EQUIVALENT TO NONE"
    stays = heat(Interval(1.4, 1.8, 1.6), {"random weights": [1.0]}, frame=1.5, content=0.9)
    assert "stays at the border of the input" in judged([nothing], heat=stays).reason


def test_equivalence_needs_every_stratum():
    nothing = effect(NONE, p=0.9, equivalence=0.01)
    assert judged([nothing, effect(WIDE, p=0.9, stratum="absent")]).verdict == "NOT SHOWN"
    assert judged([nothing, effect(NONE, p=0.9, equivalence=0.01, stratum="absent")]).verdict == "EQUIVALENT TO NONE"


def test_a_cue_that_only_acts_when_put_in_is_a_remark():
    found = judged([effect(WIDE, p=0.9), effect(Interval(0.8, 1.2, 1.0), test="insert")])
    assert found.verdict == "NOT SHOWN"
    assert "Inserting it, rather than the same part of an image without it, changes the log-odds" in found.reason


def test_a_cue_that_acts_when_put_in_is_never_without_effect():
    put_in = effect(Interval(0.8, 1.2, 1.0), test="insert")
    for shown in (WARM, HOT):  # of two cues that stand together, the other one does what the removed one did
        found = judged([effect(NONE, p=0.9, equivalence=0.01), put_in], heat=shown)
        assert found.verdict == "NOT SHOWN"
        assert "Inserting it, rather than the same part of an image without it, changes the log-odds" in found.reason


def test_an_effect_whose_interval_reaches_delta_is_not_excluded():
    # One patient changes much: the means are not normal, and the two one-sided tests pass all the same.
    skewed = effect(Interval(0.01, 0.17, 0.04), p=0.4, equivalence=0.008)
    found = judged([skewed])
    assert found.verdict == "NOT SHOWN"
    assert "cannot be excluded" in found.reason
    assert judged([effect(Interval(0.01, 0.09, 0.04), p=0.4, equivalence=0.008)]).verdict == "EQUIVALENT TO NONE"


def test_the_limit_is_that_of_every_stratum():
    wide = dataclasses.replace(effect(WIDE, p=0.9, stratum="absent"), smallest_delta=0.57)
    assert "up to 0.57 SD" in judged([effect(Interval(-0.6, 0.1, -0.2), p=0.9), wide]).reason


def test_nulls_that_are_not_known_do_not_count():
    shown = heat(Interval(1.4, 1.8, 1.6), {"N1": [math.nan]})
    assert not shown.beyond_nulls


def interval(low, high):
    return Interval(low, high, (low + high) / 2)


@pytest.mark.parametrize(
    ("by_cue", "index", "verdict", "words"),
    [
        (
            (interval(0.7, 0.9), interval(0.6, 0.8)),
            interval(0.2, 0.4),
            "RESPONDS",
            "or to something associated with it",
        ),
        ((interval(0.1, 0.3), interval(0.2, 0.4)), interval(0.2, 0.4), "RESPONDS", "something else in these images"),
        ((interval(0.7, 0.9), interval(0.4, 0.8)), interval(0.2, 0.4), "NOT SHOWN", "is not shown"),
        ((interval(0.7, 0.9), interval(0.1, 0.3)), interval(0.2, 0.4), "NOT SHOWN", "is not shown"),
        ((interval(0.7, 0.9), interval(0.6, 0.8)), interval(0.0, 0.4), "NOT SHOWN", "is not shown"),
    ],
)
def test_a_cue_without_a_place_never_yields_more_than_a_response(by_cue, index, verdict, words):
    top = interval(0.8, 0.9)
    found = judge(
        "L",
        "cue:token",
        "shortcut",
        effects=(),
        heat=None,
        alignments=Alignments(unedited=Alignment(top, top, top, index)),
        untestable="no case has it",
        delta=0.1,
        by_cue=dict(zip(("present", "absent"), by_cue, strict=True)),
    )
    assert found.verdict == verdict
    assert words in found.reason
    assert "could not test this (no case has it)" in found.reason
    assert "0.80 (95 % confidence interval 0.70 to 0.90) with the label present" in found.reason or by_cue[0].low != 0.7


def test_a_property_that_the_disease_can_change_yields_a_response():
    alignments = Alignments({("exchange", "label"): USED})
    arguments = {
        "effects": [effect(STRONG, test="exchange", by="label")],
        "heat": None,
        "alignments": alignments,
        "untestable": "nothing",
        "delta": 0.1,
    }
    assert judge("L", "property:jpeg", "property", **arguments).verdict == "RELIES"
    found = judge("L", "property:contrast", "property", **arguments, doubt="disease")
    assert found.verdict == "RESPONDS"
    assert found.reason.startswith("The L model responds to the contrast: replacing it with that of a patient")
    assert "nan" not in found.reason


def test_a_cue_that_may_lie_on_the_disease_needs_its_effect_without_the_disease():
    def of(*effects):
        alignments = Alignments({("remove", ""): USED})
        shown = {"heat": None, "alignments": alignments, "untestable": "nothing", "delta": 0.1}
        return judge("L", "cue:drain", "shortcut", effects=effects, **shown, doubt="disease")

    present = effect(STRONG, stratum="present")
    alone = of(present)
    assert alone.verdict == "RESPONDS"
    assert "cue:drain or to disease in the same place" in alone.reason
    both = of(present, effect(STRONG, stratum="absent"))
    assert both.verdict == "RELIES"
    assert "label absent" in both.reason
    opposite = Interval(-STRONG.high, -STRONG.low, -STRONG.estimate)
    assert of(present, effect(opposite, stratum="absent")).verdict == "RESPONDS"


BOTH = (response("present"), response("absent", excess=Interval(0.3, 0.9, 0.5)))


def test_a_region_that_changes_single_cases_with_and_without_the_label_responds():
    found = judged([effect(WIDE, p=0.9)], responses=BOTH)
    assert found.verdict == "RESPONDS"
    assert "of single cases by 1.00 SD" in found.reason
    assert (
        "0.50 SD (95 % confidence interval 0.30 to 0.90; adjusted p = .001) more than an equally large" in found.reason
    )


@pytest.mark.parametrize(
    "other",
    [
        None,
        response("absent", excess=Interval(0.05, 0.9, 0.5)),
        response("absent", p=0.06),
        response("absent", excess=Interval(-1.0, -0.5, -0.8)),
    ],
    ids=["one stratum", "within delta", "p", "the part beside it changes more"],
)
def test_single_cases_must_change_more_by_the_region_in_both_strata(other):
    found = judged([effect(WIDE, p=0.9)], responses=[BOTH[0], *([] if other is None else [other])])
    assert found.verdict == "NOT SHOWN"


def test_a_region_whose_swap_changes_single_cases_is_not_unused():
    small = effect(NONE, p=0.9, equivalence=0.001)
    still = response("present", change=Interval(0.01, 0.05, 0.03), excess=Interval(-0.1, 0.0, -0.05))
    assert judged([small], responses=[still]).verdict == "EQUIVALENT TO NONE"
    moves = dataclasses.replace(still, change=Interval(0.2, 0.4, 0.3))
    found = judged([small], responses=[still, moves])
    assert found.verdict == "NOT SHOWN"
    assert "same label changes the log-odds of single cases by 0.30 SD" in found.reason


def test_a_blur_that_changes_single_cases_excludes_no_effect_but_convicts_nothing():
    """Only a blur removes what all images have in a region; and the blur itself may be the cause."""
    small = effect(NONE, p=0.9, equivalence=0.001, test="exchange", by="label")
    blurred = [response(stratum, excess=UNKNOWN, p=math.nan, test="blur") for stratum in ("present", "absent")]
    for hot in (None, WARM):
        found = judged([small], responses=blurred, heat=hot)
        assert found.verdict == "NOT SHOWN"
        assert "but blurring it out changes the log-odds of single cases by 1.00 SD" in found.reason
        assert "what all images have in common there" in found.reason


def test_donors_that_have_the_same_there_are_named():
    """An imputation removes a mark that all images have; a donor has it too."""
    half = effect(STRONG, fills={"impute": Interval(-2.4, -1.6, -2.0), "donor": NONE})
    found = judged([half])
    assert found.verdict == "NOT SHOWN"
    assert "what all images have in common there stays the same with a donor" in found.reason


def test_an_effect_of_many_sd_is_explained_by_the_sd():
    huge = dataclasses.replace(effect(Interval(-120.0, -90.0, -100.0)), sd=0.031)
    assert "; their log-odds hardly differ, SD 0.031)" in judged([huge]).reason
    assert "hardly differ" not in judged([effect(STRONG)]).reason


def test_a_patch_that_counts_as_much_as_any_other_is_not_called_unused():
    small = effect(NONE, p=0.9, equivalence=0.001, own=STRONG)
    assert judged([small]).reason.startswith("The L model uses border:0.10 no more than other parts of the image:")


def test_a_property_is_unused_only_as_far_as_it_differs():
    small = effect(NONE, p=0.9, equivalence=0.001, test="exchange", by="property:contrast")
    known = Alignments({("exchange", "property:contrast"): UNUSED})
    found = judge(
        *("L", "property:contrast", "property"),
        effects=[small],
        heat=None,
        alignments=known,
        untestable="why",
        delta=0.1,
    )
    assert found.verdict == "EQUIVALENT TO NONE"
    assert "does not use the differences in the contrast between these images" in found.reason
