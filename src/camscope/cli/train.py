"""camscope train: train and evaluate a model, and explain its failures."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.model_options import with_model_options
from camscope.cli.options import (
    BatchSize,
    Device,
    ImageColumn,
    ModelName,
    Out,
    PatientColumn,
    Seed,
    numbers,
    progress,
    steps,
)
from camscope.naming import unique_file_name

if TYPE_CHECKING:
    from camscope.models.model import Model
    from camscope.training.dataset import Dataset
    from camscope.training.settings import TrainingSettings


_OF_NETWORK = ("input_size", "mean", "std", "fit", "option", "prefix", "ignore", "trust")


@functools.partial(with_model_options, names=_OF_NETWORK)
def train(
    data: Annotated[Path, typer.Argument(help="A folder of class folders, a table, or a study file.")],
    model: ModelName,
    out: Out,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights: 'default' (published, or random if they cannot be reached), 'none' (random), or a file; "
            "a classifier of another size in it is left out."
        ),
    ] = "default",
    label: Annotated[
        list[str] | None, typer.Option(help="Column of the table, or label of the study; repeat.", show_default="all")
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Train one model per label, in OUT/LABEL.")] = False,
    image: ImageColumn = None,
    patient: PatientColumn = None,
    split: Annotated[str, typer.Option(help="Fractions of training, validation and test.")] = "0.7,0.15,0.15",
    epochs: Annotated[int, typer.Option(help="Maximum number of epochs.")] = 30,
    patience: Annotated[int, typer.Option(help="Stop after this many epochs without a lower validation loss.")] = 8,
    batch_size: BatchSize = 32,
    rate: Annotated[float, typer.Option(help="Maximum learning rate of the classifier.")] = 1e-3,
    frozen: Annotated[
        int | None,
        typer.Option(
            help="Number of first epochs that train only the classifier.",
            show_default="2 for pretrained weights, else 0",
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Augment with mirrored images; not for chest radiographs.")
    ] = False,
    hide: Annotated[
        list[str] | None, typer.Option(help="Region to hide in training, such as border:0.1; repeat for several.")
    ] = None,
    exchange: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGION|PROPERTY",
            help="Region, such as border:0.15, or property of the acquisition, such as contrast, that each training "
            "image gets from another image, so that it is not associated with the label; repeat for several.",
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(metavar="CUE", help="Column of a cue: give each combination of label and cue the same weight."),
    ] = None,
    group_dro: Annotated[
        str | None,
        typer.Option(
            metavar="CUE",
            help="Column of a cue: give the combination of label and cue with the highest loss the most weight.",
        ),
    ] = None,
    right_reasons: Annotated[
        str | None,
        typer.Option(
            metavar="MASK",
            help="Mask of the label: penalise attribution outside the mask (right for the right reasons).",
        ),
    ] = None,
    reasons_weight: Annotated[float, typer.Option(help="Weight of the penalty of --right-reasons.")] = 1.0,
    precision: Annotated[
        str, typer.Option(help="Numerical precision: auto, 32-true, bf16-mixed or 16-mixed.")
    ] = "auto",
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Number of devices.")] = 1,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Train a model on labelled images, evaluate it, and explain its failures.

    OUT becomes a bundle that every other command takes as --model, with split.csv, report.html and checkpoints. The
    images of one patient are never in two splits. Re-run the same command to resume.

    Example: camscope train xrays --model timm:densenet121 --out run
    """
    from camscope.training.dataset import read_dataset
    from camscope.training.settings import TrainingSettings

    shares = numbers(split, "--split") or []
    settings = TrainingSettings(
        epochs=epochs, patience=patience, batch_size=batch_size, rate=rate, frozen=frozen, flip=flip,
        fractions=tuple(shares), hide=tuple(hide or ()), exchange=tuple(exchange or ()), balance=balance,  # type: ignore[arg-type]
        group_dro=group_dro, reasons=right_reasons, reasons_weight=reasons_weight, precision=precision, seed=seed,
    )  # fmt: skip
    all_data = read_dataset(data, labels=label or (), image=image, patient=patient, cue=settings.cue)
    datasets = {name: all_data.only(name) for name in all_data.labels} if each else {"": all_data}
    faults = 0
    for name, dataset in datasets.items():
        place = out / unique_file_name(name) if name else out
        where: dict[str, Any] = {"device": device, "devices": devices}
        trained_model, split_dataset = _trained(
            dataset, model, place, weights=weights, settings=settings, options=loading, **where
        )
        faults += len(split_dataset.problems)
        _say(trained_model, place, as_json=as_json)
    raise typer.Exit(1 if faults else 0)


def _trained(
    dataset: Dataset,
    spec: str,
    out: Path,
    *,
    weights: str,
    settings: TrainingSettings,
    options: dict[str, Any],
    device: str,
    devices: int,
) -> tuple[Model, Dataset]:
    from camscope.training.fit import train as fit
    from camscope.training.init_model import start

    with progress() as bar:

        def say(text: str) -> None:
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

        model_start = start(spec, dataset, weights=weights, seed=settings.seed, say=say, **options)
        return fit(
            dataset,
            model_start,
            out=out,
            settings=settings,
            device=device,
            devices=devices,
            progress=steps(bar),
            say=say,
        )


def _say(model: Model, out: Path, *, as_json: bool) -> None:
    from camscope.page.words import interval
    from camscope.training.report import people

    figures = model.facts.get("test")
    if figures is None:
        return  # with several devices, another process prints the results
    if as_json:
        print(json.dumps({"model": model.name, "folder": str(out), "test": figures}, ensure_ascii=False))
        return
    print(f"{figures['pictures']} test images of {people(figures)}: right {interval(figures['accuracy'])}")
    for label, entry in figures["labels"].items():
        print(f"  {label}: AUC {interval(entry['auc'])}, F1 {interval(entry['f1'])}")
    for text in figures["notes"]:
        print(f"note: {text}", file=sys.stderr)
    print(out / "report.html")
