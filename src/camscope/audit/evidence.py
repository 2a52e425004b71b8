"""Define the evidence on one region: effects of interventions, alignment with the label, and heat."""

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
        cases: number of changed cases.
        patients: number of patients of these cases.
        sd: standard deviation of the unedited log-odds over patient means in the stratum; the unit of all effects.
        effect: mean over patients of (change - change by the sham), with its interval. For an exchange by a cue: the
            change by the region without the cue minus the change by the region with the cue.
        sham: mean change by the sham alone.
        by_fill: the effect per fill-in or donor.
        p: p-value of the sign-flip test.
        p_adjusted: p adjusted by Holm over all labels, regions, strata and tests of the study.
        p_equivalence: p-value of the two one-sided tests against delta.
        smallest_delta: the smallest delta that the two one-sided tests and the interval exclude.
        by: what differs between the donors of an exchange: "label", or a column such as "cue:token" or
            "property:contrast".
        spread: mean over patients of (absolute change - absolute change by the sham), with its interval. It includes
            opposite changes, which cancel in the effect.
        p_spread: p-value of the sign-flip test of the spread, adjusted by Holm over all spreads of the study.
        detectable: the smallest mean effect that a single test detects with a power of 80 %.
        spread_by_fill: the spread per fill-in or donor.
        own: mean over patients of the change by the region alone, with its interval.
        margin: delta is this much smaller in equivalence tests: the spread of the log-odds without patients far from
            the others, as a share of ``sd``, at most 1.
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
    spread_by_fill: Mapping[str, Interval] = field(default_factory=dict)
    own: Interval = UNKNOWN
    margin: float = 1.0

    def beyond(self, delta: float) -> bool:
        """Return whether the whole interval lies outside -delta to delta."""
        return self.effect.low > delta or self.effect.high < -delta

    def is_strong(self, delta: float) -> bool:
        """Return whether the mean effect is beyond delta, significant, by every fill-in, and the region's own.

        The effect of a removal is the change by the region less that by the sham. If the region itself changes nothing,
        the sham alone makes the effect.
        """
        return self.beyond(delta) and self.p_adjusted < LEVEL and self.agree and not self.is_of_sham(delta)

    def is_of_sham(self, delta: float) -> bool:
        """Return whether an effect of a removal is the sham's: the region alone has none beyond delta of its sign."""
        if self.test != "remove":
            return False
        return not (self.own.low > delta if self.effect.estimate > 0 else self.own.high < -delta)

    def spreads(self, delta: float) -> bool:
        """Return whether absolute changes are significantly larger than by the sham, by every fill-in."""
        return self.spread.low > delta and self.p_spread < LEVEL and self.spreads_agree

    @property
    def spreads_agree(self) -> bool:
        """Return whether absolute changes are larger than by the sham by every fill-in."""
        return all(interval.low > 0 for interval in self.spread_by_fill.values())

    def is_small(self, delta: float) -> bool:
        """Return whether a mean effect as large as delta is excluded: by the two one-sided tests and by the interval.

        The tests assume normal means. The interval, from the bootstrap, also sees that a few patients change much.
        """
        most = delta * self.margin
        return self.p_equivalence < LEVEL and -most < self.effect.low and self.effect.high < most

    def is_none(self, delta: float) -> bool:
        """Return whether a mean effect and a spread as large as delta are both excluded."""
        return self.is_small(delta) and self.spread.high < delta * self.margin

    @property
    def agree(self) -> bool:
        """Return whether every fill-in has an effect of the same sign, with an interval that excludes 0."""
        return all(
            np.sign(effect.estimate) == np.sign(self.effect.estimate) and (effect.low > 0 or effect.high < 0)
            for effect in self.by_fill.values()
        )


@dataclass(frozen=True)
class Response:
    """The changes of single cases by swapping a region with that of another patient, or by blurring it out.

    An object in the region that is as frequent with the label as without it changes single cases by a swap, but no
    mean. An object that all images have is seen by a blur alone: an exchange replaces it with itself.

    Attributes:
        stratum: "present" or "absent" cases of the label.
        test: "swap" (with the region of a patient with the same label) or "blur".
        cases: number of changed cases.
        patients: number of patients of these cases.
        change: mean absolute change of the log-odds over patients, in SD, with its interval.
        excess: the same minus the absolute change by swapping the equally large part beside the region; NaN for a blur,
            and if there is no such part.
        p: p-value of the sign-flip test of the excess, adjusted by Holm over all swaps of the study; NaN if there
            is no excess.
        margin: delta is this much smaller in equivalence tests, see `Effect`.
    """

    stratum: str
    test: str
    cases: int
    patients: int
    change: Interval
    excess: Interval = UNKNOWN
    p: float = float("nan")
    margin: float = 1.0

    def is_large(self, delta: float) -> bool:
        """Return whether the region changes single cases more than the part beside it, by more than delta."""
        return self.excess.low > delta and self.p < LEVEL

    def is_none(self, delta: float) -> bool:
        """Return whether changes of single cases as large as delta are excluded."""
        return self.change.high < delta * self.margin


@dataclass(frozen=True)
class Alignment:
    """AUC of the score with the region in agreement with the label, absent, and in disagreement (T4).

    Attributes:
        aligned: AUC with the region in agreement with the label: the cue is present exactly if the label is present.
        absent: AUC without the cue; NaN for a region that is not a cue.
        anti: AUC with the region in disagreement with the label.
        reliance: the reliance index: aligned minus anti.
        share: share of the separation of the classes that the region carries: (S_aligned - S_anti) / (S_aligned +
            S_anti), where S is the difference of the mean log-odds of the classes.
        flips: share of the cases whose prediction differs between the two sets; NaN for sets of different cases.
        how: "" for unedited images, "remove" for removals, and the ``by`` of an exchange.
        as_read: whether the cue is not associated with the label, and so points where the model reads it.
    """

    aligned: Interval
    absent: Interval
    anti: Interval
    reliance: Interval
    share: Interval = UNKNOWN
    flips: float = float("nan")
    how: str = ""
    as_read: bool = False

    @property
    def at_ceiling(self) -> bool:
        """Return whether the aligned AUC is above `CEILING`, so that differences of AUC are small."""
        return self.aligned.estimate > CEILING

    @property
    def overshoots(self) -> bool:
        """Return whether a removal takes away more than what separates the classes.

        Without the region, images with the label then score lower than those without it, by more than they scored
        higher before. Other images may have the same, such as anatomy under a mask that is drawn in some images alone.
        """
        return self.how == "remove" and self.aligned.high + self.anti.high < 1

    @property
    def is_reliance(self) -> bool:
        """Return whether the region helps to separate the classes, by the index or, at the ceiling, by the share."""
        return self.reliance.low > ALIGNED or (self.at_ceiling and self.share.low > ALIGNED)


@dataclass(frozen=True)
class Heat:
    """The heat in a region, in the maps of cases with the label that are predicted (true positives).

    Attributes:
        cases: number of cases with a map and the region.
        patients: number of patients of these cases.
        area: mean share of the image that the region covers.
        mass: mean share of the map's positive sum in the region.
        enrichment: mass over area, with its interval.
        peak: share of maps whose maximum lies in the region.
        nulls: name of a null map -> its enrichments.
        frame: enrichment of the border of the input, for images that are extended by their mirror image; NaN unless the
            region is a border.
        content: enrichment of the border of the original image, in the same maps.
        norm_map: enrichment of the norm of the activations, which does not depend on the class.
        frozen_norm: enrichment of frozen-norm CAM; NaN for heads without layer norm.
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
        """Return whether the interval of the enrichment lies above 1."""
        return self.enrichment.low > 1

    @property
    def beyond_nulls(self) -> bool:
        """Return whether the interval lies above the enrichments of all null maps."""
        enrichments = [value for values in self.nulls.values() for value in values if not np.isnan(value)]
        return bool(enrichments) and self.enrichment.low > max(enrichments)

    @property
    def stays_at_the_frame(self) -> bool:
        """Return whether heat stays at the border of the input when the border of the image is moved inwards."""
        return self.frame > max(self.content, 1.0)


@dataclass(frozen=True)
class Alignments:
    """The evidence that one region helps to separate the classes.

    Attributes:
        edited: (test, by) -> alignment from edited images.
        missing: (test, by) -> why there is no alignment from edited images.
        unedited: alignment of a cue or property from unedited images; None if a combination with the label has too few
            patients.
    """

    edited: Mapping[tuple[str, str], Alignment] = field(default_factory=dict)
    missing: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unedited: Alignment | None = None

    def of(self, effect: Effect) -> Alignment | None:
        """Return the alignment by the same intervention as an effect."""
        return self.edited.get((effect.test, effect.by))

    def confirm(self, effect: Effect) -> bool:
        """Return whether the region of an effect also helps to separate the classes."""
        edited = self.of(effect)
        return edited is not None and edited.is_reliance and not edited.overshoots and not self.unedited_denies

    @property
    def unedited_denies(self) -> bool:
        """Return whether unedited images could show reliance but do not.

        If the aligned AUC is at the ceiling, the interval of the share must lie above 0 instead.
        """
        if self.unedited is None or self.unedited.is_reliance:
            return False
        return not (self.unedited.at_ceiling and self.unedited.share.low > 0)
