"""camscope failures: explain the most confident mistakes of a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import (
    BatchSize,
    Device,
    ImageColumn,
    Labels,
    Out,
    PatientColumn,
    Seed,
    Weights,
    class_names,
    prepare,
    progress,
    steps,
)
from camscope.errors import SettingError


@with_model_options
def failures(
    model: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="Output folder of `camscope train`, or any model.")
    ],
    out: Out,
    data: Annotated[
        Path | None, typer.Option(help="Class folders, a table, or a study file.", show_default="those of the run")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split to evaluate, if the data have splits: train, val, test or all.")
    ] = "test",
    label: Annotated[list[str] | None, typer.Option(help="Column or label; repeat for several.")] = None,
    image: ImageColumn = None,
    patient: PatientColumn = None,
    labels: Labels = None,
    weights: Weights = "default",
    method: Annotated[str, typer.Option(help="Method; `camscope methods` lists them.")] = "gradcam",
    layer: Annotated[str | None, typer.Option(help="Target layer.", show_default="detected automatically")] = None,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Evaluate a model on labelled images, and explain its most confident mistakes.

    Writes report.html, failures.csv (every mistake), predictions.csv and metrics.json. Each mistake is explained for
    the predicted class and for the true one, and the worst mistakes at every stage of the network.

    Example: camscope failures run --data new_xrays --out failures
    """
    from camscope.files import claim
    from camscope.training.dataset import SPLITS, read_dataset
    from camscope.training.evaluate import of_split, predict
    from camscope.training.report import report, seen_in_training
    from camscope.training.splits import FILE, splits_of_files

    if split not in (*SPLITS, "all"):
        raise SettingError(f"split cannot be {split!r}; possible: {', '.join(SPLITS)}, all")
    if data is None:
        data = Path(model) / FILE
        if not data.is_file():
            raise SettingError(f"{model} has no {FILE} of a training: give labelled images with --data")
    loaded = load_noted(model, seed=seed, weights=weights, labels=class_names(labels), **loading)
    prepare(loaded, device, seed)
    dataset = read_dataset(data, labels=label or (), image=image, patient=patient).for_model(loaded)
    cases = dataset.cases if split == "all" else of_split(dataset, split)
    claim(out, "failures")
    used = splits_of_files(Path(model))
    with progress() as bar:
        predictions = predict(loaded, cases, batch_size=batch_size, progress=steps(bar))
        figures = report(predictions, out, method=method, layer=layer, seed=seed, progress=steps(bar), used=used)
    for name, reason in predictions.faults.items():
        print(f"camscope: not judged: {name}: {reason}", file=sys.stderr)
    for text in filter(None, (*figures["notes"], seen_in_training(figures))):
        print(f"note: {text}", file=sys.stderr)
    if as_json:
        print(json.dumps({"folder": str(out), **figures}, ensure_ascii=False))
    else:
        print(out / "report.html")
    raise typer.Exit(1 if predictions.faults else 0)
