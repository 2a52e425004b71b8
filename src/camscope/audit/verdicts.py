"""Decide the verdict on one region from the effects of its interventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from camscope.acquisition import PROPERTIES
from camscope.audit.disease import Doubt
from camscope.audit.evidence import Alignments, Effect, Heat, Response
from camscope.audit.interventions import SAME_PLACE
from camscope.audit.sentences import (
    goes_with,
    has_no_effect,
    is_artefact,
    is_not_shown,
    relies,
    responds,
    responds_confounded,
    responds_in_single_cases,
    responds_little,
)
from camscope.audit.settings import LEVEL
from camscope.statistics.intervals import Interval

Verdict = Literal[
    "RELIES",
    "RESPONDS",
    "ARTEFACT-CONSISTENT",
    "EQUIVALENT TO NONE",
    "NOT SHOWN",
    "NOT TESTABLE",
]
Role = Literal["disease", "shortcut", "property"]


@dataclass(frozen=True)
class Judgement:
    """The verdict on one label and region, with its reason.

    Attributes:
        verdict: the verdict.
        reason: one sentence.
        effect: the effect that the sentence states; None if it states none.
    """

    verdict: Verdict
    reason: str
    effect: Effect | None = None


def judge(
    label: str,
    region: str,
    role: Role,
    *,
    effects: Sequence[Effect],
    heat: Heat | None,
    alignments: Alignments,
    responses: Sequence[Response] = (),
    untestable: str,
    delta: float,
    untested: Sequence[str] = (),
    doubt: Doubt = "",
    by_cue: Mapping[str, Interval] | None = None,
) -> Judgement:
    """Return the verdict on a region.

    The first verdict that applies is returned, in this order: NOT TESTABLE, RELIES, RESPONDS, ARTEFACT-CONSISTENT,
    EQUIVALENT TO NONE, NOT SHOWN. Heat maps alone never lead to RELIES.

    Args:
        label: the label.
        region: the region, or "property:NAME".
        role: "disease" for a region that the model should use, "shortcut" for one that it should not use, or
            "property" for a property of the acquisition.
        effects: the effects in all testable strata, with adjusted p-values.
        heat: the heat of the maps in the region; None if there are no maps, or if the disease may lie in the region.
        alignments: the tests whether the region helps to separate the classes.
        responses: the changes of single cases by swapping the region or blurring it out, with adjusted p-values.
        untestable: the reason why no stratum could be tested; "" if one could.
        delta: the smallest effect that matters, in SD of the log-odds.
        untested: the strata that have the region, but too few patients for a test.
        doubt: whether the disease itself may have changed the property, or may lie in the region. Of "disease", and of
            "tissue" unless the same place of other patients was compared, the verdict is at most RESPONDS, except for a
            region with the same effect in cases without the label. Of "unseen", the sentence says so.
        by_cue: for a cue that cannot be edited, "present" and "absent" -> AUC of the log-odds for the cue in unedited
            images.

    Returns:
        The verdict, with one sentence that explains it.
    """
    removals = [effect for effect in effects if effect.test != "insert"]
    if role == "property":
        region = PROPERTIES[region.partition(":")[2]].noun
    if not removals:
        return _of_unedited(label, region, by_cue or {}, alignments, untestable)
    inserted = [e for e in effects if e.test == "insert" and e.beyond(delta) and e.p < LEVEL]
    strong = sorted((e for e in removals if e.is_strong(delta)), key=lambda e: -abs(e.effect.estimate))
    confirmed = next(filter(alignments.confirm, strong), None)
    if confirmed is not None and (doubt == "disease" or (doubt == "tissue" and SAME_PLACE not in confirmed.by_fill)):
        free = next((e for e in strong if _is_free_of_disease(e) and alignments.confirm(e)), None)
        if role == "property" or free is None or free.effect.estimate * confirmed.effect.estimate < 0:
            return Judgement("RESPONDS", responds_confounded(label, region, role, confirmed, alignments), confirmed)
        confirmed = free
    if confirmed is not None:
        sentence = relies(label, region, role, confirmed, alignments, unseen=doubt == "unseen")
        return Judgement("RELIES", sentence, confirmed)
    return _without_conviction(
        label,
        region,
        strong,
        removals,
        inserted=inserted,
        responses=responses,
        heat=heat,
        alignments=alignments,
        untested=untested,
        delta=delta,
    )


def _is_free_of_disease(effect: Effect) -> bool:
    """Return whether no disease takes part in an effect: in an exchange by the label, donors with it bring theirs."""
    return effect.stratum == "absent" and effect.by != "label"


def _without_conviction(
    label: str,
    region: str,
    strong: Sequence[Effect],
    removals: Sequence[Effect],
    *,
    inserted: Sequence[Effect],
    responses: Sequence[Response],
    heat: Heat | None,
    alignments: Alignments,
    untested: Sequence[str],
    delta: float,
) -> Judgement:
    """Return the verdict on a region whose use for the decision is not shown."""
    spread = max((e for e in removals if e.spreads(delta)), key=lambda e: e.spread.estimate, default=None)
    if strong or spread is not None:
        return Judgement("RESPONDS", responds(label, region, strong, spread, alignments), [*strong, spread][0])
    small = (e for e in removals if not e.beyond(delta) and e.p_adjusted < LEVEL and e.agree and not e.is_of_sham(0.0))
    helps = next(filter(alignments.confirm, small), None)
    if helps is not None:
        return Judgement("RESPONDS", responds_little(label, region, helps, alignments), helps)
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    swaps = [response for response in responses if response.test == "swap"]
    strata = {response.stratum for response in swaps}
    if strata == {"present", "absent"} and all(response.is_large(delta) for response in swaps):
        return Judgement("RESPONDS", responds_in_single_cases(label, region, swaps))
    none = all(effect.is_none(delta) for effect in removals) and not inserted
    none = none and not untested and all(response.is_none(delta) for response in responses)
    if none and heat is not None and heat.looks and (not heat.beyond_nulls or heat.stays_at_the_frame):
        return Judgement("ARTEFACT-CONSISTENT", is_artefact(label, region, heat, largest), largest)
    if none:
        return Judgement("EQUIVALENT TO NONE", has_no_effect(label, region, removals, delta), largest)
    sentence = is_not_shown(label, region, removals, inserted, responses, untested, delta)
    return Judgement("NOT SHOWN", sentence, largest)


def _of_unedited(
    label: str, region: str, by_cue: Mapping[str, Interval], alignments: Alignments, untestable: str
) -> Judgement:
    """Return the verdict on a region of which no edit was possible."""
    if not by_cue or alignments.unedited is None:
        return Judgement("NOT TESTABLE", f"Whether the {label} model uses {region} cannot be tested: {untestable}.")
    aucs = by_cue.values()
    apart = all(interval.low > 0.5 for interval in aucs) or all(interval.high < 0.5 for interval in aucs)
    shown = apart and alignments.unedited.is_reliance
    sentence = goes_with(label, region, by_cue, alignments.unedited, shown=shown, untestable=untestable)
    return Judgement("RESPONDS" if shown else "NOT SHOWN", sentence)
