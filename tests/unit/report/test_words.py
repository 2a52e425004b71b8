from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from camscope.report.words import (
    _headline,
    answers,
    decision_sentence,
    decisive_sentence,
    family_size,
    heat_sentence,
    power_sentence,
    region_words,
)
from camscope.statistics.decision import decision_curve
from camscope.statistics.power import detectable

NOT_SHOWN, NONE, RELIES, UNTESTED = "NOT SHOWN", "EQUIVALENT TO NONE", "RELIES", "NOT TESTABLE"


def answer(disease, *shortcuts, p_equivalence=0.9, detectable=None, high=0.04):
    def region(role, verdict, n):
        effect = {
            "test": "remove",
            "effect": {"estimate": 0.03, "low": -0.02, "high": high},
            "p_adjusted": 0.0001,
            "patients": 9,
            "p_equivalence": p_equivalence,
            "smallest_delta": 0.42 + n,
            "detectable": detectable,
            "spread": {"estimate": 0.1, "low": 0.0, "high": 0.71 + n},
        }
        tested = verdict != UNTESTED
        return {
            "role": role,
            "verdict": verdict,
            "reason": f"reason {n}",
            "effect": effect if tested else None,
            "effects": [effect] if tested else [],
        }

    regions = {"mask:label": region("disease", disease, 0)}
    regions |= {f"cue:{n}": region("shortcut", verdict, n) for n, verdict in enumerate(shortcuts, 1)}
    label = {"regions": regions}
    (found,) = answers(SimpleNamespace(audit={"labels": {"Nodule": label}}))
    return found


@pytest.mark.parametrize(
    ("verdicts", "tone", "words"),
    [
        ((RELIES, RELIES), "bad", "Relies on a shortcut: cue “1”, and on the disease region too"),
        ((NONE, RELIES), "bad", "and not on the disease region"),
        ((RELIES, NONE, "ARTEFACT-CONSISTENT"), "good", "every shortcut tested is ruled out"),
        ((RELIES, NONE, NOT_SHOWN), "open", "not all are ruled out"),
        ((RELIES, UNTESTED), "open", "not all are ruled out"),
        ((RELIES,), "good", "no shortcut was tested"),
        (
            (RELIES, "RESPONDS"),
            "open",
            "Relies on the disease region, and responds to a shortcut, but use of it is not shown: cue “1”",
        ),
        ((NOT_SHOWN, "RESPONDS", NONE), "open", "Responds to a shortcut, but use of it is not shown: cue “1”"),
        ((NONE, "RESPONDS", RELIES), "bad", "Relies on a shortcut: cue “2”"),
        ((NOT_SHOWN, NOT_SHOWN), "open", "Neither the disease region nor a shortcut is shown"),
        (
            (NOT_SHOWN, NONE),
            "open",
            "The disease region is not shown to drive the score; every shortcut tested is ruled out",
        ),
        (
            ("RESPONDS", NONE),
            "open",
            "Responds to the disease region, but use of it is not shown; every shortcut tested",
        ),
        (("RESPONDS", NOT_SHOWN), "open", "Responds to the disease region, but use of it is not shown; no shortcut is"),
        (("RESPONDS",), "open", "no shortcut was tested"),
        (("RESPONDS", RELIES), "bad", "responds to the disease region, but use of it is not shown"),
        (("RESPONDS", "RESPONDS"), "open", "use of neither is shown: cue “1”"),
        ((NONE, NOT_SHOWN), "bad", "Does not use the disease region"),
        ((UNTESTED, UNTESTED), "none", "Could not be tested"),
    ],
)
def test_the_headline_says_no_more_than_was_shown(verdicts, tone, words):
    found = answer(*verdicts)
    assert found.tone == tone
    assert words in found.headline


def test_the_sentence_is_that_of_the_shortcut_first():
    assert answer(RELIES, NOT_SHOWN, RELIES).sentence == "reason 2"
    assert answer(RELIES, NOT_SHOWN).sentence == "reason 0"
    assert answer(NOT_SHOWN, NOT_SHOWN, "RESPONDS").sentence == "reason 2"  # the headline names this shortcut


def test_what_is_not_shown_says_how_much_remains_possible():
    shown, open_one = answer(RELIES, NOT_SHOWN).chips
    assert (shown.beyond, open_one.beyond) == ("", "up to 1.42 SD")
    assert (shown.p, shown.effect) == ("< .001", "0.03 (−0.02 to 0.04)")


def test_regions_have_words():
    assert region_words("outside:lung") == "outside “lung”"
    assert region_words("border:lots") == "border lots"


def test_where_every_mean_is_small_the_limit_is_that_of_single_changes():
    (_, chip) = answer(RELIES, NOT_SHOWN, p_equivalence=0.01).chips
    assert chip.beyond == "up to 1.71 SD"


def powered(family, *, patients=34, detectable=0.31, replicates=10_000, **more):
    effect = {"test": "remove", "patients": patients, "detectable": detectable} | more
    return power_sentence({"effects": [effect, effect | {"test": "insert", "detectable": 9.0}]}, family, replicates)


def test_what_the_cohort_could_have_shown():
    alone = TTestPower().solve_power(nobs=34, alpha=0.05, power=0.8)
    strict = TTestPower().solve_power(nobs=34, alpha=0.05 / 20, power=0.8)
    text = powered(20)
    assert "a mean effect of 0.31 SD with a single test" in text
    assert f"of {0.31 * strict / alone:.2f} SD after adjustment for all 20 tests" in text
    assert powered(1).endswith("a mean effect of 0.31 SD.")
    assert "for all 20 tests, 8 patients cannot show an effect of any size" in powered(20, patients=8)
    assert "for all 20 tests, 99 permutations cannot show an effect of any size" in powered(20, replicates=99)
    assert powered(20, detectable=None) == ""
    audit = {"labels": {"A": {"regions": {"r": {"effects": [{"test": "remove"}, {"test": "insert"}]}}}}}
    assert family_size(audit) == 1


def test_where_strata_differ_the_least_power_counts():
    effects = [{"test": "remove", "patients": m, "detectable": d} for m, d in ((34, 0.31), (12, 0.88))]
    text = power_sentence({"effects": effects}, 2, 10_000)
    assert "0.88 SD with a single test" in text
    assert text.endswith("after adjustment for all 2 tests, in each stratum.")


@pytest.mark.parametrize(
    ("estimate", "patients", "said"),
    [
        # statsmodels: TTestPower().solve_power(0.5, alpha=0.05 / 20, power=0.8) is 64.3
        (0.5, 20, "About 65 patients instead of 20 would show an effect as large as this one."),
        (0.5, 70, ""),
        # (1.645 + 0.842)^2 / (0.1 - 0.05)^2 = 2473
        (-0.05, 20, "About 2,500 patients instead of 20 would exclude an effect of 0.1 SD if it is as small as this."),
        (0.0999, 20, "More than a million patients instead of 20 would exclude"),
    ],
)
def test_how_many_patients_would_decide(estimate, patients, said):
    one = {"test": "remove", "patients": patients, "effect": {"estimate": estimate}}
    one["detectable"] = detectable(1.0, patients)
    weaker = one | {"effect": {"estimate": 0.01}}
    found = decisive_sentence({"effects": [weaker, one, one | {"test": "insert"}]}, 20, 0.1)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_only_a_verdict_of_not_shown_speaks_of_power():
    shown, open_one = answer(RELIES, NOT_SHOWN, detectable=0.5).chips
    assert shown.power == ""
    assert "0.50 SD" in open_one.power
    assert answer(RELIES, NOT_SHOWN).chips[1].power == "", "an audit of an earlier version has no such number"


def test_a_decision_curve_in_words():
    draw = np.random.default_rng(0)
    p = draw.random(2000)
    truth, patients = draw.random(2000) < p, np.arange(2000)
    text = decision_sentence(decision_curve(p, truth, patients), 0.5)
    assert re.match(
        r"The model is shown to be better than treating all and treating none at thresholds of 0\.\d\d to", text
    )
    assert "At the label's threshold (0.50), the net benefit is 0.25, and 0.0" in text
    useless = decision_sentence(decision_curve(np.full(2000, 0.5), truth, patients), 0.001)
    assert useless.startswith(
        "The model is not shown to be better than both treating all and treating none at any threshold"
    )
    assert "At the label's threshold (0.01)" in useless


def test_without_regions_the_reliance_map_speaks():
    label = {"regions": {}, "properties": {}, "reliance_map": {"sentence": "Each cell."}}
    (found,) = answers(SimpleNamespace(audit={"labels": {"Nodule": label}}))
    assert (found.headline, found.sentence, found.tone) == (
        "No region was declared; reliance on a property is not shown",
        "Each cell.",
        "open",
    )
    (found,) = answers(SimpleNamespace(audit={"labels": {"Nodule": label | {"reliance_map": None}}}))
    assert found.sentence == ""


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [((NOT_SHOWN, NONE), "no shortcut is shown"), ((NONE, NONE), "every shortcut tested is ruled")],
)
def test_without_a_disease_region_the_headline_names_none(verdicts, words):
    made = answer(*verdicts)
    shortcuts = [dataclasses.replace(chip, role="shortcut") for chip in made.chips]
    headline, tone = _headline(shortcuts)
    assert (tone, "Neither" in headline) == ("open", False)
    assert words in headline
    assert "no disease region was declared" in headline


def test_heat_maps_of_an_undecided_study_say_where_to_look_and_give_no_verdict():
    def entry(low, high, *nulls):
        heat = {"enrichment": {"low": low, "high": high, "estimate": (low + high) / 2}, "nulls": {"n": nulls}}
        return {"verdict": NOT_SHOWN, "heat": heat}

    audit = {
        "labels": {
            "A": {"regions": {"border:0.10": entry(2.0, 3.0, 1.2, None), "mask:label": entry(0.5, 1.5, 1.0)}},
            "B": {"regions": {"border:0.10": entry(0.8, 1.2, 1.0), "mask:label": entry(5.0, 9.0, 6.0)}},
            "C": {"regions": {"border:0.10": entry(1.1, 2.2, 1.2), "mask:label": {"verdict": NOT_SHOWN, "heat": None}}},
        }
    }
    said = heat_sentence("A", audit)
    assert said.startswith("The heat maps of A have 2.50 (2.00 to 3.00) times the heat of a uniform map in border")
    assert said.endswith("more than null maps and those of B.")
    assert "in the finding itself" in heat_sentence("B", audit) or "border" not in heat_sentence("B", audit)
    assert heat_sentence("C", audit) == ""
