"""The audit of a study from end to end: rows in, verdicts out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from camscope.audit.alignment import counterfactual, cue_alignment, direction_of
from camscope.audit.interventions import Change
from camscope.audit.label import Measured, measure
from camscope.audit.measures import adjusted, effects, group_maps, heat, hidden_and_alone, metadata
from camscope.audit.settings import FEWEST, LEVEL, AuditSettings
from camscope.audit.verdicts import Alignment, Alignments, Effect, Heat, Role, judge
from camscope.cohort.sampling import drawn_cases
from camscope.cohort.store import FAILED, OK, Store
from camscope.errors import StoreError, check_count
from camscope.files import write_atomically
from camscope.progress import Progress
from camscope.statistics.auc import auc_interval
from camscope.statistics.hypotheses import patient_index
from camscope.study.clusters import associations, cluster_maps, typical
from camscope.study.config import AuditSection
from camscope.study.grids import stacked
from camscope.study.study import Study

AUDIT_VERSION = 1
JSON, TABLE, CHANGES = "audit.json", "audit.parquet", "audit_changes.parquet"

_TYPICAL = 3
_ROWS = ("case", "patient", "group", "truth", "model", "log_odds", "outcome", "status")
_MAPS = ("case", "grid", "grid_height", "grid_width")


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is known of one label before the p-values of all labels are adjusted to each other.

    Attributes:
        measured: by its model.
        effects: by region.
        heat: by region.
        untestable: region -> why nothing of it could be tested.
        alignments: by region.
        hidden: region -> AUC with it hidden and alone.
        content: what is said of the label, without its regions.
    """

    measured: Measured
    effects: Mapping[str, Sequence[Effect]]
    heat: Mapping[str, Heat | None]
    untestable: Mapping[str, str]
    alignments: Mapping[str, Alignments]
    hidden: Mapping[str, Any]
    content: dict[str, Any]


def audit(
    study: Study,
    out: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 64,
    engine: str = "auto",
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Audit a study that has been run; writes ``audit.json``, ``audit.parquet`` and ``audit_changes.parquet``.

    Args:
        study: with an ``[audit]`` section.
        out: its folder, with its rows.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: inputs in one forward pass.
        engine: what scores the edited pictures, "eager", "packed", "openvino" or "auto", which is "packed" here.
        progress: called with a label, the cases done, and their number.

    Returns:
        What ``audit.json`` holds; ``docs/audit.md`` describes it.

    Raises:
        StoreError: the folder has no rows of this study, or the study names no regions.
    """
    check_count("batch_size", batch_size)
    section = study.file.audit
    if section is None or not section.regions:
        raise StoreError(f"{study.path} has no [audit] with disease or shortcuts regions: name what is to be tested")
    store = Store(out)
    settings = AuditSettings(section.delta, section.replicates, section.seed)
    scan = _scan(study, store)
    found: dict[str, _Found] = {}
    given: dict[str, Any] = {"device": device, "batch_size": batch_size, "engine": engine}
    for label in study.file.labels:
        rows, drawn = _rows(scan, study, label, section=section)
        if not len(rows):
            continue
        one = measure(study, label, section, rows=drawn, progress=progress, **given)
        found[label] = _looked_at(study, section, one, rows=rows, drawn=drawn, settings=settings)
    effects_ = adjusted({label: one.effects for label, one in found.items()})
    content: dict[str, Any] = {
        "audit_version": AUDIT_VERSION,
        "plan": study.plan,
        "settings": dataclasses.asdict(settings) | {"cases": section.cases, "level": LEVEL, "fewest_patients": FEWEST},
        "forwards": sum(one.measured.forwards for one in found.values()),
        "labels": {
            label: found[label].content | {"regions": _judged(label, section, found[label], effects_.get(label, {}))}
            if label in found
            else _nothing(study, label)
            for label in study.file.labels
        },
    }
    content = _plain(content)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(store.folder / JSON, lambda file: file.write(text.encode("utf-8", "replace")))
    _write_tables(store, content, {label: one.measured for label, one in found.items()})
    return content


def _scan(study: Study, store: Store) -> pl.LazyFrame:
    """Return the rows of the study's first method, of the plan that the study file and table stand for now."""
    files = store.copies(study.plan)
    if not files:
        raise StoreError(f"{store.folder} has no rows of {study.path} as it stands: run `camscope study` first")
    return pl.scan_parquet(files).filter(pl.col("method") == study.file.explain.methods[0])


def _rows(scan: pl.LazyFrame, study: Study, label: str, *, section: AuditSection) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows of a label with truth and score, and those of its drawn cases, with their maps."""
    own = scan.filter((pl.col("label") == label) & (pl.col("status") != FAILED) & pl.col("truth").is_not_null())
    rows = own.select(*_ROWS, pl.col("^(stratum|cue|mass|area|peak):.*$")).collect()
    by = ["truth", *(f"cue:{name}" for name in study.file.cohort.cues)]
    cases = pl.col("case").is_in(drawn_cases(rows, by=by, limit=section.cases, seed=section.seed))
    return rows, rows.filter(cases).join(own.filter(cases).select(_MAPS).collect(), on="case", maintain_order="left")


def _looked_at(
    study: Study,
    section: AuditSection,
    one: Measured,
    *,
    rows: pl.DataFrame,
    drawn: pl.DataFrame,
    settings: AuditSettings,
) -> _Found:
    """Return what the numbers of all rows say of a label, and the maps of those that were drawn."""
    patients = patient_index(rows["patient"])
    columns = [name for name in rows.columns if name.startswith("stratum:")]
    cues = {cue: cue_alignment(rows, cue, settings=settings) for cue in study.file.cohort.cues}
    directions = {cue: direction_of(rows, cue, settings=settings) for cue in cues}
    on_cues: dict[str, Any] = {"cues": cues, "directions": directions, "threshold": one.threshold}
    alignments = {
        region: alignments_of(drawn, region, one.changes, **on_cues, settings=settings) for region in section.regions
    }
    aligned = {}
    for cue, (unedited, _) in cues.items():
        edited = alignments[f"cue:{cue}"].edited.get(("remove", "")) if f"cue:{cue}" in alignments else None
        if unedited or edited:
            aligned[cue] = unedited or edited
    return _Found(
        measured=one,
        effects=effects(rows, one.changes, settings=settings),
        heat={region: heat(rows, region, one.nulls.get(region), settings=settings) for region in section.regions},
        untestable={region: _untestable(region, one, drawn) for region in section.regions},
        alignments=alignments,
        hidden=hidden_and_alone(drawn, one.changes),
        content={
            "model": rows["model"][0],
            "cases": len(rows),
            "patients": int(patients.max()) + 1,
            "drawn": len(drawn),
            "auc": auc_interval(rows["log_odds"].to_numpy(), rows["truth"].to_numpy(), patients=patients),
            "self_test": dataclasses.asdict(one.test) | {"sentence": one.test.sentence},
            "forwards": one.forwards,
            "null_maps": one.null_maps,
            "alignment": aligned,
            "alignment_not_possible": {cue: why for cue, (_, why) in cues.items() if cue not in aligned},
            "metadata": metadata(rows, columns),
            "group_maps": group_maps(drawn, settings=settings),
            "clusters": _clusters(drawn, columns, seed=settings.seed),
        },
    )


def alignments_of(
    rows: pl.DataFrame,
    region: str,
    changes: Sequence[Change],
    *,
    cues: Mapping[str, tuple[Alignment | None, str]],
    directions: Mapping[str, int],
    threshold: float,
    settings: AuditSettings,
) -> Alignments:
    """Compute whether a region helps to tell the label, by each test that changed it.

    Args:
        rows: of the label, one per case that could be changed.
        region: the region.
        changes: of all regions.
        cues: name of a cue -> its alignment in unedited images, or why there is none.
        directions: name of a cue -> its `direction_of`.
        threshold: log-odds from which on the label is predicted.
        settings: of the statistics.
    """
    of_region = [change for change in changes if change.region == region and change.test != "only"]
    edited, missing = {}, {}
    for test, by in dict.fromkeys((change.test, change.by) for change in of_region if change.test != "insert"):
        group = [c for c in of_region if (c.test, c.by) == (test, by) or (test == "remove" and c.test == "insert")]
        direction = directions.get((by or region).removeprefix("cue:"), 1)
        found, why = counterfactual(rows, group, direction=direction, threshold=threshold, settings=settings)
        if found is None:
            missing[test, by] = why
        else:
            edited[test, by] = found
    cue = region.removeprefix("cue:")
    unedited = cues[cue][0] if directions.get(cue) == 1 else None
    return Alignments(edited, missing, unedited)


def _judged(label: str, section: AuditSection, one: _Found, found: Mapping[str, Sequence[Effect]]) -> dict[str, Any]:
    """Return the verdict on every region of a label, with what it rests on."""
    regions = {}
    for region in section.regions:
        role: Role = "disease" if region in section.disease else "shortcut"
        listed, shown = list(found.get(region, ())), one.heat[region]
        judged = judge(
            label,
            region,
            role,
            effects=listed,
            heat=shown,
            alignments=one.alignments[region],
            untestable=one.untestable[region],
            delta=section.delta,
        )
        regions[region] = {
            "role": role,
            "verdict": judged.verdict,
            "reason": judged.reason,
            "enrichment": None if shown is None else shown.enrichment,
            "effect": _strongest(listed),
            "heat": shown,
            "effects": listed,
            "counterfactual": {
                " ".join(filter(None, key)): alignment for key, alignment in one.alignments[region].edited.items()
            },
            "auc": one.hidden.get(region, {}),
        }
    return regions


def _nothing(study: Study, label: str) -> dict[str, Any]:
    """Return what is said of a label without a single case whose truth is known."""
    section = study.file.audit
    reason = f"Nothing can be said of {label}: no case has both a known truth and a score."
    regions = () if section is None else section.regions
    blank: dict[str, Any] = {"enrichment": None, "effect": None, "heat": None, "effects": [], "auc": {}}
    blank["counterfactual"] = {}
    found = {
        region: {
            "role": "disease" if section and region in section.disease else "shortcut",
            "verdict": "NOT TESTABLE",
            "reason": reason,
        }
        | blank
        for region in regions
    }
    nothing: dict[str, Any] = {"alignment": {}, "alignment_not_possible": {}, "metadata": {}, "group_maps": {}}
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
        "regions": found,
        "clusters": {"number": 0, "reason": "there are no maps"},
    }


def _strongest(found: Sequence[Effect]) -> Effect | None:
    """Return the effect that the verdict speaks of: the largest, insertions aside."""
    removals = [effect for effect in found if effect.test != "insert"]
    return max(removals, key=lambda effect: abs(effect.effect.estimate), default=None)


def _untestable(region: str, one: Measured, drawn: pl.DataFrame) -> str:
    """Return why no stratum of a region could be tested."""
    changed = {c.case for c in one.changes if c.region == region and c.test in ("remove", "exchange")}
    if not changed:
        if region in one.large:
            return "no donor of the same group with the other label"
        return "no case has it, or no place of its shape lies outside every mask"
    own = drawn.filter(pl.col("case").is_in(list(changed)))
    most = max(own.filter(pl.col("truth") == truth)["patient"].n_unique() for truth in (True, False))
    return f"at most {most} patients with it are on one side of the label, and {FEWEST} are needed"


def _clusters(rows: pl.DataFrame, columns: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Clusters of the maps of one label, what they go with, and their most typical cases."""
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
            number: [numbers[i] for i in found] for number, found in typical(clusters.labels, maps, k=_TYPICAL).items()
        }
    return content


def _plain(value: Any) -> Any:
    """Plain JSON values: dataclasses as objects, NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _write_tables(store: Store, content: Mapping[str, Any], measured: Mapping[str, Measured]) -> None:
    """Write one row per label, region, stratum, test and fill-in, and one per change."""
    rows = []
    for label, one in content["labels"].items():
        for region, found in one["regions"].items():
            head = {"label": label, "region": region, "role": found["role"], "verdict": found["verdict"]}
            heat_ = found["heat"] or {}
            head |= {name: heat_.get(name) for name in ("area", "mass")}
            head |= {f"enrichment_{name}": value for name, value in (found["enrichment"] or {}).items()}
            for effect in found["effects"] or [{}]:
                for fill, interval in {"all": effect.get("effect"), **effect.get("by_fill", {})}.items():
                    numbers = {name: effect.get(name) for name in _EFFECT}
                    rows.append(
                        head | numbers | {"fill_in": fill} | {f"effect_{k}": v for k, v in (interval or {}).items()}
                    )
    table = pl.DataFrame(rows, infer_schema_length=None)
    write_atomically(store.folder / TABLE, lambda file: table.write_parquet(file, compression="zstd"))
    changes = pl.DataFrame(
        [{"label": label} | dataclasses.asdict(change) for label, one in measured.items() for change in one.changes]
    )
    write_atomically(store.folder / CHANGES, lambda file: changes.write_parquet(file, compression="zstd"))


_EFFECT = (
    "stratum",
    "test",
    "by",
    "cases",
    "patients",
    "sd",
    "sham",
    "p",
    "p_adjusted",
    "p_equivalence",
    "smallest_delta",
)
