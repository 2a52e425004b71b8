"""Compute the statistics and verdicts of one label from the measurements of an audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from camscope.audit.alignment import alignments_of, cue_alignment, direction_of
from camscope.audit.disease import DiseasePlaces
from camscope.audit.evidence import Alignment, Alignments, Effect, Heat, Response
from camscope.audit.label import Measured, MeasuredProperties
from camscope.audit.measures import (
    effects,
    group_maps,
    heat,
    hidden_and_alone,
    metadata,
    responses,
    score_for,
    spread,
    with_effects,
)
from camscope.audit.properties import PREFIX, property_direction, property_facts, untestable_property, with_properties
from camscope.audit.reliance_map import reliance_map
from camscope.audit.settings import FEWEST, AuditSettings
from camscope.audit.verdicts import Role, judge
from camscope.cohort.store import OK
from camscope.statistics.auc import auc_interval
from camscope.statistics.hypotheses import patient_index
from camscope.statistics.intervals import Interval
from camscope.study.clusters import associations, cluster_maps, typical
from camscope.study.config import AuditSection
from camscope.study.grids import stacked
from camscope.study.study import Study

_TYPICAL = 3
_STRATA = ("present", "absent")


@dataclasses.dataclass(frozen=True)
class LabelFindings:
    """The statistics of one label, before the p-values of all labels are adjusted together.

    Attributes:
        effects: region -> effects.
        property_effects: "property:NAME" -> effects.
        responses: region -> changes of single cases by swapping it.
        heat: region -> heat.
        untestable: region or property -> reason why no stratum could be tested.
        alignments: region or property -> alignments.
        hidden: region -> AUC with the region hidden and with the region alone.
        by_cue: "cue:NAME" -> stratum -> AUC of the log-odds for the cue; only cues with an AUC in both strata.
        holders: region -> strata in which some case has it.
        disease: the places of the disease, and the doubts about shortcuts that may cover it.
        confounded: properties that the disease may have changed.
        facts: property name -> associations with label, groups and score.
        changes: the changes by all interventions, as records with their effects.
        content: all other entries of the label in ``audit.json``.
    """

    effects: Mapping[str, Sequence[Effect]]
    property_effects: Mapping[str, Sequence[Effect]]
    responses: Mapping[str, Sequence[Response]]
    heat: Mapping[str, Heat | None]
    untestable: Mapping[str, str]
    alignments: Mapping[str, Alignments]
    hidden: Mapping[str, Any]
    by_cue: Mapping[str, Mapping[str, Interval]]
    holders: Mapping[str, set[str]]
    disease: DiseasePlaces
    confounded: Sequence[str]
    facts: Mapping[str, Any]
    changes: Sequence[Mapping[str, Any]]
    content: dict[str, Any]


def collect(
    study: Study,
    section: AuditSection,
    measured: Measured,
    properties: MeasuredProperties,
    *,
    rows: pl.DataFrame,
    drawn: pl.DataFrame,
    settings: AuditSettings,
) -> LabelFindings:
    """Compute the statistics of a label: scalar statistics from all rows, pixel-level statistics from sampled cases.

    Args:
        study: the study.
        section: the audit section of the study file.
        measured: the changes by editing regions, and the null maps.
        properties: the changes by exchanging properties.
        rows: one row per case of the label.
        drawn: the rows of the sampled cases, with their maps.
        settings: settings of the statistics.
    """
    rows, drawn = (_with_presence(with_properties(table, properties.values), measured) for table in (rows, drawn))
    columns = [*(f"cue:{cue}" for cue in study.file.cohort.cues), *measured.present]
    columns += [PREFIX + name for name, values in properties.values.items() if values.high]
    facts = {name: property_facts(rows, name, values) for name, values in properties.values.items()}
    directions = {
        column: property_direction(facts[column.removeprefix(PREFIX)])
        if column.startswith(PREFIX)
        else direction_of(rows, column, settings=settings)
        for column in columns
    }
    unedited = {
        column: cue_alignment(rows, column, direction=directions[column], settings=settings) for column in columns
    }
    changes = [*measured.changes, *properties.changes]
    on_cues: dict[str, Any] = {"unedited": unedited, "directions": directions, "threshold": measured.threshold}
    alignments = {
        name: alignments_of(drawn, name, changes, **on_cues, settings=settings)
        for name in (*section.regions, *(PREFIX + name for name in properties.values))
    }
    return LabelFindings(
        effects=effects(rows, measured.changes, settings=settings),
        property_effects=effects(rows, properties.changes, settings=settings),
        responses=responses(rows, measured.changes, settings=settings),
        heat={region: heat(rows, region, measured.nulls.get(region), settings=settings) for region in section.regions},
        untestable={region: _untestable(region, measured, drawn, unedited) for region in section.regions}
        | {PREFIX + name: _constant(drawn) or untestable_property(v) for name, v in properties.values.items()},
        alignments=alignments,
        hidden=hidden_and_alone(drawn, measured.changes),
        by_cue=_by_cue(rows, [region for region in section.regions if region in unedited]),
        holders=measured.holders,
        disease=measured.disease,
        confounded=[PREFIX + name for name in properties.confounded],
        facts=facts,
        changes=with_effects(rows, [*changes, *measured.cell_changes]),
        content=_content(study, section, measured, rows=rows, drawn=drawn, settings=settings)
        | {"forwards": measured.forwards + properties.forwards}
        | _of_cues(study.file.cohort.cues, unedited, alignments),
    )


def _with_presence(rows: pl.DataFrame, measured: Measured) -> pl.DataFrame:
    """Return rows with a column for each drawn region that some cases lack: whether the case has it, if it is known."""
    return rows.with_columns(
        pl.Series(name, [cases.get(number) for number in rows["case"]], dtype=pl.Boolean)
        for name, cases in measured.present.items()
    )


def _content(
    study: Study,
    section: AuditSection,
    measured: Measured,
    *,
    rows: pl.DataFrame,
    drawn: pl.DataFrame,
    settings: AuditSettings,
) -> dict[str, Any]:
    """Return the entries of a label in ``audit.json`` that are not about one region or property."""
    patients = patient_index(rows["patient"])
    strata = [name for name in rows.columns if name.startswith("stratum:")]
    return {
        "model": rows["model"][0],
        "cases": len(rows),
        "patients": int(patients.max()) + 1,
        "drawn": len(drawn),
        "auc": auc_interval(rows["log_odds"].to_numpy(), rows["truth"].to_numpy(), patients=patients),
        "self_test": dataclasses.asdict(measured.test) | {"sentence": measured.test.sentence},
        "null_maps": measured.null_maps,
        "reliance_map": _reliance(rows, measured, settings=settings) if section.reliance_map else None,
        "metadata": metadata(rows, strata),
        "group_maps": group_maps(drawn, settings=settings),
        "clusters": _clusters(drawn, strata, seed=settings.seed),
    }


def _reliance(rows: pl.DataFrame, measured: Measured, *, settings: AuditSettings) -> dict[str, Any]:
    computed = reliance_map(rows, measured.cell_changes, measured.cells, settings=settings)
    return dataclasses.asdict(computed) | {"sentence": computed.sentence}


def _by_cue(rows: pl.DataFrame, cues: Iterable[str]) -> dict[str, dict[str, Interval]]:
    """Return the AUC of the log-odds for each cue that has enough patients in both strata."""
    return {cue: aucs for cue in cues if len(aucs := score_for(rows, cue)) == len(_STRATA)}


def _of_cues(
    cues: Iterable[str], unedited: Mapping[str, tuple[Alignment | None, str]], alignments: Mapping[str, Alignments]
) -> dict[str, Any]:
    """Return the alignment of every cue, from unedited images or else from its removal, or why there is none."""
    aligned, missing = {}, {}
    for cue in cues:
        alignment, why = unedited[f"cue:{cue}"]
        edited = alignments[f"cue:{cue}"].edited.get(("remove", "")) if f"cue:{cue}" in alignments else None
        if alignment or edited:
            aligned[cue] = alignment or edited
        else:
            missing[cue] = why
    return {"alignment": aligned, "alignment_not_possible": missing}


def judged(
    label: str,
    section: AuditSection,
    findings: LabelFindings,
    effects_of: Mapping[str, Sequence[Effect]],
    properties_of: Mapping[str, Sequence[Effect]],
    responses_of: Mapping[str, Sequence[Response]],
) -> dict[str, Any]:
    """Return all entries of a label in ``audit.json``, with a verdict on every region and property.

    Args:
        label: the label.
        section: the audit section of the study file.
        findings: the statistics of the label.
        effects_of: region -> effects with adjusted p-values.
        properties_of: "property:NAME" -> effects with adjusted p-values.
        responses_of: region -> responses with adjusted p-values.
    """

    def entry(name: str, role: Role, listed: Sequence[Effect]) -> dict[str, Any]:
        shown, swapped = findings.heat.get(name), list(responses_of.get(name, ()))
        judgement = judge(
            label,
            name,
            role,
            effects=listed,
            heat=None if name in findings.disease.overlaps else shown,
            alignments=findings.alignments[name],
            responses=swapped,
            untestable=findings.untestable[name],
            untested=sorted(
                findings.holders.get(name, set(_STRATA)) - {e.stratum for e in listed if e.test != "insert"}
            ),
            delta=section.delta,
            doubt="disease" if name in findings.confounded else findings.disease.doubts.get(name, ""),
            by_cue=findings.by_cue.get(name),
        )
        edited = findings.alignments[name].edited
        return {
            "role": role,
            "verdict": judgement.verdict,
            "reason": judgement.reason,
            "enrichment": None if shown is None else shown.enrichment,
            "effect": judgement.effect,
            "heat": shown,
            "effects": listed,
            "responses": swapped,
            "counterfactual": {" ".join(filter(None, key)): alignment for key, alignment in edited.items()},
            "auc": findings.hidden.get(name, {}),
        }

    return findings.content | {
        "regions": {
            region: entry(region, _role(section, region), list(effects_of.get(region, ())))
            for region in section.regions
        },
        "properties": {
            name: entry(PREFIX + name, "property", list(properties_of.get(PREFIX + name, ()))) | {"facts": facts}
            for name, facts in findings.facts.items()
        },
    }


def _role(section: AuditSection, region: str) -> Role:
    return "disease" if region in section.disease else "shortcut"


def no_findings(study: Study, section: AuditSection, label: str, *, failed: int) -> dict[str, Any]:
    """Return the entries of a label without any case of known truth; ``failed`` of its cases have no score."""
    why = f"; {failed} cases failed, for the reasons in the list of failed cases" if failed else ""
    reason = f"{label} cannot be tested: no case has both a known truth and a score{why}."
    blank: dict[str, Any] = {"enrichment": None, "effect": None, "heat": None, "effects": [], "auc": {}}
    blank |= {"responses": [], "counterfactual": {}}
    regions = {
        region: {"role": _role(section, region), "verdict": "NOT TESTABLE", "reason": reason} | blank
        for region in section.regions
    }
    nothing: dict[str, Any] = {
        "reliance_map": None,
        "alignment": {},
        "alignment_not_possible": {},
        "metadata": {},
        "group_maps": {},
    }
    model, _ = study.model(label)
    return nothing | {
        "model": model.name,
        "cases": 0,
        "patients": 0,
        "drawn": 0,
        "auc": {"low": None, "high": None, "estimate": None},
        "self_test": dict.fromkeys(("gradcam_is_hirescam", "completeness", "level_lost", "empty"))
        | {"cascade": [], "sentence": "not run: there is no case"},
        "forwards": 0,
        "null_maps": {},
        "regions": regions,
        "properties": {},
        "clusters": {"number": 0, "reason": "there are no maps"},
    }


def _untestable(
    region: str, measured: Measured, drawn: pl.DataFrame, unedited: Mapping[str, tuple[Alignment | None, str]]
) -> str:
    """Return the reason why no stratum of a region could be tested."""
    changed = {c.case for c in measured.changes if c.region == region and c.test in ("remove", "exchange")}
    if not changed:
        if region in measured.large:
            return "no case has a donor with the other label"
        if not measured.holders.get(region):
            why = "no image has it in the part that the network sees"
        else:
            why = "where an image has it, the disease covers most of it, or a sham of its shape does not fit beside it"
        return (
            f"{why}, and of unedited images, {unedited[region][1]}"
            if region in unedited and unedited[region][1]
            else why
        )
    tested = drawn.filter(pl.col("case").is_in(list(changed)))
    patients = {truth: tested.filter(pl.col("truth") == truth)["patient"].n_unique() for truth in (True, False)}
    most = max(patients.values())
    if constant := _constant(drawn, [truth for truth, number in patients.items() if number >= FEWEST]):
        return constant
    if most >= FEWEST:
        return f"no kind of edit was possible for {FEWEST} patients with the same label"
    present, absent = patients[True], patients[False]
    return (
        f"images of {present} patients with the label present and of {absent} with it absent could be edited, and "
        f"{FEWEST} with the same label are needed"
    )


def _constant(rows: pl.DataFrame, truths: Sequence[bool] = (True, False)) -> str:
    """Return the sentence that the log-odds do not vary within the strata of some truths; "" if they do."""
    if not truths or any(spread(rows.filter(pl.col("truth") == truth)) > 0 for truth in truths):
        return ""
    strata = " and ".join(f"with the label {'present' if truth else 'absent'}" for truth in truths)
    return f"the log-odds are the same for all patients {strata}, so that effects have no unit"


def _clusters(rows: pl.DataFrame, columns: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Cluster the maps of a label, test their association with metadata, and list the typical cases of each cluster."""
    mapped = rows.filter(pl.col("status") == OK)
    if not len(mapped):
        return {"number": 0, "reason": "there are no maps"}
    maps = stacked(mapped)
    patients = mapped["patient"].to_list()
    clusters = cluster_maps(maps, patients, seed=seed)
    content: dict[str, Any] = {
        "number": clusters.number,
        "stability": clusters.stability,
        "reason": clusters.reason,
        "cases": dict(zip(mapped["case"].to_list(), clusters.labels.tolist(), strict=True)),
    }
    if clusters.number > 1:
        cues = [name for name in rows.columns if name.startswith("cue:")]
        kept = mapped.select("group", "outcome", *columns, *cues).to_dict(as_series=False)
        content["associations"] = associations(clusters.labels, kept, patients=patients, seed=seed)
        numbers = mapped["case"].to_list()
        content["typical"] = {
            number: [numbers[i] for i in members]
            for number, members in typical(clusters.labels, maps, k=_TYPICAL).items()
        }
    return content
