from __future__ import annotations

from types import SimpleNamespace

import pytest

from camscope.report.words import answers, region_words

NOT_SHOWN, NONE, RELIES, UNTESTED = "NOT SHOWN", "EQUIVALENT TO NONE", "RELIES", "NOT TESTABLE"


def answer(disease, *shortcuts, p_equivalence=0.9):
    def region(role, verdict, n):
        effect = {
            "test": "remove",
            "effect": {"estimate": 0.3, "low": 0.2, "high": 0.4},
            "p_adjusted": 0.0001,
            "patients": 9,
            "p_equivalence": p_equivalence,
            "smallest_delta": 0.42 + n,
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
            "Relies on the disease region, and responds to a shortcut, whose use is not shown: cue “1”",
        ),
        ((NOT_SHOWN, "RESPONDS", NONE), "open", "Responds to a shortcut, whose use is not shown: cue “1”"),
        ((NONE, "RESPONDS", RELIES), "bad", "Relies on a shortcut: cue “2”"),
        ((NOT_SHOWN, NOT_SHOWN), "open", "Neither the disease region nor a shortcut is shown"),
        ((NOT_SHOWN, NONE), "open", "Neither the disease region nor a shortcut is shown"),
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


def test_what_is_not_shown_says_how_much_remains_possible():
    shown, open_one = answer(RELIES, NOT_SHOWN).chips
    assert (shown.beyond, open_one.beyond) == ("", "up to 1.42 SD")
    assert (shown.p, shown.effect) == ("< .001", "0.30 (0.20 to 0.40)")


def test_regions_have_words():
    assert region_words("outside:lung") == "outside “lung”"
    assert region_words("border:lots") == "border lots"


def test_where_every_mean_is_small_the_limit_is_that_of_single_changes():
    (_, chip) = answer(RELIES, NOT_SHOWN, p_equivalence=0.01).chips
    assert chip.beyond == "up to 1.71 SD"
