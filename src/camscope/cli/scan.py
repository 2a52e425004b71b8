"""camscope scan: rank the odd images of a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import (
    BatchSize,
    Device,
    Labels,
    ModelName,
    Out,
    Seed,
    Weights,
    class_names,
    messages,
    prepare,
    progress,
    steps,
)
from camscope.cli.terminal import one_line


@with_model_options
def scan(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of images, or a table; no labels needed.")],
    model: ModelName,
    out: Out,
    weights: Weights = "default",
    labels: Labels = None,
    method: Annotated[str, typer.Option(help="Method of the maps; `camscope methods` lists them.")] = "gradcam",
    most: Annotated[int, typer.Option(min=1, help="Largest number of images on the page.")] = 200,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    *,
    loading: dict[str, Any],
) -> None:
    """Scan a folder of images without labels, and rank what is odd.

    Finds images that are unreadable, blank, duplicated, inverted, of another size or unlike the others, predictions of
    low confidence, heat at borders and in corners, and unusual maps. Writes one page with the reasons in words
    (DIR/scan.html), a contact sheet, and all numbers (DIR/scan.csv and scan.parquet). Re-run the same command to
    resume.

    Example: camscope scan radiographs -m timm:resnet50 --out odd
    """
    from camscope.cohort.store import FAILED
    from camscope.evaluation.data import read_data
    from camscope.scan import ScanPlan
    from camscope.scan import scan as run
    from camscope.scan.run import PAGE

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no patients are known")  # a scan counts images
        data = read_data(folder, exclude=[out])
    loaded = load_noted(model, seed=seed, weights=weights, labels=class_names(labels), **loading)
    prepare(loaded, device, seed)
    plan = ScanPlan(loaded, data, method=method, batch_size=batch_size, seed=seed, most=most)
    with progress() as bar:
        table = run(plan, out, progress=steps(bar), say=messages(bar))
    for row in table.filter(table["oddness"] > 0).head(10).iter_rows(named=True):
        print(f"{row['oddness']:5.1f}  {one_line(row['image'] + ': ' + '; '.join(row['reasons']))}")
    print(out / PAGE)
    raise typer.Exit(int((table["status"] == FAILED).any()))
