"""Audit a study: read its rows, apply the interventions, and write the verdicts."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from camscope.audit.findings import LabelFindings, collect, judged, no_findings
from camscope.audit.label import measure, measure_properties
from camscope.audit.measures import adjusted, adjusted_responses
from camscope.audit.output import JSON, plain, write_json, write_tables
from camscope.audit.properties import TraitReader
from camscope.audit.settings import FEWEST, LEVEL, AuditSettings
from camscope.cohort.sampling import drawn_cases
from camscope.cohort.store import FAILED, Store, key_of
from camscope.errors import CamscopeError, StoreError, check_count
from camscope.progress import Progress
from camscope.study.config import AuditSection
from camscope.study.run import study_record
from camscope.study.study import Study

AUDIT_VERSION = 6

_ROWS = ("case", "patient", "group", "truth", "model", "log_odds", "outcome", "status")
_MAPS = ("case", "grid", "grid_height", "grid_width")


def audit(
    study: Study,
    out: str | Path,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    engine: str = "auto",
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Audit a study that has been run; write ``audit.json``, ``audit.parquet`` and ``audit_changes.parquet``.

    Args:
        study: a study with an ``[audit]`` section that names regions or properties.
        out: the study's output folder, which contains its rows.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        batch_size: inputs per forward pass; None for as many pixels as 64 inputs of 224 x 224 have, at most 64.
        engine: backend that scores the edited images: "eager", "openvino", or "auto" by the number of cases.
        progress: called with the current step, the number of cases done, and the total.

    Returns:
        The content of ``audit.json``; see ``docs/audit.md``.

    Raises:
        StoreError: the folder has no rows of this study, or the ``[audit]`` section has nothing to test.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    section = study.file.audit
    if section is None or not (section.regions or section.properties):
        raise StoreError(
            f"{study.path} has no [audit] section with disease, shortcuts or properties: list there what to test"
        )
    store = Store(out)
    files = store.copies(study.plan)
    settings = AuditSettings(section.delta, section.replicates, section.seed)
    scan, inputs = _scan(study, store, files), _inputs(study, section, files)
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
    entries = _judged(section, findings)
    content: dict[str, Any] = plain(
        {
            "audit_version": AUDIT_VERSION,
            "inputs": inputs,
            "plan": study.plan,
            "patient_source": study_record(store).get("patients"),
            "settings": dataclasses.asdict(settings)
            | {"cases": section.cases, "level": LEVEL, "fewest_patients": FEWEST},
            "forwards": sum(entry.content["forwards"] for entry in findings.values()),
            "labels": {
                label: entries.get(label) or no_findings(study, section, label, failed=_failed(scan, label))
                for label in study.file.labels
            },
        }
    )
    write_json(store, content)
    write_tables(store, content, {label: entry.changes for label, entry in findings.items()})
    return content


def _judged(section: AuditSection, findings: Mapping[str, LabelFindings]) -> dict[str, dict[str, Any]]:
    """Return the entries of the labels, with p-values that are adjusted over all of them."""
    of_regions = adjusted({label: entry.effects for label, entry in findings.items()})
    of_properties = adjusted({label: entry.property_effects for label, entry in findings.items()})
    of_swaps = adjusted_responses({label: entry.responses for label, entry in findings.items()})
    return {
        label: judged(label, section, entry, of_regions[label], of_properties[label], of_swaps[label])
        for label, entry in findings.items()
    }


def former_audit(study: Study, out: str | Path) -> dict[str, Any] | None:
    """Return the content of ``audit.json`` if it was made from the same rows and settings, by this version.

    Args:
        study: a study with an ``[audit]`` section.
        out: the study's output folder.
    """
    store = Store(out)
    if study.file.audit is None:
        return None
    try:
        content = json.loads((store.folder / JSON).read_text(encoding="utf-8"))
        return content if content["inputs"] == _inputs(study, study.file.audit, store.copies(study.plan)) else None
    except (OSError, ValueError, KeyError, TypeError, CamscopeError):  # none, or damaged: it is computed again
        return None


def _inputs(study: Study, section: AuditSection, files: list[Path]) -> str:
    """Return the fingerprint of what an audit is computed from; rows have those of images, weights and masks."""
    rows = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return key_of(AUDIT_VERSION, importlib.metadata.version("camscope"), study.plan, section.model_dump(), rows)


def _scan(study: Study, store: Store, files: list[Path]) -> pl.LazyFrame:
    """Return the rows of the study's first method, computed with the present study file and table."""
    if not files:
        raise StoreError(f"{store.folder} has no rows of the present {study.path}: run `camscope study` first")
    return pl.scan_parquet(files).filter(pl.col("method") == study.file.explain.methods[0])


def _failed(scan: pl.LazyFrame, label: str) -> int:
    failed = scan.filter((pl.col("label") == label) & (pl.col("status") == FAILED))
    return int(failed.select(pl.len()).collect().item())


def _rows(scan: pl.LazyFrame, study: Study, label: str, *, section: AuditSection) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return all rows of a label with truth and score, and the rows of the sampled cases with their maps."""
    label_rows = scan.filter((pl.col("label") == label) & (pl.col("status") != FAILED) & pl.col("truth").is_not_null())
    rows = label_rows.select(*_ROWS, pl.col("^(stratum|cue|mass|area|peak):.*$")).collect()
    by = ["truth", *(f"cue:{name}" for name in study.file.cohort.cues)]
    cases = pl.col("case").is_in(drawn_cases(rows, by=by, limit=section.cases, seed=section.seed))
    maps = label_rows.filter(cases).select(_MAPS).collect()
    return rows, rows.filter(cases).join(maps, on="case", maintain_order="left")
