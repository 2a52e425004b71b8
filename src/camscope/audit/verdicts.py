"""From effects to verdicts: what an intervention shows of one region, and what may be said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from camscope.statistics.intervals import Interval

Verdict = Literal[
    "RELIES",
    "EQUIVALENT TO NONE",
    "NOT SHOWN",
    "SENSITIVE, OUT OF DISTRIBUTION",
    "ARTEFACT-CONSISTENT",
    "NOT TESTABLE",
]
Role = Literal["disease", "shortcut"]

LEVEL = 0.05
ALIGNED = 0.05
"""What the interval of the reliance index must lie above."""


@dataclass(frozen=True)
class Effect:
    """What changing a region does to the logit, in one stratum of one label.

    Attributes:
        stratum: "present" or "absent" cases of the label.
        test: "remove", "exchange" or "insert".
        cases: that were changed.
        patients: whose they are.
        sd: standard deviation of the clean logit over patient means in the stratum, the unit of what follows.
        effect: mean over patients of (change - sham change), with its interval.
        sham: mean change by the sham alone.
        by_fill: the effect of each fill-in.
        p: of the sign-flip test.
        p_adjusted: by Holm over all labels, regions and strata of the study.
        p_equivalence: of the two one-sided tests against delta.
        smallest_delta: at which these would pass.
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

    def beyond(self, delta: float) -> bool:
        """Return whether the whole interval lies outside -delta to delta."""
        return self.effect.low > delta or self.effect.high < -delta

    @property
    def agree(self) -> bool:
        """Return whether every fill-in has an effect of the same sign, with an interval that excludes 0."""
        return all(
            np.sign(one.estimate) == np.sign(self.effect.estimate) and (one.low > 0 or one.high < 0)
            for one in self.by_fill.values()
        )


@dataclass(frozen=True)
class Alignment:
    """How well the score tells the label where a cue agrees with it, is absent, or disagrees (T4).

    Attributes:
        aligned: AUC where the cue is there exactly when the label is.
        absent: AUC where the cue is not there.
        anti: AUC where the cue is there exactly when the label is not.
        reliance: aligned less anti.
        edited: whether cues were removed from pictures to fill the cells.
    """

    aligned: Interval
    absent: Interval
    anti: Interval
    reliance: Interval
    edited: bool


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


def judge(
    label: str,
    region: str,
    role: Role,
    *,
    effects: Sequence[Effect],
    heat: Heat | None,
    alignment: Alignment | None,
    untestable: str,
    delta: float,
) -> Judgement:
    """Decide what may be said about a region. Heat alone never yields RELIES.

    The order of the tests is: not testable, relies, artefact-consistent, equivalent to none, sensitive, not shown.

    Args:
        label: the label.
        region: the region.
        role: whether looking there is right ("disease") or a shortcut.
        effects: of the strata that could be tested, adjusted.
        heat: what the maps show there.
        alignment: of a cue, where it could be had.
        untestable: why nothing could be tested; "" where something could.
        delta: what counts as no effect, in SD of the logit.

    Returns:
        The verdict with one plain sentence.
    """
    removals = [effect for effect in effects if effect.test != "insert"]
    inserts = [effect for effect in effects if effect.test == "insert"]
    if not removals:
        return Judgement("NOT TESTABLE", f"Whether the {label} model uses {region} cannot be tested: {untestable}.")
    strong = [e for e in removals if e.beyond(delta) and e.p_adjusted < LEVEL and e.agree]
    if strong and (alignment is None or not alignment.reliance.low <= ALIGNED):
        best = max(strong, key=lambda effect: abs(effect.effect.estimate))
        return Judgement("RELIES", _relies(label, region, role, best, alignment))
    none = all(effect.p_equivalence < LEVEL for effect in removals)
    if none and heat is not None and heat.looks and (not heat.beyond_nulls or heat.stays_at_the_frame):
        return Judgement("ARTEFACT-CONSISTENT", _artefact(label, region, heat, removals))
    if none:
        return Judgement("EQUIVALENT TO NONE", _none(label, region, removals, delta))
    moved = [e for e in inserts if e.beyond(delta) and e.p < LEVEL]
    if moved and not strong:
        return Judgement("SENSITIVE, OUT OF DISTRIBUTION", _sensitive(label, region, moved[0]))
    return Judgement("NOT SHOWN", _not_shown(label, region, removals, strong, alignment))


def _relies(label: str, region: str, role: Role, effect: Effect, alignment: Alignment | None) -> str:
    news = ", where the disease is" if role == "disease" else ", a shortcut"
    text = f"The {label} model relies on {region}{news}: {_effect(effect)}"
    if alignment is not None:
        aligned, anti = alignment.aligned.estimate, alignment.anti.estimate
        how = " (with cues removed from pictures)" if alignment.edited else ""
        text += f"; its AUC is {aligned:.2f} where the cue agrees with the label and {anti:.2f} where it disagrees{how}"
    return text + "."


def _artefact(label: str, region: str, heat: Heat, removals: Sequence[Effect]) -> str:
    largest = max(abs(effect.effect.estimate) for effect in removals)
    why = (
        "stays at the frame of the input when the picture moves inwards"
        if heat.stays_at_the_frame
        else "is no more than null maps have there"
    )
    return (
        f"The {label} model's maps favour {region} ({heat.enrichment.estimate:.2f} times its share of the picture), "
        f"but that {why}, and changing the region changes the logit by at most {largest:.2f} SD: it is an artefact."
    )


def _none(label: str, region: str, removals: Sequence[Effect], delta: float) -> str:
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    return (
        f"The {label} model does not use {region}: {_effect(largest)}, which is shown to be smaller than {delta:g} SD."
    )


def _sensitive(label: str, region: str, effect: Effect) -> str:
    return (
        f"The score of the {label} model changes when {region} is inserted into images without it ({_effect(effect)}), "
        "but removing it where it occurs shows no reliance."
    )


def _not_shown(
    label: str, region: str, removals: Sequence[Effect], strong: Sequence[Effect], alignment: Alignment | None
) -> str:
    largest = max(removals, key=lambda effect: abs(effect.effect.estimate))
    limit = max(effect.smallest_delta for effect in removals)
    if strong and alignment is not None:
        why = f"but the reliance index ({_interval(alignment.reliance)}) does not confirm it"
    elif largest.p_adjusted >= LEVEL or np.isnan(largest.p_adjusted):
        why = f"and an effect of up to {limit:.2f} SD cannot be excluded"
    elif not largest.agree:
        why = "but the fill-ins do not agree"
    else:
        why = f"too small for reliance, and effects of up to {limit:.2f} SD cannot be excluded"
    return f"Whether the {label} model relies on {region} is not shown: {_effect(largest)}, {why}."


def _effect(effect: Effect) -> str:
    what = {
        "remove": "removing it",
        "exchange": "replacing it by that of a patient with the other label",
        "insert": "inserting it",
    }[effect.test]
    size = effect.effect.estimate
    p = "" if np.isnan(effect.p_adjusted) else f", adjusted p {_p(effect.p_adjusted)}"
    return (
        f"{what} changes the logit by {size:.2f} SD ({_interval(effect.effect)}; {effect.patients} patients, label "
        f"{effect.stratum}{p})"
    )


def _interval(interval: Interval) -> str:
    return f"95 % confidence interval {interval.low:.2f} to {interval.high:.2f}"


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".", 1)
