"""Test whether the AUC is lower when a region disagrees with the label (T4).

Unedited images can be compared if each combination of cue and label has enough patients. Interventions do not need
this: per case they give the log-odds with the region in agreement (aligned) and in disagreement (anti).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from camscope.array_types import Floats
from camscope.audit.evidence import Alignment, Alignments
from camscope.audit.interventions import WITHOUT_MEAN, Change
from camscope.audit.measures import changed_cases
from camscope.audit.settings import FEWEST, AuditSettings
from camscope.statistics.auc import Scored, auc_difference, auc_interval
from camscope.statistics.intervals import Interval, bootstrap

Sides = npt.NDArray[np.bool_]
_CERTAIN = 0.999


def cue_alignment(
    rows: pl.DataFrame, column: str, *, direction: int = 1, settings: AuditSettings
) -> tuple[Alignment | None, str]:
    """Compare unedited images in which a cue agrees with the label, is absent, or disagrees with the label.

    Args:
        rows: one row per case of the label, with ``truth``, ``patient``, ``log_odds`` and the column of the cue.
        column: "cue:NAME", or "property:NAME" for the upper half of a property.
        direction: 1 if the cue is associated with the presence of the label, -1 with its absence, 0 if with neither: it
            then points where the model reads it.
        settings: settings of the statistics.

    Returns:
        The alignment and ""; or None and the reason, if a combination of cue and label has too few patients.
    """
    rows = _with_cue(rows, column)
    has_cue, truth = rows[column].to_numpy().astype(bool), rows["truth"].to_numpy().astype(bool)
    log_odds, patients = rows["log_odds"].to_numpy(), rows["patient"].to_numpy()
    fewest = min(
        len(set(patients[(has_cue == cue_side) & (truth == label_side)].tolist()))
        for cue_side in (True, False)
        for label_side in (True, False)
    )
    if fewest < FEWEST:
        return None, f"a combination of cue and label has {fewest} patients, and {FEWEST} are needed"
    agrees = has_cue == (truth if (direction or _direction_of_score(rows, column)) > 0 else ~truth)
    aligned = Scored(log_odds[agrees], truth[agrees], patients[agrees])
    anti = Scored(log_odds[~agrees], truth[~agrees], patients[~agrees])
    absent = auc_interval(log_odds[~has_cue], truth[~has_cue], patients=patients[~has_cue])
    values = np.stack([log_odds, truth, agrees], 1).astype(float)
    share = bootstrap(values, patients, statistic=_share, seed=settings.seed, replicates=settings.replicates)
    nan = float("nan")  # flips are not defined, because the two sets contain different cases
    return _alignment(
        aligned, anti, absent=absent, share=share, flips=nan, how="", as_read=direction == 0, settings=settings
    ), ""


def association(rows: pl.DataFrame, column: str, *, settings: AuditSettings) -> Interval:
    """Compute the difference in frequency of the label between images with and without a cue.

    Returns:
        Share of images with the label among images with the cue minus the share among images without it, in [-1, 1];
        NaN if all or no images have the cue. Its interval over patients has a level of 99.9 %: in one of 20 balanced
        cohorts, a 95 % interval would point one way, which may not be the way in which the model reads the cue.
    """
    rows = _with_cue(rows, column)
    values = np.stack([rows[column].to_numpy(), rows["truth"].to_numpy()], 1).astype(float)
    return bootstrap(
        values,
        rows["patient"].to_list(),
        statistic=_excess,
        seed=settings.seed,
        replicates=settings.replicates,
        level=_CERTAIN,
    )


def direction_of(rows: pl.DataFrame, column: str, *, settings: AuditSettings) -> int:
    """Return 1 for a cue associated with the label, -1 with its absence, 0 if neither is shown; see `association`."""
    found = association(rows, column, settings=settings)
    return int(found.low > 0) - int(found.high < 0)


def _with_cue(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    return rows.filter(pl.col(column).is_not_null() & pl.col("truth").is_not_null())


def _direction_of_score(rows: pl.DataFrame, column: str) -> int:
    """Return 1 if the log-odds are higher with a cue, -1 if lower, by the mean difference at equal truth."""
    rows = _with_cue(rows, column).filter(pl.col("log_odds").is_not_null())
    means = rows.group_by("truth", column).agg(pl.col("log_odds").mean())
    gaps = [
        float(side.sort(column)["log_odds"].diff()[-1])
        for side in means.partition_by("truth")
        if side[column].n_unique() > 1
    ]
    return -1 if sum(gaps) < 0 else 1


def _excess(values: Floats, weights: Floats) -> Floats:
    has_cue, truth = values[:, 0], values[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        with_cue: Floats = weights @ (has_cue * truth) / (weights @ has_cue)
        return with_cue - weights @ ((1 - has_cue) * truth) / (weights @ (1 - has_cue))


def counterfactual(
    rows: pl.DataFrame,
    changes: Sequence[Change],
    *,
    direction: int = 1,
    as_cue: bool = False,
    threshold: float = 0.0,
    settings: AuditSettings,
) -> tuple[Alignment | None, str]:
    """Compare the same cases with a region in agreement with the label (aligned) and in disagreement (anti).

    * A removed cue: with the cue, the log-odds of the unedited image; without the cue, these log-odds plus the effect
      of the removal (change minus sham). If too few patients with or without the label have the cue, cases into which
      it was inserted are added.
    * A region exchanged by a cue: both log-odds use donors of the same label, with and without the cue.
    * A region exchanged by the label: a donor of the same label (aligned) and of the other label (anti).
    * Any other removed region: the unedited image (aligned), and the image without the region (anti).

    If too few patients of one truth have the region (such as a lesion), the cases of this truth without it enter both
    sets with their unedited log-odds.

    Args:
        rows: one row per editable case of the label.
        changes: changes of one region by one test and ``by``; for a cue, insertions too.
        direction: 1 if the cue is associated with the presence of the label, -1 with its absence, 0 if with neither: it
            then points where the model reads it.
        as_cue: whether the region is a cue, or another drawn region that some cases lack.
        threshold: log-odds at which the label is predicted.
        settings: settings of the statistics.

    Returns:
        The alignment and ""; or None and the reason.
    """
    first = next((change for change in changes if change.test != "insert"), None)
    if first is None:
        return None, "no case was changed"
    as_cue = as_cue or first.region.startswith("cue:")
    if direction == 0 and first.by.startswith("property:"):
        return None, "it is not associated with the label in this cohort"
    sets = _sets(_by_case(rows, changes), rows, first, direction=direction, as_cue=as_cue)
    truth, aligned, anti, absent, patients = (list(values) for values in zip(*sets, strict=True)) if sets else [[]] * 5
    sides: Sides = np.array(truth, bool)
    fewest, side = min(
        (len({p for p, t in zip(patients, truth, strict=True) if t == side}), side) for side in (True, False)
    )
    if fewest < FEWEST:
        stratum = "present" if side else "absent"
        return None, f"images of {fewest} patients with the label {stratum} could be edited, and {FEWEST} are needed"
    values = np.array([aligned, anti, sides], float).T
    share = bootstrap(values, patients, statistic=_paired_share, seed=settings.seed, replicates=settings.replicates)
    flips = float(np.mean((values[:, 0] > threshold) != (values[:, 1] > threshold)))
    return _alignment(
        Scored(values[:, 0], sides, patients),
        Scored(values[:, 1], sides, patients),
        absent=auc_interval(np.array(absent, float), sides, patients=patients),
        share=share,
        flips=flips,
        how=first.by if first.test == "exchange" else first.test,
        as_read=direction == 0,
        settings=settings,
    ), ""


def alignments_of(
    rows: pl.DataFrame,
    region: str,
    changes: Sequence[Change],
    *,
    unedited: Mapping[str, tuple[Alignment | None, str]],
    directions: Mapping[str, int],
    threshold: float,
    settings: AuditSettings,
) -> Alignments:
    """Compute the alignments of a region, one per test that changed it.

    Args:
        rows: one row per editable case of the label.
        region: the region, or "property:NAME".
        changes: the changes of all regions.
        unedited: "cue:NAME" or "property:NAME" -> alignment in unedited images, or the reason why there is none.
        directions: "cue:NAME", another drawn region that some cases lack, or "property:NAME" -> `direction_of` or
            `property_direction`.
        threshold: log-odds at which the label is predicted.
        settings: settings of the statistics.
    """
    of_region = [change for change in changes if change.region == region and change.test not in WITHOUT_MEAN]
    edited, missing = {}, {}
    for test, by in dict.fromkeys((change.test, change.by) for change in of_region if change.test != "insert"):
        group = [c for c in of_region if (c.test, c.by) == (test, by) or (test == "remove" and c.test == "insert")]
        direction = directions.get(region if region.startswith("property:") else by or region, 1)
        column = by or region
        if direction == 0 and column in directions and (why := _hardly_varies(rows, column)):
            missing[test, by] = why
            continue
        options: dict[str, Any] = {"direction": direction, "as_cue": region in directions, "threshold": threshold}
        alignment, why = counterfactual(rows, group, **options, settings=settings)
        if alignment is None:
            missing[test, by] = why
        else:
            edited[test, by] = alignment
    is_read = region in unedited and (directions[region] != 0 or not region.startswith("property:"))
    return Alignments(edited, missing, unedited[region][0] if is_read else None)


def _hardly_varies(rows: pl.DataFrame, column: str) -> str:
    """Return the reason why a cue cannot separate the classes: nearly all images have it, or lack it; "" if not so."""
    known = _with_cue(rows, column)
    for side, verb in ((False, "lack"), (True, "have")):
        patients = known.filter(pl.col(column) == side)["patient"].n_unique()
        if patients < FEWEST:
            return f"images of {patients} patients {verb} it, and {FEWEST} are needed"
    return ""


Set = tuple[bool, float, float, float, str]
"""Truth, log-odds (aligned, anti, and without the cue; NaN if the region is not a cue) and patient of one case."""


def _by_case(rows: pl.DataFrame, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Return the row of each changed case, with ``region`` and ``sham`` (means over the fill-ins) and ``test``."""
    by_case: dict[int, list[Change]] = {}
    for change in changes:
        by_case.setdefault(change.case, []).append(change)
    return [
        row
        | {
            "region": float(np.mean([change.region_log_odds for change in by_case[case]])),
            "sham": float(np.mean([change.sham_log_odds for change in by_case[case]])),
            "test": by_case[case][0].test,
        }
        for case, row in changed_cases(rows, changes).items()
    ]


def _sets(
    cases: Sequence[Mapping[str, Any]], rows: pl.DataFrame, first: Change, *, direction: int, as_cue: bool
) -> list[Set]:
    """Return the aligned and the anti set of the changes of one region, of which ``first`` is one."""
    if first.test == "exchange":
        sets = _exchanged(cases, first.by, direction or 1)
    elif as_cue:
        sets = _with_and_without(cases, direction or 1)
    else:
        sets = _hidden(cases)
    if direction == 0:
        sets = _as_read(sets)
    return sets + _other_side(cases, rows) if first.by in ("", "label") and not as_cue else sets


def _with_and_without(cases: Sequence[Mapping[str, Any]], direction: int) -> list[Set]:
    """Return the sets of a removed cue; insertions are added for a truth with too few patients who have the cue."""
    carriers = {
        side: {row["patient"] for row in cases if row["test"] == "remove" and row["truth"] == side}
        for side in (True, False)
    }
    sets = []
    for row in cases:
        edited = row["log_odds"] + row["region"] - row["sham"]
        if row["test"] == "remove":
            sets.append(_of_cue(row, row["log_odds"], edited, direction))
        elif len(carriers[row["truth"]]) < FEWEST:
            sets.append(_of_cue(row, edited, row["log_odds"], direction))
    return sets


def _exchanged(cases: Sequence[Mapping[str, Any]], by: str, direction: int) -> list[Set]:
    if by == "label":
        return [(row["truth"], row["sham"], row["region"], float("nan"), row["patient"]) for row in cases]
    pairs = ((row["sham"], row["region"]) if row[by] else (row["region"], row["sham"]) for row in cases)
    return [_of_cue(row, *pair, direction) for row, pair in zip(cases, pairs, strict=True)]


def _of_cue(row: Mapping[str, Any], with_cue: float, without: float, direction: int) -> Set:
    aligned, anti = (with_cue, without) if row["truth"] == (direction > 0) else (without, with_cue)
    return row["truth"], aligned, anti, without, row["patient"]


def _as_read(sets: Sequence[Set]) -> list[Set]:
    """Return the sets, made for a cue that points to the label, for a cue that points where the model reads it."""
    changes = {side: [aligned - anti for truth, aligned, anti, *_ in sets if truth == side] for side in (True, False)}
    effect = sum(
        sign * float(np.mean(values)) for sign, values in zip((1, -1), changes.values(), strict=True) if values
    )
    if effect >= 0:
        return list(sets)
    return [(truth, anti, aligned, absent, patient) for truth, aligned, anti, absent, patient in sets]


def _hidden(cases: Sequence[Mapping[str, Any]]) -> list[Set]:
    return [
        (row["truth"], row["log_odds"], row["log_odds"] + row["region"] - row["sham"], float("nan"), row["patient"])
        for row in cases
    ]


def _other_side(cases: Sequence[Mapping[str, Any]], rows: pl.DataFrame) -> list[Set]:
    """Return the unedited cases of a truth for which too few patients have the region, such as a lesion."""
    sets: list[Set] = []
    for side in (True, False):
        if len({row["patient"] for row in cases if row["truth"] == side}) >= FEWEST:
            continue
        others = rows.filter(
            (pl.col("truth") == side)
            & pl.col("log_odds").is_not_null()
            & ~pl.col("case").is_in([row["case"] for row in cases])
        )
        pairs = others.select("log_odds", "patient").iter_rows()
        sets += [(side, log_odds, log_odds, float("nan"), patient) for log_odds, patient in pairs]
    return sets


def _paired_share(values: Floats, weights: Floats) -> Floats:
    """Return (S_aligned - S_anti) / (S_aligned + S_anti) of the same cases, S the separation of the classes."""
    aligned, anti, truth = values.T
    return _ratio(*(_separation(x, truth, weights) for x in (aligned, anti)))


def _share(values: Floats, weights: Floats) -> Floats:
    """Return the share of two sets of different cases: those whose cue agrees, and disagrees, with the label."""
    log_odds, truth, agrees = values.T
    return _ratio(*(_separation(log_odds, truth, weights * side) for side in (agrees, 1 - agrees)))


def _separation(log_odds: Floats, truth: Floats, weights: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        present, absent = (weights @ (log_odds * side) / (weights @ side) for side in (truth, 1 - truth))
    return np.asarray(present - absent)


def _ratio(first: Floats, second: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((first - second) / (first + second))


def _alignment(
    aligned: Scored,
    anti: Scored,
    *,
    absent: Interval,
    share: Interval,
    flips: float,
    how: str,
    as_read: bool,
    settings: AuditSettings,
) -> Alignment:
    first, second = (auc_interval(s.scores, s.truth, patients=s.patients) for s in (aligned, anti))
    difference = auc_difference(aligned, anti, seed=settings.seed, replicates=settings.replicates)
    return Alignment(first, absent, second, difference, share=share, flips=flips, how=how, as_read=as_read)
