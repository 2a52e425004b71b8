"""Exchange acquisition properties between cases in an audit, and measure the change of the log-odds.

A property is exchanged twice: with a donor who has the other label, and with a donor who has the same label but lies on
the other side of the cohort's median. The sham uses a donor who does not differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.stats import rankdata

from camscope.acquisition import PROPERTIES
from camscope.acquisition.property import Trait, reduced, resized, without
from camscope.array_types import Floats, Mask
from camscope.audit.interventions import Edit
from camscope.audit.measures import score_for
from camscope.audit.samples import PatchDonors
from camscope.audit.settings import FEWEST
from camscope.cohort.case import Case
from camscope.cohort.runner import case_bytes
from camscope.images import read
from camscope.images.picture import Picture
from camscope.models.preprocess import Preprocess
from camscope.prefetch import prefetch
from camscope.statistics.auc import auc_interval

PREFIX = "property:"
_SIDE = 256
_GROUPS = 6
_COVERED = 0.8
_THREADS = 4


@dataclass(frozen=True)
class PropertyCase:
    """A case that takes part in exchanges of properties, as recipient and as donor."""

    case: Case
    truth: bool


@dataclass(frozen=True)
class PropertyValues:
    """One property of the cases of a label.

    Attributes:
        traits: case number -> measured trait.
        values: case number -> one number, by which the cases are ordered.
        high: case number -> whether the value is in the upper half of the cohort; empty if all values are equal.
    """

    traits: Mapping[int, Trait]
    values: Mapping[int, float]
    high: Mapping[int, bool]


class CasePictures(NamedTuple):
    """The image of a case, and the reduced image in which most properties are measured and set."""

    full: Picture
    small: Picture

    def of(self, name: str) -> Picture:
        """Return the version in which a property is measured and set."""
        return self.full if PROPERTIES[name].full_size else self.small


@dataclass
class TraitReader:
    """Measure the properties of cases, each case once.

    A property that a disease can change is measured outside the disease region. In a case without the disease, the
    disease region of another case is left out, so that the two kinds of cases do not differ in the measured area.

    Args:
        names: names of the properties.
        side: images are reduced until their longer side is below twice this length; at least the longest side of the
            models' inputs.
        disease: (case, image) -> disease region (H, W), or None if the case has none or it is unknown; None for a
            cohort without known disease regions.
    """

    names: Sequence[str]
    side: int
    disease: Callable[[Case, Picture], Mask | None] | None = None
    _traits: dict[int, Mapping[str, Trait]] = field(default_factory=dict)
    _regions: dict[int, Mask | None] = field(default_factory=dict)

    def pictures(self, case: Case) -> CasePictures:
        """Read a case."""
        picture = read(case.source)
        return CasePictures(picture, reduced(picture, self.side))

    def values(self, cases: Sequence[Case], *, progress: Callable[[int], None]) -> dict[str, PropertyValues]:
        """Return the properties of cases; progress is called with the number of cases done."""
        unread = [case for case in cases if case.number not in self._traits]
        with ThreadPoolExecutor(_THREADS) as pool:
            if self.disease is not None:
                regions = prefetch(pool, self._region, unread, depth=2 * _THREADS, weigh=case_bytes)
                self._regions |= {case.number: region for case, region in zip(unread, regions, strict=True)}
            measured = prefetch(pool, self._measured, unread, depth=2 * _THREADS, weigh=case_bytes)
            for done, (case, traits) in enumerate(zip(unread, measured, strict=True), 1):
                self._traits[case.number] = traits
                progress(len(cases) - len(unread) + done)
        numbers = [case.number for case in cases]
        return {name: _values(name, {number: self._traits[number][name] for number in numbers}) for name in self.names}

    def knows_disease(self, case: Case) -> bool:
        """Return whether the properties of a case were measured outside its own disease region."""
        return self._regions.get(case.number) is not None

    def _region(self, case: Case) -> Mask | None:
        """Return the disease region on 256 x 256 pixels; None if unknown, empty, or 80 % of the image or more."""
        assert self.disease is not None
        region = self.disease(case, read(case.source))
        if region is None or not 0 < region.mean() < _COVERED:
            return None
        return resized(region.astype(np.float32), (_SIDE, _SIDE)) > 0

    def _measured(self, case: Case) -> Mapping[str, Trait]:
        pictures = self.pictures(case)
        lenders = [number for number, region in self._regions.items() if region is not None]
        lender = case.number if self.knows_disease(case) else lenders[case.number % len(lenders)] if lenders else None
        region = None if lender is None else self._regions[lender]
        healthy = small = pictures.small
        if region is not None:
            healthy = without(small, resized(region.astype(np.float32), small.size) > 0.5)
        items = [PROPERTIES[name] for name in self.names]
        return {
            item.name: item.measure(healthy if item.varies_with_disease else pictures.of(item.name)) for item in items
        }


def _values(name: str, measured: Mapping[int, Trait]) -> PropertyValues:
    traits, values = PROPERTIES[name].compare(list(measured.values()))
    high = upper_side(values)
    return PropertyValues(
        dict(zip(measured, traits, strict=True)),
        dict(zip(measured, values.tolist(), strict=True)),
        {} if high is None else dict(zip(measured, high.tolist(), strict=True)),
    )


def upper_side(values: Floats) -> Mask | None:
    """Return which values are in the upper half; None if all values are equal.

    The upper half is above the median, or at least the median if this divides the values more evenly.

    >>> upper_side(np.array([0.0, 0.0, 0.0, 1.0])).tolist()
    [False, False, False, True]
    """
    if np.ptp(values) <= 1e-6 * max(1.0, float(np.abs(values).max())):
        return None
    median = np.median(values)
    sides: list[Mask] = [values > median, values >= median]
    return min(sides, key=lambda side: abs(float(side.mean()) - 0.5))


def property_edits(
    recipients: Iterable[PropertyCase],
    properties: Mapping[str, PropertyValues],
    *,
    donors: PatchDonors[PropertyCase],
    reader: TraitReader,
    preprocess: Preprocess,
) -> Iterator[tuple[int, str, Edit]]:
    """Yield every edited input.

    Args:
        recipients: the cases whose images are edited.
        properties: property name -> values of recipients and donors; a property with equal values is not exchanged.
        donors: the cases whose properties are used.
        reader: the reader that measured the properties.
        preprocess: the preprocessing of the model.

    Yields:
        The case number, "property:NAME", and the edit.
    """
    for recipient in recipients:
        pictures = reader.pictures(recipient.case)
        for name, values in properties.items():
            for by, other, same in _lenders(recipient, name, values, donors) if values.high else ():
                trait = values.traits[recipient.case.number]
                region, sham = (
                    preprocess(PROPERTIES[name].set(pictures.of(name), trait, values.traits[donor.case.number]))[
                        0
                    ].numpy()
                    for donor in (other, same)
                )
                yield recipient.case.number, PREFIX + name, Edit("exchange", by, "donor 1", region, sham)


def _lenders(
    recipient: PropertyCase, name: str, values: PropertyValues, donors: PatchDonors[PropertyCase]
) -> Iterator[tuple[str, PropertyCase, PropertyCase]]:
    """Yield the kind of difference ("label" or "property:NAME"), a donor who differs, and a donor who does not."""
    truth, high = recipient.truth, values.high

    def differs(donor: PropertyCase, *, by: str) -> bool:
        if by == "label":
            return donor.truth != truth
        return donor.truth == truth and high[donor.case.number] != high[recipient.case.number]

    def equals(donor: PropertyCase, *, by: str) -> bool:
        return donor.truth == truth and (by == "label" or high[donor.case.number] == high[recipient.case.number])

    for by in ("label", PREFIX + name):
        role = (name, by, truth, None if by == "label" else high[recipient.case.number])
        other = donors.pick(recipient, partial(differs, by=by), role=("other", *role))
        same = donors.pick(recipient, partial(equals, by=by), role=("same", *role))
        if other is not None and same is not None:
            yield by, other, same


def with_properties(rows: pl.DataFrame, properties: Mapping[str, PropertyValues]) -> pl.DataFrame:
    """Return rows with a column "property:NAME" per property: whether a case is in the upper half; null if unknown."""
    columns = [
        pl.Series(PREFIX + name, [values.high.get(case) for case in rows["case"].to_list()], pl.Boolean)
        for name, values in properties.items()
    ]
    return rows.with_columns(columns)


def property_facts(rows: pl.DataFrame, name: str, values: PropertyValues) -> dict[str, Any]:
    """Compute the associations of a property with label, groups and score, without any intervention.

    Args:
        rows: one row per case of the label.
        name: name of the property.
        values: values of the cases.

    Returns:
        "value" ("low", "median" and "high", the 5 %, 50 % and 95 % quantile), "label" (AUC of the value for the label),
        "groups" (group -> AUC of the value for the group), "score" (stratum -> AUC of the log-odds for the upper half).
    """
    measured_rows = rows.filter(pl.col("case").is_in(list(values.values)))
    numbers = np.array([values.values[case] for case in measured_rows["case"].to_list()])
    ranks = rankdata(numbers)  # an AUC takes values that differ by 1e-6 as ties: those of a network do by rounding
    patients, truth = measured_rows["patient"].to_list(), measured_rows["truth"].to_numpy().astype(bool)
    groups = measured_rows["group"].value_counts(sort=True)["group"].to_list()[:_GROUPS]
    return {
        "value": dict(zip(("low", "median", "high"), np.quantile(numbers, [0.05, 0.5, 0.95]).tolist(), strict=True)),
        "label": auc_interval(ranks, truth, patients=patients),
        "groups": {
            group: auc_interval(ranks, (measured_rows["group"] == group).to_numpy(), patients=patients)
            for group in (groups if len(groups) > 2 else groups[1:])
        },
        "score": score_for(measured_rows, PREFIX + name) if values.high else {},
    }


def property_direction(facts: Mapping[str, Any]) -> int:
    """Return the sign of the association of a property with the label, 0 if it is not significant.

    Args:
        facts: the result of `property_facts`.
    """
    auc = facts["label"]
    return 1 if auc.low > 0.5 else -1 if auc.high < 0.5 else 0


def untestable_property(values: PropertyValues) -> str:
    """Return the reason why no stratum of a property could be tested."""
    if not values.high:
        return "it is the same in all images"
    return f"fewer than {FEWEST} patients with and without the label have a donor who differs"


def property_cases(cases: Iterable[Case], label: str) -> list[PropertyCase]:
    """Return the cases with known truth."""
    return [PropertyCase(case, bool(case.truth[label])) for case in cases if case.truth[label] is not None]
