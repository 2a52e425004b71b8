"""camscope audit: test whether models rely on the disease or on a shortcut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.options import Device, Engine, StudyFileOption, StudyFolder, progress, steps

if TYPE_CHECKING:
    from camscope.study.study import Study


def audit(
    folder: StudyFolder,
    study: StudyFileOption = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images per forward pass.", show_default="64, fewer if larger than 224 px"),
    ] = None,
    engine: Engine = "auto",
    again: Annotated[bool, typer.Option(help="Run the audit even if nothing has changed since the last one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json.")] = False,
) -> None:
    """Test, for each label, whether the model relies on a region or on a property of the acquisition.

    The regions are those in the section audit of the study file. Each region is removed or exchanged in every image,
    and the change of the log-odds is compared with that of a sham edit. Properties such as contrast or JPEG quality,
    and each part of the image, are exchanged between patients. Verdicts are never based on heat maps alone.
    Writes DIR/audit.json, audit.parquet and audit_changes.parquet.

    Example: camscope audit results
    """
    from camscope.cohort.store import Store
    from camscope.report.page import PAGE
    from camscope.study.run import study_of

    options = {"device": device, "batch_size": batch_size, "engine": engine}
    content, ran = audited(study_of(folder, study), folder, again=again, **options)
    print(json.dumps(content, ensure_ascii=False) if as_json else summary(content, ran=ran))
    if ran and (page := Store(folder).folder / PAGE).exists():
        print(f"note: {page} was written before this audit: run `camscope report {folder}`", file=sys.stderr)


def audited(study: Study, folder: str | Path, *, again: bool = False, **options: Any) -> tuple[dict[str, Any], bool]:
    """Run the audit with a progress display, unless nothing has changed since the former audit.

    Returns:
        The content of ``audit.json``, and whether the audit was run.
    """
    from camscope.audit.audit import audit as run_audit
    from camscope.audit.audit import former_audit

    former = None if again else former_audit(study, folder)
    if former is not None:
        print("note: nothing has changed since the audit in this folder, so it is not run again", file=sys.stderr)
        return former, False
    with progress() as bar:
        return run_audit(study, folder, progress=steps(bar), **options), True


def summary(content: dict[str, Any], *, ran: bool) -> str:
    """Return, per label, the self-test and the verdicts on regions and on properties to which the model responds.

    Args:
        content: of ``audit.json``.
        ran: whether the audit was run now, and not read from the folder.
    """
    lines = []
    known = content["patient_source"] != "none"
    if not known:
        lines.append("no patients are known: each image counts as a patient, so every interval may be too narrow")
    for label, result in content["labels"].items():
        auc = result["auc"]
        people = f"{result['patients']} {'patients' if known else 'images'}"
        lines.append(f"{label} ({result['model']}): AUC {_number(auc['estimate'])} on {people}")
        lines.append(f"  model: {result['self_test']['sentence']}")
        properties = {f"property:{name}": entry for name, entry in result["properties"].items()}
        shown = {name: entry for name, entry in properties.items() if entry["verdict"] in ("RELIES", "RESPONDS")}
        lines += [f"  {r['verdict']:<19} {region}: {r['reason']}" for region, r in (result["regions"] | shown).items()]
        if result["reliance_map"]:
            lines.append(f"  reliance map: {result['reliance_map']['sentence']}")
    lines += [f"{content['forwards']} inputs passed through the models"] if ran else []
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
