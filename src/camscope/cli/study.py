"""camscope study: explain a cohort."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.audit import audited, summary
from camscope.cli.options import BatchSize, Device, Precision, Seed, messages, progress
from camscope.cli.report import reported
from camscope.cli.terminal import one_line
from camscope.errors import CamscopeError, SettingError, StudyError, reason

if TYPE_CHECKING:
    from camscope.study.cluster import Cluster
    from camscope.study.study import Study


_NO_FILE = "no study file given; write for example camscope study study.toml --out results"


def study(
    file: Annotated[Path | None, typer.Argument(metavar="STUDY.toml", help="The study file.")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder for the results, or an address such as s3://bucket/dir.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Print all problems and the planned work, and stop.")] = False,
    status: Annotated[
        str | None, typer.Option("--status", metavar="DIR", help="Print the progress of a study.")
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    engine: Annotated[
        str,
        typer.Option(
            help="Backend: eager, openvino, or auto (openvino from 400 cases on, if installed); ray for a cluster."
        ),
    ] = "auto",
    precision: Precision = "float32",
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray cluster: auto, HOST:PORT or ray://HOST:10001.",
            show_default="this machine's, or a new one on it",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of workers, with ray.", show_default="one per GPU, or one per 4 CPUs"),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs per worker, with ray; 0.5 shares one.", show_default="1 if there are GPUs"),
    ] = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Explain a cohort: patients, images, labels, one model per label.

    Writes one overlay per map into DIR/GROUP/PATIENT/IMAGE; one row per case, label and method, with the raw map, into
    DIR/rows/*.parquet; and DIR/report.html. If the study file has a section audit, also runs the audit. Re-run the same
    command to resume; after a change of the study, only what changed is computed.

    Example: camscope study study.toml --out results
    Example: camscope study study.toml --out s3://bucket/results --engine ray --address auto --workers 8
    """
    if check:
        raise typer.Exit(_check(file, device, as_json=as_json))
    if status is not None:
        _status(status, as_json=as_json)
        return
    if file is None:
        raise SettingError(_NO_FILE)
    if out is None:
        raise SettingError("no --out given: name the folder for the results")
    from camscope.study.study import Study

    cluster = _cluster(engine, address=address, workers=workers, gpus_per_worker=gpus_per_worker)
    options = {"device": device, "batch_size": batch_size, "precision": precision, "seed": seed, "cluster": cluster}
    try:
        cohort_study = Study.read(file)
        failed = _run(cohort_study, out, as_json=as_json, engine="auto" if cluster else engine, **options)
        if cohort_study.file.audit is not None:
            content, ran = audited(cohort_study, out, device=device)
            if not as_json:
                print(summary(content, ran=ran))
        page = reported(out, study=cohort_study)
        if not as_json:
            print(page)
    except StudyError as error:
        for problem in error.problems:
            print(f"camscope: {one_line(str(problem))}", file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(1 if failed else 0)


def _cluster(engine: str, **options: Any) -> Cluster | None:
    """Return the Ray cluster, if it is the engine."""
    from camscope.study.cluster import Cluster

    if engine == "ray":
        return Cluster(**options)
    if unused := [name for name, value in options.items() if value is not None]:
        raise SettingError(f"--{unused[0].replace('_', '-')} is for a cluster; give --engine ray with it")
    return None


def _run(study: Study, out: str, *, as_json: bool, **options: Any) -> int:
    """Run the study with a progress bar; return the number of failed rows."""
    from camscope.cohort.store import FAILED
    from camscope.study.run import StudyProgress, run

    counts: Counter[str] = Counter()
    last_failure: tuple[int, str] | None = None
    with progress() as bar:
        task = bar.add_task("explaining", total=len(study.cohort))

        def show(state: StudyProgress) -> None:
            speed = f", {rate:.1f} images/s" if (rate := bar.tasks[task].speed) else ""
            failures = f", {state.failed} failed" if state.failed else ""
            bar.update(task, completed=state.done, description=f"explaining {state.label}{speed}{failures}")

        for row in run(study, out, **options, progress=show, say=messages(bar)):
            counts[row["status"]] += 1
            if row["status"] == FAILED and last_failure != (row["line"], row["message"]):
                last_failure = row["line"], row["message"]
                text = one_line(f"camscope: {study.cohort.path}:{row['line']}: {row['label']}: {row['message']}")
                bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
    content = {"cases": len(study.cohort), "rows": dict(counts), "out": str(out)}
    words = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    print(json.dumps(content) if as_json else f"{len(study.cohort)} cases, {counts.total()} rows: {words}\n{out}")
    return counts[FAILED]


def _check(file: Path | None, device: str, *, as_json: bool) -> int:
    """Print all problems and the plan, even if an error occurs; return the exit status."""
    from camscope.audit.plan import plan_audit
    from camscope.cohort.sections import Problem
    from camscope.study.plan import plan
    from camscope.study.study import Study

    study, planned, audit = None, None, None
    problems: list[Problem] = []
    try:
        if file is None:
            raise SettingError(_NO_FILE)
        study, problems = Study.check(file)
        planned = None if study is None else plan(study, device=device)
        if study is not None and study.file.audit is not None:
            audit = plan_audit(study, device=device)
    except Exception as error:  # for example of a model that cannot run; programs expect an answer
        if not (as_json or isinstance(error, CamscopeError)):
            raise
        text = str(error) if isinstance(error, CamscopeError) else f"{type(error).__name__}: {reason(error)}"
        study, problems = None, [*problems, Problem(text, str(file or ""))]
    if as_json:
        items = [vars(problem) for problem in problems]
        plans = {"plan": None if planned is None else vars(planned), "audit": None if audit is None else vars(audit)}
        print(json.dumps({"problems": items} | plans))
    else:
        for problem in problems:
            print(one_line(str(problem)))
        if planned is not None:
            for note in planned.notes:
                print(one_line(f"note: {note}"))
            people = {
                "column": f" of {planned.patients} patients",
                "header": ", patients from their headers",
                "none": " of unknown patients (each image counts as one)",
            }[planned.patient_source]
            print(
                f"{planned.images} images{people}, {planned.forwards} forwards, "
                f"{planned.maps} maps, {planned.rows} rows; {_minutes(planned.seconds)}; {len(problems)} problems"
            )
        if audit is not None:
            print(f"audit: at most {audit.forwards} forwards; {_minutes(audit.seconds)}; then the report")
    return 2 if study is None else 1 if problems else 0


def _minutes(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"about {seconds / 60:.1f} minutes"


def _status(folder: str, *, as_json: bool) -> None:
    from camscope.study.run import status

    facts = status(folder)
    if as_json:
        print(json.dumps(facts))
        return
    rows = ", ".join(f"{number} {name}" for name, number in sorted(facts["rows"].items())) or "none yet"
    stopped = "finished" if facts["finished"] else "stopped; re-run the same command to resume"
    state = "running" if facts["running"] else stopped
    damaged = f"; damaged, and computed again next time: {', '.join(facts['damaged'])}" if facts["damaged"] else ""
    print(one_line(f"{facts['cases']} cases; rows: {rows}; {state}{damaged}"))
