"""Compute the differences of two studies: AUC, effects of interventions, and heat in regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import polars as pl

from camscope.array_types import Floats
from camscope.audit.settings import FEWEST
from camscope.statistics.hypotheses import holm, patient_index, patient_means
from camscope.statistics.paired import PairedDifference, mean_of, paired_auc, paired_difference, ratio_of
from camscope.study_comparison.matching import MatchedLabel

EDIT = ("region", "test", "by", "fill_in")


@dataclass(frozen=True)
class AucDifference:
    """The difference of the AUCs of one label.

    Attributes:
        images: number of images.
        positive: number of these images with the label.
        auc: the AUCs, and second minus first.
        p_adjusted: p adjusted by Holm over all labels.
    """

    images: int
    positive: int
    auc: PairedDifference
    p_adjusted: float = float("nan")


@dataclass(frozen=True)
class EffectDifference:
    """The difference of one effect of an intervention.

    Attributes:
        region: name of the region, or "property:NAME".
        stratum: "present" or "absent" images of the label.
        test: "remove", "exchange" or "insert".
        by: what differs between the donors of an exchange; "" for other tests.
        fill_ins: the fill-ins that both effects are the mean of; the numbers of the donors for an exchange.
        images: number of images that both audits edited in this way.
        sd: the mean effects, each in SD of its own model, and second minus first.
        log_odds: the mean effects in log-odds, and second minus first.
        scales: SD of the log-odds of the first and of the second model, over patient means in the stratum.
        p_adjusted: p of ``sd``, adjusted by Holm over all regions (or all properties), strata, tests and labels.
    """

    region: str
    stratum: str
    test: str
    by: str
    fill_ins: Sequence[str]
    images: int
    sd: PairedDifference
    log_odds: PairedDifference
    scales: tuple[float, float]
    p_adjusted: float = float("nan")


@dataclass(frozen=True)
class HeatDifference:
    """The difference of the heat in a region, over images with the label and a map in both studies.

    Attributes:
        region: name of the region.
        images: number of images.
        enrichment: share of the heat by share of the area, 1 is chance; and second minus first.
        p_adjusted: p adjusted by Holm over all regions and labels.
    """

    region: str
    images: int
    enrichment: PairedDifference
    p_adjusted: float = float("nan")


def auc_difference_of(matched: MatchedLabel) -> AucDifference:
    """Compare the AUCs of a label on the images that both studies have."""
    rows = matched.rows
    truth = rows["truth"].to_numpy().astype(bool)
    first, second = (rows[f"log_odds_{end}"].to_numpy() for end in "ab")
    return AucDifference(
        len(rows), int(truth.sum()), paired_auc(first, second, truth, patient_index(rows["patient"].to_list()))
    )


def effect_differences(
    matched: MatchedLabel, first: pl.DataFrame, second: pl.DataFrame
) -> tuple[list[EffectDifference], int]:
    """Compare every effect of a label that both audits measured.

    Args:
        matched: the rows of the label.
        first: changes of the label, from ``audit_changes.parquet`` of the first study.
        second: the same of the second study.

    Returns:
        The differences, and the number of effects that fewer than 8 patients have in both audits: they are left out.
    """
    cases = matched.rows.select("case_a", "case_b", "patient", "truth", pl.col("^differs:.*$"))
    a, b = (
        changes.filter(pl.col("effect").is_finite()).select(pl.col("case").alias(f"case_{end}"), *EDIT, "effect")
        for changes, end in ((first, "a"), (second, "b"))
    )
    edits = cases.join(a, on="case_a").join(b, on=("case_b", *EDIT), suffix="_b")
    for region in matched.masks_differ:
        edits = edits.filter((pl.col("region") != region) | ~pl.col(f"differs:{region}"))
    found, few = [], 0
    for (region, test, by, truth), group in edits.group_by("region", "test", "by", "truth", maintain_order=True):
        if group["patient"].n_unique() < FEWEST:
            few += 1
            continue
        per_case = group.group_by("case_a", "patient").agg(pl.col("effect", "effect_b").mean())
        per_patient = per_case.group_by("patient").agg(pl.col("effect", "effect_b").mean())
        stratum = matched.rows.filter(pl.col("truth") == truth)
        numbers = stratum["patient"].unique(maintain_order=True)
        scores = [patient_means(stratum[f"log_odds_{end}"].to_numpy(), stratum["patient"].to_list()) for end in "ab"]
        values = numbers.to_frame().join(per_patient, on="patient", how="left", maintain_order="left")
        effects = [values[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in ("effect", "effect_b")]
        entry = EffectDifference(
            str(region),
            "present" if truth else "absent",
            str(test),
            str(by),
            fill_ins=sorted(group["fill_in"].unique().to_list()),
            images=len(per_case),
            sd=_difference(effects, scores),
            log_odds=_difference(effects, (None, None)),
            scales=tuple(float(x.std(ddof=1)) for x in scores),  # type: ignore[arg-type]
        )
        found.append(entry)
    return found, few


def _difference(effects: Sequence[Floats], scores: Iterable[Floats | None]) -> PairedDifference:
    one, other = (mean_of(values, within=within) for values, within in zip(effects, scores, strict=True))
    return paired_difference(one, other, fewest=one.patients)


def heat_differences(matched: MatchedLabel) -> list[HeatDifference]:
    """Compare the heat in every region that both studies measured, over the images with the label and two maps."""
    found = []
    names = [name[5:-2] for name in matched.rows.columns if name.startswith("mass:") and name.endswith("_a")]
    for region in names:
        columns = [f"{what}:{region}_{end}" for end in "ab" for what in ("mass", "area")]
        rows = matched.rows.filter(pl.col("truth")).drop_nulls(columns)
        if rows["patient"].n_unique() < FEWEST:
            continue
        patients = rows["patient"].to_list()
        mass_a, area_a, mass_b, area_b = (patient_means(rows[name].to_numpy(), patients) for name in columns)
        one, other = ratio_of(mass_a, area_a), ratio_of(mass_b, area_b)
        found.append(HeatDifference(region, len(rows), paired_difference(one, other, fewest=one.patients)))
    return found


DifferenceT = TypeVar("DifferenceT", AucDifference, EffectDifference, HeatDifference)


def with_adjusted_p(
    families: Sequence[Sequence[DifferenceT]], p: Callable[[DifferenceT], float]
) -> list[list[DifferenceT]]:
    """Return the differences of all labels with p-values that are adjusted together.

    Where every patient is equal in both studies, as with the same weights, p is 1 and nothing was tested: such
    differences do not count.
    """
    values = np.array([p(entry) for family in families for entry in family], np.float64)
    adjusted = iter(np.where(values == 1, 1.0, holm(np.where(values == 1, np.nan, values))).tolist())
    return [[replace(entry, p_adjusted=next(adjusted)) for entry in family] for family in families]
