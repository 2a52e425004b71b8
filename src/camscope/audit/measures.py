"""Compute the statistics of an audit from rows and changes: effects, heat and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from camscope.array_types import Floats
from camscope.audit.evidence import Effect, Heat, Response
from camscope.audit.interventions import WITHOUT_MEAN, Change
from camscope.audit.null_maps import Nulls
from camscope.audit.settings import FEWEST, LEVEL, AuditSettings
from camscope.statistics.auc import auc_interval
from camscope.statistics.hypotheses import holm, max_statistic, patient_means, sign_flip, tost
from camscope.statistics.intervals import Interval, bootstrap, ratio
from camscope.statistics.power import detectable
from camscope.statistics.ties import all_tied
from camscope.study.grids import stacked, unit

_FAR = 5  # interquartile ranges
_CHECKS = ("frame", "content", "norm_map", "frozen_norm")


def effects(rows: pl.DataFrame, changes: Sequence[Change], *, settings: AuditSettings) -> dict[str, list[Effect]]:
    """Compute the effects of one label's interventions, by region.

    Args:
        rows: one row per case of the label: case, patient, truth, log_odds, and a column per cue.
        changes: the changes of these cases.
        settings: settings of the statistics.

    Returns:
        Region -> one effect per stratum, test and kind of donor; strata with too few patients are left out.
    """
    cases = changed_cases(rows, changes)
    by_region: dict[str, list[Effect]] = {}
    groups: dict[tuple[str, str, str], list[Change]] = {}
    for change in changes:
        if change.test not in WITHOUT_MEAN:
            groups.setdefault((change.region, change.test, change.by), []).append(change)
    for stratum, truth in (("present", True), ("absent", False)):
        of_truth = rows.filter(pl.col("truth") == truth)
        sd, typical = spread(of_truth), typical_spread(of_truth)
        for (region, test, by), group in groups.items():
            members = [change for change in group if cases[change.case]["truth"] == truth]
            effect = _effect(members, cases, sd=sd, typical=typical, test=(stratum, test, by), settings=settings)
            if effect is not None:
                by_region.setdefault(region, []).append(effect)
    return by_region


def changed_cases(rows: pl.DataFrame, changes: Sequence[Change]) -> dict[int, dict[str, Any]]:
    """Return the rows of the changed cases by case number."""
    chosen = rows.filter(pl.col("case").is_in(list({change.case for change in changes})))
    columns = chosen.select("case", "patient", "truth", "log_odds", pl.col("^(cue|property):.*$"))
    return {row["case"]: row for row in columns.iter_rows(named=True)}


def with_effects(rows: pl.DataFrame, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Return changes as records, with the effect of each: what a mean effect in ``audit.json`` is the mean of.

    Args:
        rows: one row per case of the label, with a column per cue and property.
        changes: the changes of these cases.

    Returns:
        The fields of `Change`, and ``effect`` in log-odds: the change by the region minus the change by the sham, with
        the sign of removing the cue for an exchange by a cue; NaN for "only" and "swap", which have no mean effect.
    """
    cases = changed_cases(rows, changes)
    records = []
    for change in changes:
        moved = float("nan") if change.test in WITHOUT_MEAN else change.region_log_odds - change.sham_log_odds
        effect = -moved if _adds_cue(change, cases[change.case]) else moved
        records.append(asdict(change) | {"effect": effect})
    return records


def _adds_cue(change: Change, case: Mapping[str, Any]) -> bool:
    """Return whether an exchange by a cue inserts it: its effect is then minus that of removing the cue."""
    return change.by not in ("", "label") and not case[change.by]


def spread(rows: pl.DataFrame) -> float:
    """Compute the standard deviation of the unedited log-odds over patient means; 0 if only rounding differs."""
    means = patient_means(rows["log_odds"].to_numpy(), rows["patient"].to_list())
    return _deviation(means)


def typical_spread(rows: pl.DataFrame) -> float:
    """Compute the `spread` without patients far from the others.

    A few images of another kind, such as blank ones, or a few patients with a cue, can make the spread so large that
    every effect looks small beside it. Patients further from the median than five interquartile ranges are left out.
    """
    means = patient_means(rows["log_odds"].to_numpy(), rows["patient"].to_list())
    if len(means) < 2:
        return float("nan")
    low, middle, high = np.quantile(means, [0.25, 0.5, 0.75])
    near = means[np.abs(means - middle) <= _FAR * (high - low)]
    return _deviation(means if all_tied([low, high]) else near)


def _deviation(means: Floats) -> float:
    if len(means) < 2:
        return float("nan")
    return 0.0 if all_tied(means) else float(means.std(ddof=1))


def _effect(
    changes: Sequence[Change],
    cases: Mapping[int, Mapping[str, Any]],
    *,
    sd: float,
    typical: float,
    test: tuple[str, str, str],
    settings: AuditSettings,
) -> Effect | None:
    """Compute the effect of one test, in SD; for an exchange by a cue, the effect of removing the cue."""
    if len({cases[change.case]["patient"] for change in changes}) < FEWEST or not sd > 0:
        return None
    stratum, kind, by = test
    numbers = np.array([change.case for change in changes])
    clean = np.array([cases[change.case]["log_odds"] for change in changes])
    region = (np.array([change.region_log_odds for change in changes]) - clean) / sd
    sham = (np.array([change.sham_log_odds for change in changes]) - clean) / sd
    adds_cue = np.array([_adds_cue(change, cases[change.case]) for change in changes])
    moved, wider = np.where(adds_cue, sham - region, region - sham), np.abs(region) - np.abs(sham)
    order, index = np.unique(numbers, return_inverse=True)
    patients = [cases[number]["patient"] for number in order.tolist()]

    def per_case(values: Floats) -> Floats:
        return np.asarray(np.bincount(index, values) / np.bincount(index))

    sampling: dict[str, Any] = {"seed": settings.seed, "replicates": settings.replicates}
    means, wider_means = (patient_means(per_case(values), patients) for values in (moved, wider))
    effect = bootstrap(per_case(moved), patients, **sampling)
    fills = list(dict.fromkeys(change.fill_in for change in changes))
    by_fill, spread_by_fill = {fills[0]: effect} if len(fills) == 1 else {}, {}
    for fill in fills if len(fills) > 1 else ():
        of_fill = np.array([change.fill_in == fill for change in changes])
        owners = [cases[number]["patient"] for number in numbers[of_fill].tolist()]
        if len(set(owners)) >= FEWEST:
            by_fill[fill] = bootstrap(moved[of_fill], owners, **sampling)
            spread_by_fill[fill] = bootstrap(wider[of_fill], owners, **sampling)
    margin = min(1.0, typical / sd)
    equivalence = tost(means, delta=settings.delta * margin)
    return Effect(
        stratum=stratum,
        test=kind,
        by=by,
        cases=len(order),
        patients=len(means),
        sd=sd,
        effect=effect,
        sham=float(patient_means(per_case(sham), patients).mean()),
        by_fill=by_fill,
        p=sign_flip(means, **sampling),
        p_equivalence=equivalence.p,
        smallest_delta=max(equivalence.smallest_delta, abs(effect.low), abs(effect.high)),
        detectable=detectable(float(means.std(ddof=1)), len(means), level=LEVEL, replicates=settings.replicates),
        spread=bootstrap(per_case(wider), patients, **sampling),
        p_spread=sign_flip(wider_means, **sampling),
        spread_by_fill=spread_by_fill,
        own=bootstrap(per_case(region), patients, **sampling),
        margin=margin,
    )


def adjusted(effects_by_label: Mapping[str, Mapping[str, Sequence[Effect]]]) -> dict[str, dict[str, list[Effect]]]:
    """Adjust p-values by Holm's method over every label, region, stratum and test; insertions are left out.

    The tests of means and the tests of the spread are adjusted separately.
    """
    family = [
        e for regions in effects_by_label.values() for listed in regions.values() for e in listed if e.test != "insert"
    ]
    means, spreads = (holm([getattr(e, name) for e in family]).tolist() for name in ("p", "p_spread"))
    adjusted_p = {id(e): pair for e, *pair in zip(family, means, spreads, strict=True)}
    unknown = [float("nan")] * 2

    def with_p(effect: Effect) -> Effect:
        mean, spread = adjusted_p.get(id(effect), unknown)
        return replace(effect, p_adjusted=mean, p_spread=spread)

    return {
        label: {region: [with_p(effect) for effect in listed] for region, listed in regions.items()}
        for label, regions in effects_by_label.items()
    }


def responses(rows: pl.DataFrame, changes: Sequence[Change], *, settings: AuditSettings) -> dict[str, list[Response]]:
    """Compute the changes of single cases by swaps and blurs, with p-values that are not adjusted yet.

    Args:
        rows: one row per case of the label: case, patient, truth, log_odds.
        changes: the changes of these cases.
        settings: settings of the statistics.

    Returns:
        Region -> one response per test and stratum; strata with too few patients are left out.
    """
    cases = changed_cases(rows, changes)
    by_region: dict[str, list[Response]] = {}
    for stratum, truth in (("present", True), ("absent", False)):
        of_truth = rows.filter(pl.col("truth") == truth)
        sd, typical = spread(of_truth), typical_spread(of_truth)
        moved: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = {}
        for change in changes:
            case = cases[change.case]
            if change.test in ("swap", "blur") and case["truth"] == truth and sd > 0:
                own, beside = (abs(x - case["log_odds"]) / sd for x in (change.region_log_odds, change.sham_log_odds))
                moved.setdefault((change.region, change.test), {}).setdefault(change.case, []).append((own, beside))
        for (region, test), pairs in moved.items():
            owners = np.array([cases[number]["patient"] for number in pairs])
            if len(set(owners)) >= FEWEST:
                values = np.array([np.mean(pair, axis=0) for pair in pairs.values()])
                response = _response(values, owners, stratum=stratum, test=test, settings=settings)
                by_region.setdefault(region, []).append(replace(response, margin=min(1.0, typical / sd)))
    return by_region


def _response(
    values: Floats, owners: npt.NDArray[Any], *, stratum: str, test: str, settings: AuditSettings
) -> Response:
    """Compute a response from (cases, 2) absolute changes by the region and beside it (NaN where nothing is beside)."""
    sampling: dict[str, Any] = {"seed": settings.seed, "replicates": settings.replicates}
    own, excess = values[:, 0], values[:, 0] - values[:, 1]
    response = Response(stratum, test, len(own), len(set(owners)), change=bootstrap(own, owners.tolist(), **sampling))
    compared = ~np.isnan(excess)
    excess, owners = excess[compared], owners[compared]
    if len(set(owners)) < FEWEST:
        return response
    p = sign_flip(patient_means(excess, owners.tolist()), **sampling)
    return replace(response, excess=bootstrap(excess, owners.tolist(), **sampling), p=p)


def adjusted_responses(
    responses_by_label: Mapping[str, Mapping[str, Sequence[Response]]],
) -> dict[str, dict[str, list[Response]]]:
    """Adjust p-values by Holm's method over every label, region and stratum; responses without one keep NaN."""
    tests = [r for regions in responses_by_label.values() for listed in regions.values() for r in listed if r.p >= 0]
    adjusted_p = dict(zip(map(id, tests), holm([response.p for response in tests]).tolist(), strict=True))
    return {
        label: {
            region: [replace(r, p=adjusted_p.get(id(r), float("nan"))) for r in listed]
            for region, listed in regions.items()
        }
        for label, regions in responses_by_label.items()
    }


def heat(rows: pl.DataFrame, region: str, nulls: Nulls | None, *, settings: AuditSettings) -> Heat | None:
    """Compute the heat in a region over the true positives; None if no true positive has the region."""
    hits = rows.filter((pl.col("outcome") == "TP") & pl.col(f"mass:{region}").is_not_null())
    if not len(hits):
        return None
    mass, area = hits[f"mass:{region}"].to_numpy(), hits[f"area:{region}"].to_numpy()
    patients = hits["patient"].to_list()
    enrichment = bootstrap(
        np.stack([mass, area], 1), patients, statistic=ratio, seed=settings.seed, replicates=settings.replicates
    )
    peaks = hits[f"peak:{region}"].drop_nulls()
    null_enrichments = {}
    if nulls is not None:
        null_enrichments = {
            "mean map of other patients": [nulls.mean_map],
            "random weights": list(nulls.random_weights),
            "random CAM": list(nulls.random_cam),
        }
    return Heat(
        cases=len(hits),
        patients=len(set(patients)),
        area=float(area.mean()),
        mass=float(mass.mean()),
        enrichment=enrichment,
        peak=float(peaks.mean()) if len(peaks) else float("nan"),  # type: ignore[arg-type]
        nulls=null_enrichments,
        **({} if nulls is None else {name: getattr(nulls, name) for name in _CHECKS}),
    )


def metadata(rows: pl.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, dict[str, Interval]]]:
    """Compute the AUC of the score for each value of the metadata, within each stratum of the label (T6).

    Args:
        rows: one row per case of the label.
        columns: columns of metadata; those with more than 6 values are left out.

    Returns:
        Column -> value (against all other values) -> stratum -> AUC.
    """
    aucs: dict[str, dict[str, dict[str, Interval]]] = {}
    for column in columns:
        values = [value for value in rows[column].unique().sort().to_list() if value not in (None, "")]
        if not 2 <= len(values) <= 6:
            continue
        for value in values[:1] if len(values) == 2 else values:
            for stratum, truth in (("present", True), ("absent", False)):
                part = rows.filter((pl.col("truth") == truth) & pl.col(column).is_not_null())
                is_value = (part[column] == value).to_numpy()
                interval = auc_interval(part["log_odds"].to_numpy(), is_value, patients=part["patient"].to_list())
                aucs.setdefault(column, {}).setdefault(str(value), {})[stratum] = interval
    return aucs


def score_for(rows: pl.DataFrame, column: str) -> dict[str, Interval]:
    """Compute the AUC of the log-odds for a cue, or for the upper half of a property, within each stratum (T6).

    Args:
        rows: one row per case of the label.
        column: "cue:NAME" or "property:NAME"; cases with a null are left out.

    Returns:
        "present" and "absent" -> AUC; a stratum with fewer than 8 patients with or without the cue is left out.
    """
    aucs = {}
    for stratum, truth in (("present", True), ("absent", False)):
        part = rows.filter((pl.col("truth") == truth) & pl.col(column).is_not_null())
        if min(part.filter(pl.col(column) == side)["patient"].n_unique() for side in (True, False)) >= FEWEST:
            has_cue = part[column].to_numpy().astype(bool)
            aucs[stratum] = auc_interval(part["log_odds"].to_numpy(), has_cue, patients=part["patient"].to_list())
    return aucs


def group_maps(rows: pl.DataFrame, *, settings: AuditSettings) -> dict[str, Any]:
    """Test in which cells the maps of two groups differ, such as AP and PA.

    The two groups with the most maps are compared, in the patients who have maps in both. The test is the largest |t|
    over the grid, with sign flips of patients.

    Args:
        rows: one row per case of the label.
        settings: settings of the statistics.

    Returns:
        "groups", "patients", "smallest_p" and "p" (h x w), family-wise over the grid; or "reason" if no test is
        possible.
    """
    mapped = rows.filter(pl.col("grid").is_not_null())
    most = mapped.group_by("group").len().sort("len", "group", descending=[True, False])["group"].to_list()[:2]
    if len(most) < 2:
        return {"reason": "there are no two groups with maps"}
    means = []
    for group in most:
        group_rows = mapped.filter(pl.col("group") == group)
        patients = group_rows["patient"].to_list()
        patient_maps = patient_means(unit(stacked(group_rows)), patients)
        means.append(dict(zip(dict.fromkeys(patients), patient_maps, strict=True)))
    both = [patient for patient in means[0] if patient in means[1]]
    if len(both) < FEWEST:
        return {"reason": f"only {len(both)} patients have maps in both {most[0]} and {most[1]}"}
    differences = np.stack([means[0][patient] - means[1][patient] for patient in both])
    p = max_statistic(differences, seed=settings.seed, replicates=settings.replicates)
    return {"groups": most, "patients": len(both), "smallest_p": float(np.nanmin(p)), "p": p}


def hidden_and_alone(rows: pl.DataFrame, changes: Sequence[Change]) -> dict[str, dict[str, Interval]]:
    """Compute the AUC with a region hidden and with the region alone (T5).

    A region is left out unless cases with and without the label have it.

    Returns:
        Region -> "hidden" and "alone" -> AUC; "hidden" is left out for large regions, which cannot be filled in.
    """
    cases = changed_cases(rows, changes)
    aucs: dict[str, dict[str, Interval]] = {}
    for region in dict.fromkeys(change.region for change in changes):
        for name, test in (("hidden", "remove"), ("alone", "only")):
            logits: dict[int, list[float]] = {}
            for change in changes:
                if (change.region, change.test) == (region, test):
                    logits.setdefault(change.case, []).append(change.region_log_odds)
            truth = [cases[case]["truth"] for case in logits]
            if len(set(truth)) == 2:
                means = [float(np.mean(values)) for values in logits.values()]
                patients = [cases[case]["patient"] for case in logits]
                aucs.setdefault(region, {})[name] = auc_interval(means, truth, patients=patients)
    return aucs
