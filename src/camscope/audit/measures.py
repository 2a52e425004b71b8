"""The numbers of an audit, from rows and changes: effects, heat, alignment, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from camscope.audit.interventions import Change
from camscope.audit.null_maps import Nulls
from camscope.audit.verdicts import Alignment, Effect, Heat
from camscope.statistics.auc import Scored, auc_difference, auc_interval
from camscope.statistics.hypotheses import holm, max_statistic, patient_means, sign_flip, tost
from camscope.statistics.intervals import Interval, bootstrap, ratio
from camscope.study.grids import stacked, unit

FEWEST = 8
"""Patients below which nothing is tested: 7 of them cannot reach p = .01 by sign flips."""


_CHECKS = ("frame", "content", "norm_map", "frozen_norm")


@dataclass(frozen=True)
class AuditSettings:
    """How the statistics are made."""

    delta: float = 0.10
    replicates: int = 10_000
    seed: int = 0


def effects(rows: pl.DataFrame, changes: Sequence[Change], *, settings: AuditSettings) -> dict[str, list[Effect]]:
    """Return the effects of one label's interventions, by region.

    Args:
        rows: of the label, one per case: case, patient, truth, score.
        changes: of its cases.
        settings: of the statistics.

    Returns:
        For each region an effect a stratum and test; strata of too few patients are left out.
    """
    known = _changed(rows, changes)
    found: dict[str, list[Effect]] = {}
    for region in dict.fromkeys(change.region for change in changes):
        for stratum, truth in (("present", True), ("absent", False)):
            sd = spread(rows.filter(pl.col("truth") == truth))
            for test in ("remove", "exchange", "insert"):
                own = [c for c in changes if (c.region, c.test) == (region, test) and known[c.case]["truth"] == truth]
                effect = _effect(own, known, sd=sd, stratum=stratum, test=test, settings=settings)
                if effect is not None:
                    found.setdefault(region, []).append(effect)
    return found


def _changed(rows: pl.DataFrame, changes: Sequence[Change]) -> dict[int, dict[str, Any]]:
    """Return what is known of the cases that were changed, few of the rows of a large cohort."""
    own = rows.filter(pl.col("case").is_in(list({change.case for change in changes})))
    return {row["case"]: row for row in own.select("case", "patient", "truth", "score").iter_rows(named=True)}


def spread(rows: pl.DataFrame) -> float:
    """Standard deviation of the clean logit over patient means."""
    means = patient_means(rows["score"].to_numpy(), rows["patient"].to_list())
    return float(means.std(ddof=1)) if len(means) > 1 else float("nan")


def _effect(
    changes: Sequence[Change],
    known: Mapping[int, Mapping[str, Any]],
    *,
    sd: float,
    stratum: str,
    test: str,
    settings: AuditSettings,
) -> Effect | None:
    by_case: dict[int, dict[str, tuple[float, float]]] = {}
    for change in changes:
        clean = known[change.case]["score"]
        moved = (change.region_logit - change.sham_logit) / sd
        by_case.setdefault(change.case, {})[change.fill_in] = (moved, (change.sham_logit - clean) / sd)
    patients = [known[case]["patient"] for case in by_case]
    if len(set(patients)) < FEWEST or not sd > 0:
        return None
    values = np.array([np.mean([moved for moved, _ in fills.values()]) for fills in by_case.values()])
    shams = np.array([np.mean([sham for _, sham in fills.values()]) for fills in by_case.values()])
    means = patient_means(values, patients)
    given: dict[str, Any] = {"seed": settings.seed, "replicates": settings.replicates}
    fills, listed = {}, list(by_case.values())
    for name in dict.fromkeys(name for one in listed for name in one):
        own = [
            (patient, fills_[name][0])
            for patient, fills_ in zip(patients, by_case.values(), strict=True)
            if name in fills_
        ]
        if len({patient for patient, _ in own}) >= FEWEST:
            fills[name] = bootstrap(np.array([v for _, v in own]), [p for p, _ in own], **given)
    equivalence = tost(means, delta=settings.delta)
    return Effect(
        stratum=stratum,
        test=test,
        cases=len(by_case),
        patients=len(means),
        sd=sd,
        effect=bootstrap(values, patients, **given),
        sham=float(patient_means(shams, patients).mean()),
        by_fill=fills,
        p=sign_flip(means, **given),
        p_equivalence=equivalence.p,
        smallest_delta=equivalence.smallest_delta,
    )


def adjusted(found: Mapping[str, Mapping[str, Sequence[Effect]]]) -> dict[str, dict[str, list[Effect]]]:
    """Holm's adjustment over the confirmatory family: every label, region and stratum; insertions are not in it."""
    family = [e for regions in found.values() for listed in regions.values() for e in listed if e.test != "insert"]
    adjusted_p = dict(zip(map(id, family), holm([e.p for e in family]).tolist(), strict=True))
    return {
        label: {
            region: [replace(e, p_adjusted=adjusted_p.get(id(e), float("nan"))) for e in listed]
            for region, listed in regions.items()
        }
        for label, regions in found.items()
    }


def heat(rows: pl.DataFrame, region: str, nulls: Nulls | None, *, settings: AuditSettings) -> Heat | None:
    """Return what the maps of present and predicted cases show of a region; None without any."""
    own = rows.filter((pl.col("outcome") == "TP") & pl.col(f"mass:{region}").is_not_null())
    if not len(own):
        return None
    mass, area = own[f"mass:{region}"].to_numpy(), own[f"area:{region}"].to_numpy()
    patients = own["patient"].to_list()
    enrichment = bootstrap(
        np.stack([mass, area], 1), patients, statistic=ratio, seed=settings.seed, replicates=settings.replicates
    )
    peaks = own[f"peak:{region}"].drop_nulls()
    made = {}
    if nulls is not None:
        made = {
            "mean map of other patients": [nulls.mean_map],
            "random weights": list(nulls.random_weights),
            "random CAM": list(nulls.random_cam),
        }
    return Heat(
        cases=len(own),
        patients=len(set(patients)),
        area=float(area.mean()),
        mass=float(mass.mean()),
        enrichment=enrichment,
        peak=float(peaks.mean()) if len(peaks) else float("nan"),  # type: ignore[arg-type]
        nulls=made,
        **({} if nulls is None else {name: getattr(nulls, name) for name in _CHECKS}),
    )


def alignment(
    rows: pl.DataFrame, cue: str, removals: Sequence[Change], *, settings: AuditSettings
) -> tuple[Alignment | None, str]:
    """AUC where a cue agrees with the label, is absent, and disagrees (T4).

    From unedited pictures where each cell of cue and label has enough patients; otherwise, where there are enough with
    the cue on either side, with the logits of the pictures that it was removed from.

    Args:
        rows: of the label, one per case, with the cue's column.
        cue: its name.
        removals: of the cue, of this label's cases.
        settings: of the statistics.

    Returns:
        The alignment and ""; or None and why it cannot be had.
    """
    known = rows.filter(pl.col(f"cue:{cue}").is_not_null() & pl.col("truth").is_not_null())
    there, truth = known[f"cue:{cue}"].to_numpy().astype(bool), known["truth"].to_numpy().astype(bool)
    scores, patients = known["score"].to_numpy(), known["patient"].to_numpy()

    def cell(*, cue: bool, label: bool) -> int:
        return len(set(patients[(there == cue) & (truth == label)]))

    absent = auc_interval(scores[~there], truth[~there], patients=patients[~there])
    if min(cell(cue=c, label=t) for c in (True, False) for t in (True, False)) >= FEWEST:
        agree = there == truth
        aligned = Scored(scores[agree], truth[agree], patients[agree])
        anti = Scored(scores[~agree], truth[~agree], patients[~agree])
        return _alignment(aligned, anti, absent, edited=False, settings=settings), ""
    if (few := min(cell(cue=True, label=True), cell(cue=True, label=False))) < FEWEST:
        return None, f"only {few} patients carry the cue on one side of the label, and {FEWEST} are needed"
    removed: dict[int, list[float]] = {}
    for change in removals:
        removed.setdefault(change.case, []).append(change.region_logit)
    carriers = known.filter(pl.col(f"cue:{cue}") & pl.col("case").is_in(list(removed)))
    logits = carriers["score"].to_numpy()
    without = np.array([np.mean(removed[case]) for case in carriers["case"]])
    side, whose = carriers["truth"].to_numpy().astype(bool), carriers["patient"].to_list()
    aligned = Scored(np.where(side, logits, without), side, whose)
    anti = Scored(np.where(side, without, logits), side, whose)
    return _alignment(aligned, anti, absent, edited=True, settings=settings), ""


def _alignment(aligned: Scored, anti: Scored, absent: Interval, *, edited: bool, settings: AuditSettings) -> Alignment:
    one, other = (auc_interval(s.scores, s.truth, patients=s.patients) for s in (aligned, anti))
    difference = auc_difference(aligned, anti, seed=settings.seed, replicates=settings.replicates)
    return Alignment(one, absent, other, difference, edited)


def metadata(rows: pl.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, dict[str, Interval]]]:
    """Return how well the score tells a piece of metadata within each stratum of the label (T6).

    Args:
        rows: of the label, one per case.
        columns: of the table's metadata.

    Returns:
        Column -> "value" (against all others) -> stratum -> AUC.
    """
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    for column in columns:
        values = [value for value in rows[column].unique().sort().to_list() if value not in (None, "")]
        if not 2 <= len(values) <= 6:
            continue
        for value in values[:1] if len(values) == 2 else values:
            for stratum, truth in (("present", True), ("absent", False)):
                own = rows.filter((pl.col("truth") == truth) & pl.col(column).is_not_null())
                is_value = (own[column] == value).to_numpy()
                interval = auc_interval(own["score"].to_numpy(), is_value, patients=own["patient"].to_list())
                found.setdefault(column, {}).setdefault(str(value), {})[stratum] = interval
    return found


def group_maps(rows: pl.DataFrame, *, settings: AuditSettings) -> dict[str, Any]:
    """Return where the maps of two groups differ, such as AP and PA: the largest |t| over the grid, by sign flips.

    The two groups with the most maps are compared, in the patients who have maps in both.

    Args:
        rows: of the label, one per case.
        settings: of the statistics.

    Returns:
        "groups", "patients", "smallest_p" and "p" (h x w), family-wise over the grid; or "reason" why there are none.
    """
    mapped = rows.filter(pl.col("grid").is_not_null())
    most = mapped.group_by("group").len().sort("len", "group", descending=[True, False])["group"].to_list()[:2]
    if len(most) < 2:
        return {"reason": "there are no two groups with maps"}
    means = []
    for group in most:
        own = mapped.filter(pl.col("group") == group)
        patients = own["patient"].to_list()
        means.append(dict(zip(dict.fromkeys(patients), patient_means(unit(stacked(own)), patients), strict=True)))
    both = [patient for patient in means[0] if patient in means[1]]
    if len(both) < FEWEST:
        return {"reason": f"only {len(both)} patients have maps in both {most[0]} and {most[1]}"}
    differences = np.stack([means[0][patient] - means[1][patient] for patient in both])
    p = max_statistic(differences, seed=settings.seed, replicates=settings.replicates)
    return {"groups": most, "patients": len(both), "smallest_p": float(np.nanmin(p)), "p": p}


def hidden_and_alone(rows: pl.DataFrame, changes: Sequence[Change]) -> dict[str, dict[str, Interval]]:
    """AUC with a region hidden and with the region alone (T5), for regions that cases of both truths have.

    Returns:
        Region -> "hidden" and "alone" -> AUC. Large regions are not hidden, since nothing of their size can fill them.
    """
    known = _changed(rows, changes)
    found: dict[str, dict[str, Interval]] = {}
    for region in dict.fromkeys(change.region for change in changes):
        for name, test in (("hidden", "remove"), ("alone", "only")):
            logits: dict[int, list[float]] = {}
            for change in changes:
                if (change.region, change.test) == (region, test):
                    logits.setdefault(change.case, []).append(change.region_logit)
            truth = [known[case]["truth"] for case in logits]
            if len(set(truth)) == 2:
                means = [float(np.mean(values)) for values in logits.values()]
                patients = [known[case]["patient"] for case in logits]
                found.setdefault(region, {})[name] = auc_interval(means, truth, patients=patients)
    return found
