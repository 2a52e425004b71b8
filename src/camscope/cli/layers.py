"""camscope layers: draw heat maps at every stage of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import Device, Engine, ModelName, Out, Precision, Seed, Weights, pairs, prepare
from camscope.errors import SettingError


@with_model_options
def layers(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    model: ModelName,
    out: Out,
    weights: Weights = "default",
    method: Annotated[str, typer.Option(help="Method; `camscope methods` lists them.")] = "gradcam",
    target: Annotated[str, typer.Option(help="Class name or index, or top1.")] = "top1",
    layers: Annotated[
        str,
        typer.Option(
            help="Layers to show: stages (one per grid size), all (every convolution), or names separated by commas.",
        ),
    ] = "stages",
    steps: Annotated[bool, typer.Option("--steps", help="Show how one heat map is computed, step by step.")] = False,
    layer: Annotated[
        str | None, typer.Option(help="Target layer, with --steps.", show_default="detected automatically")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Method setting as name=value; repeat for several.")
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    seed: Seed = 0,
    *,
    loading: dict[str, Any],
) -> None:
    """Show the heat map at several layers of a network, or with --steps how one heat map is computed.

    Writes a sheet with one map per layer, its name and its grid size, into a folder with the image's name. With
    --steps, the sheet has the image, the 11 strongest channels with their weights, the weighted sum before and after
    the ReLU, the heat map at image size, and the overlay. Another sheet, as with other settings, never replaces it;
    index.html shows all.

    Example: camscope layers cat.jpg --model torchvision:vgg16 --out sheet
    """
    from camscope.explanation import figures
    from camscope.explanation.method_lookup import check_settings
    from camscope.files import write_atomically
    from camscope.gallery import MapFolder
    from camscope.images import find_pictures, read

    if layer is not None and not steps:
        raise SettingError("--layer is for --steps: name the layers to show with --layers")
    settings: dict[str, Any] = pairs(setting or [], "--set")
    check_settings(settings, [method])
    picture = read(image)
    loaded = load_noted(model, seed=seed, weights=weights, **loading)
    prepare(loaded, device, seed)
    folder = MapFolder(out)
    request: dict[str, Any] = {"method": method, "target": target, "engine": engine, "precision": precision} | settings
    if steps:
        e, figure = figures.steps_of_map(loaded, picture, layer=layer, **request)
        maps = [e]
    else:
        names = layers.split(",") if layers not in ("stages", "all") else layers
        maps = figures.layer_maps(loaded, picture, layers=names, **request)
        figure = figures.layer_sheet(maps, title=loaded.title)
    ((_, place),) = find_pictures([image])
    path = folder.reserve_sheet("steps" if steps else "layers", maps, place.parent)["sheet"]
    write_atomically(path, lambda file: figure.save(file, "PNG"))
    folder.finish()
    print(path)
