"""camscope demo: run a study and its audit on generated chest radiographs, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from camscope.cli.options import progress, steps


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("camscope-demo"),
) -> None:
    """Generate a cohort of phantom chest radiographs, explain five small models on it, and audit them.

    The cohort has 70 patients and about 200 images. There is one ConvNeXt for each of five findings; two of them were
    trained on images in which an AP token at the border is associated with the finding. The audit must find these two
    and no other. Prints one answer per model, and the address of the report.

    Example: camscope demo --out demo
    """
    from camscope.demo.tour import tour

    with progress() as bar:
        files = tour(out, progress=steps(bar))
    width = max(len(label) for label, _ in files.answers)
    for label, answer in files.answers:
        print(f"{label:{width}}  {answer}")
    print(f"\nall verdicts:  camscope audit {files.results}\nside by side:  {files.sheet}")
    print(f"open the report in a browser:  {files.report.resolve().as_uri()}")
