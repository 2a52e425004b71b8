"""Define options that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from camscope.cli.terminal import one_line
from camscope.errors import SettingError, shortened

if TYPE_CHECKING:
    from camscope.models.model import Model

MODELS = (
    "timm:NAME, torchvision:NAME, hf:NAME, ultralytics:NAME, smp:ARCHITECTURE/ENCODER, keras:NAME, "
    "torchxrayvision:NAME, a bundle folder, or a .keras or .onnx file"
)
"""Accepted forms of a model, for help texts."""

ModelName = Annotated[str, typer.Option("--model", "-m", help=f"{MODELS}.")]
Labels = Annotated[
    str | None,
    typer.Option(help="Class names, separated by commas, or a text, JSON or CSV file with them; for CLIP, the texts."),
]
Weights = Annotated[
    str, typer.Option(help="Weights: 'default' (published), 'none' (random), or a .pth, .pt or .safetensors file.")
]
StudyFolder = Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `camscope study`, or its address.")]
StudyFileOption = Annotated[
    Path | None,
    typer.Option("--study", metavar="STUDY.toml", help="Study file.", show_default="the one it was run with"),
]
ImageColumn = Annotated[str | None, typer.Option(help="Column with the images.", show_default="detected by its name")]
PatientColumn = Annotated[
    str | None, typer.Option(help="Column with the patients.", show_default="detected by its name")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Device = Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1, mps, or auto for the fastest available.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]
Engine = Annotated[
    str,
    typer.Option(
        help="Backend: eager, openvino, or auto (openvino from 400 images on, if installed). Results agree to 1e-4."
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision before the layer: float32, bfloat16, float16, or auto (bfloat16 if the device computes it). "
        "Maps of a lower one are compared with float32."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed.")]


def progress() -> Progress:
    """Return a progress bar on standard error; silent if standard error is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def steps(bar: Progress) -> Callable[[str, int, int], None]:
    """Return a function (step, done, total) that shows each step on a separate line."""
    tasks: dict[str, TaskID] = {}

    def show(what: str, count: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=count)

    return show


def messages(bar: Progress) -> Callable[[str], None]:
    """Return a function that prints a message for the user on a line above a progress bar."""

    def say(text: str) -> None:
        bar.console.print(f"camscope: {one_line(text)}", markup=False, highlight=False, soft_wrap=True)

    return say


def pairs(items: Iterable[str], option: str) -> dict[str, Any]:
    """Return ``name=value`` arguments as a dictionary; values in JSON are parsed.

    >>> pairs(["samples=8", "pad_type=same"], "--set")
    {'samples': 8, 'pad_type': 'same'}
    """
    values: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise SettingError(f"{option} takes name=value, and {item!r} is not; write for example {option} samples=8")
        try:
            values[name] = json.loads(value, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            values[name] = value
    return values


def _refuse_constant(name: str) -> None:
    raise SettingError(f"expected a finite number, but got {name}")


def numbers(text: str | None, option: str) -> list[float] | None:
    """Return the numbers of a text separated by commas.

    >>> numbers("0.5,0.5,0.5", "--mean")
    [0.5, 0.5, 0.5]
    """
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise SettingError(f"{option} takes finite numbers separated by commas, and {shortened(text)} is not")
    return values


def class_names(labels: str | None) -> Path | list[str] | None:
    """Return the path of a file of class names, or the list of names, for `camscope.load`.

    >>> class_names("Normal,Effusion")
    ['Normal', 'Effusion']
    """
    if labels is None:
        return None
    return Path(labels) if Path(labels).is_file() else labels.split(",")


def prepare(model: Model, device: str, seed: int) -> None:
    """Put a model on its device, and set the random seed."""
    import torch

    from camscope.models.device import on_device

    torch.manual_seed(seed)
    on_device(model, device)
