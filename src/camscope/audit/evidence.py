"""The evidence on one region: effects of interventions, alignment with the label, and heat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from camscope.audit.settings import ALIGNED, CEILING, LEVEL
from camscope.statistics.intervals import UNKNOWN, Interval


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
        by: what differs between the donors of an exchange: "label", or a column such as "cue:token" or
            "property:contrast".
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
            np.sign(effect.estimate) == np.sign(self.effect.estimate) and (effect.low > 0 or effect.high < 0)
            for effect in self.by_fill.values()
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
            share of their separation that the region carries.
        flips: share of the cases whose prediction differs between the two sets; NaN for sets of different cases.
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
        """Return whether the unedited pictures can show reliance, and do not.

        At the ceiling, where the index has no room, the region must carry some share of the separation there.
        """
        if self.unedited is None or self.unedited.is_reliance:
            return False
        return not (self.unedited.at_ceiling and self.unedited.share.low > 0)
