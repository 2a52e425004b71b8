"""camscope layers: what a network looks at, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import Device, Engine, ModelName, Out, Seed, Weights, pairs, prepare


@with_model_options
def layers(
    image: Annotated[Path, typer.Argument(help="One picture.")],
    model: ModelName,
    out: Out,
    weights: Weights = "default",
    method: Annotated[str, typer.Option(help="See `camscope methods`.")] = "gradcam",
    target: Annotated[str, typer.Option(help="Class name or index, or top1.")] = "top1",
    layer: Annotated[str | None, typer.Option(help="With --steps: the layer.", show_default="found by itself")] = None,
    steps: Annotated[bool, typer.Option("--steps", help="Show how the map is made, step by step.")] = False,
    setting: Annotated[list[str] | None, typer.Option("--set", help="name=value for the method.")] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    seed: Seed = 0,
    *,
    loading: dict[str, Any],
) -> None:
    """Show the map at every stage of a network, first to last; or how one map is made.

    Writes layers.png: a map for each stage, with its name and the size of its grid. With --steps it writes steps.png:
    the strongest 12 channels with their weights, their weighted sum before and after the ReLU, the grid, the map at
    picture size and the overlay.

    Example: camscope layers cat.jpg --model torchvision:vgg16 --out sheet
    """
    from camscope.explanation.figures import stages_sheet, steps_sheet
    from camscope.explanation.method_lookup import check_settings
    from camscope.files import MAPS, claim, write_atomically
    from camscope.images import read

    settings: dict[str, Any] = pairs(setting or [], "--set")
    check_settings(settings, [method])
    picture = read(image)
    loaded = load_noted(model, seed=seed, weights=weights, **loading)
    prepare(loaded, device, seed)
    claim(out, MAPS)
    asked: dict[str, Any] = {"method": method, "target": target, "engine": engine, "settings": settings}
    if steps:
        page = out / "steps.png"
        drawn = steps_sheet(loaded, picture, layer=layer, **asked)
    else:
        page = out / "layers.png"
        drawn = stages_sheet(loaded, picture, **asked)
    write_atomically(page, lambda file: drawn.save(file, "PNG"))
    print(page)
