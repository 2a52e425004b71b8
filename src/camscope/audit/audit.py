"""The audit of a study from end to end: rows in, verdicts out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl

from camscope.audit.findings import LabelFindings, collect, judged, no_findings
from camscope.audit.label import measure, measure_properties
from camscope.audit.measures import adjusted
from camscope.audit.output import plain, write_json, write_tables
from camscope.audit.properties import TraitReader
from camscope.audit.settings import FEWEST, LEVEL, AuditSettings
from camscope.cohort.sampling import drawn_cases
from camscope.cohort.store import FAILED, Store
from camscope.errors import StoreError, check_count
from camscope.progress import Progress
from camscope.study.config import AuditSection
from camscope.study.run import study_record
from camscope.study.study import Study

AUDIT_VERSION = 2

_ROWS = ("case", "patient", "group", "truth", "model", "log_odds", "outcome", "status")
_MAPS = ("case", "grid", "grid_height", "grid_width")


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
        study: with an ``[audit]`` section that names regions or properties.
        out: its folder, with its rows.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: inputs in one forward pass.
        engine: what scores the edited pictures, "eager", "packed", "openvino" or "auto", which is "packed" here.
        progress: called with a label, the cases done, and their number.

    Returns:
        What ``audit.json`` holds; ``docs/audit.md`` describes it.

    Raises:
        StoreError: the folder has no rows of this study, or the study names nothing to test.
    """
    check_count("batch_size", batch_size)
    section = study.file.audit
    if section is None or not (section.regions or section.properties):
        raise StoreError(
            f"{study.path} has no [audit] with disease, shortcuts or properties: name what is to be tested"
        )
    store = Store(out)
    settings = AuditSettings(section.delta, section.replicates, section.seed)
    scan = _scan(study, store)
    findings: dict[str, LabelFindings] = {}
    readers: dict[tuple[str, int], TraitReader] = {}
    options: dict[str, Any] = {"device": device, "batch_size": batch_size, "engine": engine, "progress": progress}
    for label in study.file.labels:
        rows, drawn = _rows(scan, study, label, section=section)
        if not len(rows):
            continue
        measured = measure(study, label, section, rows=drawn, **options)
        layer = measured.test.layer
        properties = measure_properties(study, label, section, rows=drawn, layer=layer, readers=readers, **options)
        findings[label] = collect(study, section, measured, properties, rows=rows, drawn=drawn, settings=settings)
    of_regions = adjusted({label: entry.effects for label, entry in findings.items()})
    of_properties = adjusted({label: entry.property_effects for label, entry in findings.items()})
    content: dict[str, Any] = plain(
        {
            "audit_version": AUDIT_VERSION,
            "plan": study.plan,
            "patient_source": study_record(store).get("patients"),
            "settings": dataclasses.asdict(settings)
            | {"cases": section.cases, "level": LEVEL, "fewest_patients": FEWEST},
            "forwards": sum(entry.content["forwards"] for entry in findings.values()),
            "labels": {
                label: judged(label, section, findings[label], of_regions[label], of_properties[label])
                if label in findings
                else no_findings(study, section, label)
                for label in study.file.labels
            },
        }
    )
    write_json(store, content)
    write_tables(store, content, {label: entry.changes for label, entry in findings.items()})
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
