"""camscope evaluate: compare methods by metrics, with trivial baselines."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import (
    BatchSize,
    Device,
    Engine,
    ImageColumn,
    ModelName,
    Out,
    PatientColumn,
    Seed,
    Weights,
    messages,
    pairs,
    prepare,
    progress,
)
from camscope.cli.terminal import one_line

if TYPE_CHECKING:
    from camscope.evaluation.plan import EvaluationPlan

_FIRST_RESULTS = 30.0
"""Seconds until the page is written for the first time; then whenever the time has doubled."""


@with_model_options
def evaluate(
    model: ModelName,
    data: Annotated[str, typer.Option("--data", help="Folder of images, a table, or a study file.")],
    out: Out,
    weights: Weights = "default",
    masks: Annotated[
        str | None, typer.Option(help="A column with masks, a folder of masks, or a mask or label of a study file.")
    ] = None,
    boxes: Annotated[str | None, typer.Option(help="A column with boxes x0,y0,x1,y1;... in pixels.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Class name or index, or column:NAME.", show_default="the predicted class")
    ] = None,
    image: ImageColumn = None,
    patient: PatientColumn = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, separated by commas, or all; `camscope methods` lists them.",
            show_default="six methods of one pass",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Metrics, separated by commas, or all.", show_default="those of at most one further pass"),
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="All methods and all metrics, unless --methods or --metrics name some.")
    ] = False,
    layer: Annotated[str | None, typer.Option(help="Target layer.", show_default="detected automatically")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Method setting as name=value; repeat for several.")
    ] = None,
    few: Annotated[int, typer.Option(min=1, help="Number of images for expensive metrics, such as sanity checks.")] = 4,
    most_passes: Annotated[
        int,
        typer.Option(min=1, help="Methods that need more forward passes per map are run on few images (see --few)."),
    ] = 2000,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    engine: Engine = "auto",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as one JSON object.")] = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Evaluate methods on a model: are their maps right, faithful, stable and affordable?

    Writes one row per image and method, with one column per metric, into DIR/rows/*.parquet; the table with confidence
    intervals and comparisons into DIR/evaluation.json; and DIR/evaluation.html with figures. Four baselines are always
    included: a uniform map, a centre prior, the average mask and random channel weights. The page shows first results
    after half a minute, and then again and again. Re-run the same command to resume.

    Example: camscope evaluate -m timm:resnet50 --data birds.csv --boxes box --methods gradcam,layercam --out results
    """
    from camscope.evaluation.baselines import MAPLESS
    from camscope.evaluation.candidates import FAST_METHODS, chosen_methods
    from camscope.evaluation.data import read_data
    from camscope.evaluation.page import evaluated
    from camscope.evaluation.plan import EvaluationPlan
    from camscope.evaluation.rows import FAST_METRICS, chosen_metrics
    from camscope.explanation.method_lookup import check_settings
    from camscope.models.device import device_of
    from camscope.models.engines import EDITS, resolve

    method_names = chosen_methods(methods or ("all" if thorough else FAST_METHODS))
    metric_names = chosen_metrics(metrics or ("all" if thorough else FAST_METRICS))
    settings = pairs(setting or [], "--set")
    check_settings(settings, [name for name in method_names if name not in MAPLESS])
    cases = read_data(data, masks=masks, boxes=boxes, target=target, image=image, patient=patient, exclude=[out])
    loaded = load_noted(model, seed=seed, weights=weights, **loading)
    prepare(loaded, device, seed)
    plan = EvaluationPlan(
        loaded,
        cases,
        method_names,
        metric_names,
        layer=layer,
        settings=settings,
        few=few,
        most_passes=most_passes,
        batch_size=batch_size,
        seed=seed,
        engine=resolve(engine, EDITS * len(cases.cases), device=device_of(loaded)),
    )
    failed = _run(plan, out)
    content = evaluated(out)
    print(json.dumps(content, ensure_ascii=False) if as_json else _told(content, out))
    raise typer.Exit(1 if failed else 0)


def _run(plan: EvaluationPlan, out: Path) -> int:
    """Run the evaluation with a progress display and first results; return the number of failed rows."""
    from camscope.cohort.store import FAILED
    from camscope.evaluation.page import PAGE, evaluated
    from camscope.evaluation.run import evaluate as rows_of

    failed, reasons = 0, set()
    begin, due, rows_total = time.monotonic(), _FIRST_RESULTS, len(plan.data.cases) * len(plan.methods)
    with progress() as bar:
        task = bar.add_task("evaluating", total=None)

        def show(method: str, count: int, total: int) -> None:
            bar.update(task, completed=count, total=total, description=f"evaluating {method}")

        say = messages(bar)
        for count, row in enumerate(rows_of(plan, out, progress=show, say=say), 1):
            elapsed = time.monotonic() - begin
            if elapsed > due and count < rows_total:
                evaluated(out)
                minutes = elapsed / 60 * (rows_total / count - 1)
                say(f"first results in {out / PAGE}: {count} of {rows_total} maps, about {minutes:.1f} minutes to go")
                due = 2 * elapsed
            if row["status"] == FAILED:
                failed += 1
                reason = one_line(f"{row['image']}: {row['message']}")
                if reason not in reasons:
                    reasons.add(reason)
                    print(f"camscope: failed: {reason}", file=sys.stderr)
    return failed


def _told(content: dict[str, Any], out: Path) -> str:
    """Return the table for the terminal: one line per method with the main metrics."""
    from camscope.evaluation.summary_text import headline_table

    return "\n".join([*headline_table(content["table"]), f"{out / 'evaluation.html'}"])
