"""From effects to verdicts: what an intervention shows of one region, and what may be said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from camscope.audit.settings import ALIGNED, CEILING, LEVEL
from camscope.statistics.intervals import UNKNOWN, Interval

Verdict = Literal[
    "RELIES",
    "RESPONDS",
    "ARTEFACT-CONSISTENT",
    "EQUIVALENT TO NONE",
    "NOT SHOWN",
    "NOT TESTABLE",
]
Role = Literal["disease", "shortcut"]


@dataclass(frozen=True)
class Effect:
    """The effect of changing a region on the log-odds, in one stratum of one label.

    Attributes:
        stratum: "present" or "absent" cases of the label.
        test: "remove", "exchange" or "insert".
        cases: that were changed.
        patients: whose they are.
        sd: standard deviation of the clean log-odds over patient means in the stratum, the unit of what follows.
        effect: mean over patients of (change - sham change), with its interval; of an exchange by a cue, of the region
            without the cue minus with it.
        sham: mean change by the sham alone.
        by_fill: the effect of each fill-in or donor.
        p: of the sign-flip test.
        p_adjusted: by Holm over all labels, regions, strata and tests of the study.
        p_equivalence: of the two one-sided tests against delta.
        smallest_delta: at which these would pass.
        by: what differs between the donors of an exchange: "label", or a cue such as "cue:token".
        spread: mean over patients of (absolute change - absolute sham change): it sees opposite changes, which cancel
            in the effect.
        p_spread: of its sign-flip test, adjusted by Holm over all of them.
        detectable: the smallest mean effect that one test of it alone shows with a power of 80 %.
    """

    stratum: str
    test: str
    cases: int
    patients: int
    sd: float
    effect: Interval
    sham: float
    by_fill: Mapping[str, Interval]
    p: float
    p_equivalence: float
    smallest_delta: float
    p_adjusted: float = float("nan")
    by: str = ""
    spread: Interval = UNKNOWN
    p_spread: float = float("nan")
    detectable: float = float("nan")

    def beyond(self, delta: float) -> bool:
        """Return whether the whole interval lies outside -delta to delta."""
        return self.effect.low > delta or self.effect.high < -delta

    def is_strong(self, delta: float) -> bool:
        """Return whether the mean effect is beyond delta, significant, and the same for every fill-in."""
        return self.beyond(delta) and self.p_adjusted < LEVEL and self.agree

    def spreads(self, delta: float) -> bool:
        """Return whether single changes are larger than those by the sham, whatever their mean."""
        return self.spread.low > delta and self.p_spread < LEVEL

    def is_none(self, delta: float) -> bool:
        """Return whether neither the mean nor the single changes can be as large as delta."""
        return self.p_equivalence < LEVEL and self.spread.high < delta

    @property
    def agree(self) -> bool:
        """Return whether every fill-in has an effect of the same sign, with an interval that excludes 0."""
        return all(
            np.sign(one.estimate) == np.sign(self.effect.estimate) and (one.low > 0 or one.high < 0)
            for one in self.by_fill.values()
        )


@dataclass(frozen=True)
class Alignment:
    """AUC of the score where a region agrees with the label, is absent, or disagrees (T4).

    Attributes:
        aligned: AUC where the region is as the label would have it: the cue is there exactly when the label is.
        absent: AUC without the cue; NaN for a region that is no cue.
        anti: AUC where the region is as the label would not have it.
        reliance: aligned minus anti, the reliance index.
        share: (S_aligned - S_anti) / (S_aligned + S_anti), S the difference of the mean log-odds of the classes: the
            share of their separation that the region carries; NaN for sets of different cases.
        flips: share of the cases whose prediction differs between the two sets.
        how: "" for unedited pictures; "remove" or what differs between the donors for sets of edited ones.
    """

    aligned: Interval
    absent: Interval
    anti: Interval
    reliance: Interval
    share: Interval = UNKNOWN
    flips: float = float("nan")
    how: str = ""

    @property
    def at_ceiling(self) -> bool:
        """Return whether the aligned AUC is so high that a difference of AUC says little."""
        return self.aligned.estimate > CEILING

    @property
    def is_reliance(self) -> bool:
        """Return whether the region helps to tell the label, by the index or, at the ceiling, by the share."""
        return self.reliance.low > ALIGNED or (self.at_ceiling and self.share.low > ALIGNED)


@dataclass(frozen=True)
class Heat:
    """How much of the maps of present and predicted cases lies in a region.

    Attributes:
        cases: with a map and the region.
        patients: whose they are.
        area: mean share of the picture.
        mass: mean share of the map's positive sum.
        enrichment: mass over area, with its interval.
        peak: share of maps whose maximum lies inside.
        nulls: name of a null -> its enrichments.
        frame: enrichment of the tensor's own border when the picture is framed; NaN where not asked.
        content: enrichment of the picture's border then.
        norm_map: enrichment of the length of the activations, whatever the class.
        frozen_norm: enrichment of frozen-norm CAM; NaN where the head has no layer norm.
    """

    cases: int
    patients: int
    area: float
    mass: float
    enrichment: Interval
    peak: float
    nulls: Mapping[str, Sequence[float]] = field(default_factory=dict)
    frame: float = float("nan")
    content: float = float("nan")
    norm_map: float = float("nan")
    frozen_norm: float = float("nan")

    @property
    def looks(self) -> bool:
        """Return whether the maps prefer the region: the interval lies above 1."""
        return self.enrichment.low > 1

    @property
    def beyond_nulls(self) -> bool:
        """Return whether the interval lies above every enrichment that knows nothing."""
        known = [value for values in self.nulls.values() for value in values if not np.isnan(value)]
        return bool(known) and self.enrichment.low > max(known)

    @property
    def stays_at_the_frame(self) -> bool:
        """Return whether heat keeps to the tensor's border when the picture's border moves away from it."""
        return self.frame > max(self.content, 1.0)


@dataclass(frozen=True)
class Judgement:
    """The verdict on one label and region, and why."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Alignments:
    """The evidence that one region is used to tell the label.

    Attributes:
        edited: (test, by) -> the counterfactual alignment.
        missing: (test, by) -> why there is none.
        unedited: of a cue, from unedited pictures, where its cells have enough patients.
    """

    edited: Mapping[tuple[str, str], Alignment] = field(default_factory=dict)
    missing: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unedited: Alignment | None = None

    def of(self, effect: Effect) -> Alignment | None:
        """Return the alignment by the same intervention as an effect."""
        return self.edited.get((effect.test, effect.by))

    def confirm(self, effect: Effect) -> bool:
        """Return whether what changes the log-odds also helps to tell the label."""
        edited = self.of(effect)
        return edited is not None and edited.is_reliance and not self.unedited_denies

    @property
    def unedited_denies(self) -> bool:
        """Return whether the unedited pictures can show reliance, and do not."""
        return self.unedited is not None and not self.unedited.at_ceiling and not self.unedited.is_reliance


def judge(
    label: str,
    region: str,
    role: Role,
    *,
    effects: Sequence[Effect],
    heat: Heat | None,
    alignments: Alignments,
    untestable: str,
    delta: float,
) -> Judgement:
    """Decide what may be said about a region. Heat alone never yields RELIES.

    The order of the tests is: not testable, relies, responds, artefact-consistent, equivalent to none, not shown.

    Args:
        label: the label.
        region: the region.
        role: whether looking there is right ("disease") or a shortcut.
        effects: of the strata that could be tested, adjusted.
        heat: what the maps show there.
        alignments: whether the region helps to tell the label.
        untestable: why nothing could be tested; "" where something could.
        delta: what counts as no effect, in SD of the log-odds.

    Returns:
        The verdict with one plain sentence.
    """
    removals = [effect for effect in effects if effect.test != "insert"]
    if not removals:
        return Judgement("NOT TESTABLE", f"Whether the {label} model uses {region} cannot be tested: {untestable}.")
    strong = sorted((e for e in removals if e.is_strong(delta)), key=lambda e: -abs(e.effect.estimate))
    confirmed = next(filter(alignments.confirm, strong), None)
    if confirmed is not None:
        return Judgement("RELIES", _relies(label, region, role, confirmed, alignments))
    spread = max((e for e in removals if e.spreads(delta)), key=lambda e: e.spread.estimate, default=None)
    if strong or spread is not None:
        return Judgement("RESPONDS", _responds(label, region, strong, spread, alignments))
    none = all(effect.is_none(delta) for effect in removals)
    if none and heat is not None and heat.looks and (not heat.beyond_nulls or heat.stays_at_the_frame):
        return Judgement("ARTEFACT-CONSISTENT", _artefact(label, region, heat, removals))
    if none:
        return Judgement("EQUIVALENT TO NONE", _none(label, region, removals, delta))
    inserted = [e for e in effects if e.test == "insert" and e.beyond(delta) and e.p < LEVEL]
    return Judgement("NOT SHOWN", _not_shown(label, region, removals, inserted))


def _relies(label: str, region: str, role: Role, effect: Effect, alignments: Alignments) -> str:
    news = ", where the disease is" if role == "disease" else ", a shortcut"
    text = f"The {label} model relies on {region}{news}: {_effect(effect)}"
    if alignments.unedited is not None and alignments.unedited.is_reliance:
        return f"{text}; {_aligned(alignments.unedited, region)}."
    edited = alignments.of(effect)
    return f"{text}; {_aligned(edited, region)}." if edited is not None else f"{text}."


def _responds(label: str, region: str, strong: Sequence[Effect], spread: Effect | None, alignments: Alignments) -> str:
    if strong:
        text, edited = _effect(strong[0]), alignments.of(strong[0])
        if edited is None:
            missing = alignments.missing.get((strong[0].test, strong[0].by), "it was not computed")
            why = f"whether this serves to tell the label could not be tested ({missing})"
        elif not edited.is_reliance:
            why = f"this is not shown to serve to tell the label: {_aligned(edited, region)}"
        else:  # the unedited images deny it
            assert alignments.unedited is not None
            known = _aligned(alignments.unedited, region)
            why = f"unedited images do not show that this serves to tell the label: {known}"
        return f"The {label} model responds to {region}: {text}, but {why}."
    assert spread is not None
    size = f"{spread.spread.estimate:.2f} SD ({_interval(spread.spread)}"
    return (
        f"The {label} model responds to {region}: {_DONE[spread.test]} changes the log-odds of single cases by {size}; "
        f"label {spread.stratum}, adjusted p {_p(spread.p_spread)}) more than a sham does, but the changes cancel on "
        "average, and whether this serves to tell the label is not shown."
    )


def _aligned(alignment: Alignment, region: str) -> str:
    """Return the alignment in words."""
    if alignment.how == "label":
        sets = "with the region of patients with the same label", "with that of patients with the other label"
    elif alignment.how.startswith("cue:"):
        sets = f"with the region of patients whose {alignment.how} agrees with the label", "with that of the others"
    elif alignment.how == "remove" and not region.startswith("cue:"):
        sets = "with the region", "without it"
    else:
        edited = " (cues were removed from images or inserted)" if alignment.how else ""
        sets = "where the cue agrees with the label", f"where it disagrees{edited}"
    text = f"the AUC is {alignment.aligned.estimate:.2f} {sets[0]} and {alignment.anti.estimate:.2f} {sets[1]}"
    if alignment.at_ceiling and not np.isnan(alignment.share.estimate) and not alignment.reliance.low > ALIGNED:
        text += (
            f"; the region carries {alignment.share.estimate:.0%} of the separation of the classes "
            f"(95 % confidence interval {alignment.share.low:.0%} to {alignment.share.high:.0%}) and flips "
            f"{alignment.flips:.0%} of the predictions"
        )
    return text


def _artefact(label: str, region: str, heat: Heat, removals: Sequence[Effect]) -> str:
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    why = (
        "stays at the frame of the input when the picture moves inwards"
        if heat.stays_at_the_frame
        else "is no more than null maps have there"
    )
    return (
        f"The {label} model's maps favour {region} ({heat.enrichment.estimate:.2f} times its share of the picture), "
        f"but that {why}, and {_effect(largest)}: the heat is an artefact."
    )


def _none(label: str, region: str, removals: Sequence[Effect], delta: float) -> str:
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    return (
        f"The {label} model does not use {region}: {_effect(largest)}, and in every stratum tested a mean effect of "
        f"{delta:g} SD is excluded."
    )


def _not_shown(label: str, region: str, removals: Sequence[Effect], inserted: Sequence[Effect]) -> str:
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    limit = max(effect.smallest_delta for effect in removals)
    remark = f" Inserting it where it is absent changes the log-odds ({_effect(inserted[0])})." if inserted else ""
    if largest.p_adjusted < LEVEL and not largest.agree:
        why = "but the fill-ins do not agree"
    elif all(effect.p_equivalence < LEVEL for effect in removals):
        single = max(effect.spread.high for effect in removals)
        why = f"a mean that is shown to be small, but changes of single cases by {single:.2f} SD cannot be excluded"
    else:
        why = f"and a mean effect of up to {limit:.2f} SD cannot be excluded"
    return f"Whether the {label} model relies on {region} is not shown: {_effect(largest)}, {why}.{remark}"


_DONE = {"remove": "removing it", "exchange": "replacing it by that of another patient", "insert": "inserting it"}


def _effect(effect: Effect) -> str:
    what = _DONE[effect.test]
    if effect.test == "exchange":
        what = (
            "replacing it by that of a patient with the other label"
            if effect.by == "label"
            else f"replacing it by that of a patient without {effect.by} rather than of one with it"
        )
    size = effect.effect.estimate
    p = "" if np.isnan(effect.p_adjusted) else f", adjusted p {_p(effect.p_adjusted)}"
    return (
        f"{what} changes the log-odds by {size:.2f} SD on average ({_interval(effect.effect)}; {effect.patients} "
        f"patients, label {effect.stratum}{p})"
    )


def _interval(interval: Interval) -> str:
    return f"95 % confidence interval {interval.low:.2f} to {interval.high:.2f}"


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".", 1)
