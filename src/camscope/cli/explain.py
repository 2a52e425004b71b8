"""camscope explain: explain images."""

from __future__ import annotations

import contextlib
import functools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import (
    BatchSize,
    Device,
    Engine,
    Labels,
    ModelName,
    Out,
    Precision,
    Seed,
    Weights,
    class_names,
    pairs,
    prepare,
    progress,
)
from camscope.cli.terminal import exit_after, printed_notes
from camscope.errors import PictureError, SettingError
from camscope.naming import MAP_FILES
from camscope.prefetch import prefetch

if TYPE_CHECKING:
    from camscope.explanation import Explanation
    from camscope.gallery import MapFolder
    from camscope.models.model import Model

_WRITERS = 2


@with_model_options
def explain(
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders or patterns such as 'photos/*.jpg'; volumes for a 3-D model."),
    ],
    model: ModelName,
    out: Out,
    weights: Weights = "default",
    labels: Labels = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Method; `camscope methods` lists them. Repeat for several.",
            show_default="gradcam; occlusion for a black box",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Class name, class index, or topK; of boxes and masks also CLASS@x0,y0,x1,y1; repeat for several.",
            show_default="top1",
        ),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Target layer.", show_default="detected automatically")] = None,
    scale: Annotated[str, typer.Option(help="Scaling for display: minmax, max, percentile or fixed:LO,HI.")] = "minmax",
    cmap: Annotated[str, typer.Option(help="Colour map: byr (blue, yellow, red) or any of Matplotlib.")] = "byr",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the heat map in the overlay.")] = 0.5,
    write: Annotated[
        str,
        typer.Option(
            help="Files to write, separated by commas: original, grayscale, heatmap, overlay, panel, npy, json, of "
            "volumes also montage and nii; all for these; svg or pdf for a figure."
        ),
    ] = "all",
    files: Annotated[
        str,
        typer.Option(
            help="Pattern of their paths in the folder, with {image}, {method}, {label}, {model} and {kind}; .jpg or "
            ".png at its end is the format of the images."
        ),
    ] = MAP_FILES,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Method setting as name=value (see `camscope methods NAME`); repeat for several."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    engine: Engine = "auto",
    precision: Precision = "float32",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Explain images: show where a model looks.

    Writes, for each image, the original, the heat map in grey and in colour, the overlay, a labelled panel, the raw
    map (.npy) and explanation.json; and for all of them index.html and contact_sheet.jpg. Low values are blue, medium
    values yellow, high values red.

    Volumes are NIfTI, NRRD and MHA files, and folders with a DICOM series each; map.nii.gz is the map on their grid.

    Example: camscope explain cat.jpg --model timm:convnext_base --target tabby --out maps
    """
    from camscope.explanation import explain_all
    from camscope.explanation.method_lookup import check_settings
    from camscope.gallery import MapFolder
    from camscope.methods.passes import reporting
    from camscope.render import check_display

    if not 0 <= opacity <= 1:  # NaN passes the option's own limits
        raise SettingError(f"--opacity must be from 0 to 1, but got {opacity}")
    check_display(scale, cmap)
    places = _found(images, out)
    settings = pairs(setting or [], "--set")
    if method:
        check_settings(settings, method)
    folder = MapFolder(out, files=files, write=write, scale=scale, cmap=cmap, opacity=opacity)
    loaded = load_noted(model, seed=seed, weights=weights, labels=class_names(labels), **loading)
    prepare(loaded, device, seed)
    places = _volumes(loaded, images, out) or places
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(progress())
        stack.enter_context(reporting(lambda count, total: bar.update(passes, completed=count, total=total)))
        task = bar.add_task("explaining", total=len(places))
        passes = bar.add_task("passes of a map", total=None)
        explanations = explain_all(
            loaded,
            places,
            methods=method,
            targets=list(target) if target else None,
            layer=layer,
            batch_size=batch_size,
            engine=engine,
            precision=precision,
            on_error=lambda source, error: failed.update({source: str(error)}),
            **settings,
        )

        named = ((e, folder.reserve(e, places[Path(e.source)].parent)) for e in explanations)
        last, image_count = "", 0
        writers = stack.enter_context(ThreadPoolExecutor(_WRITERS))
        for e, paths in prefetch(writers, functools.partial(_saved, folder), named, depth=batch_size, weigh=_bytes):
            _say(e, paths, as_json=as_json)
            last, image_count = e.source, image_count + (e.source != last)
            bar.update(task, completed=image_count + len(failed))
            del e  # its image may be large, and the next one is read now
    folder.finish()
    raise exit_after(failed, "explained")


def _saved(folder: MapFolder, one: tuple[Explanation, dict[str, Path]]) -> tuple[Explanation, dict[str, Path]]:
    folder.write(*one)
    return one


def _bytes(one: tuple[Explanation, dict[str, Path]]) -> int:
    """Return the memory of an explanation."""
    return one[0].picture.pixels.nbytes + one[0].heatmap.nbytes


def _found(images: list[str], out: Path) -> dict[Path, Path]:
    """Return the images of arguments, or where there are none the volumes, each with a relative path for its results.

    Which of them the model takes is not known before it is loaded.
    """
    from camscope.images import find_pictures, find_volumes, require_one

    places: dict[Path, Path] = {}
    try:
        places = dict(find_pictures(images, exclude=[out]))
    except PictureError:
        with contextlib.suppress(PictureError):
            places = dict(find_volumes(images, exclude=[out]))
        if not places:
            raise
    require_one(places)
    return places


def _volumes(model: Model, images: list[str], out: Path) -> dict[Path, Path]:
    """Return the volumes of arguments; none for a model that takes images."""
    from camscope.images import find_volumes
    from camscope.models.volume_preprocess import is_of_volumes

    return dict(find_volumes(images, exclude=[out])) if is_of_volumes(model.preprocess) else {}


def _say(e: Explanation, paths: dict[str, Path], *, as_json: bool) -> None:
    folder = next(iter(paths.values())).parent
    if as_json:
        files = {kind: str(path) for kind, path in paths.items()}
        content: dict[str, Any] = e.to_dict() | {"folder": str(folder), "files": files}
        print(json.dumps(content, ensure_ascii=False))
        return
    print(f"{e.source}: {e.label}, {e.certainty}, {e.method} at {e.layer} -> {folder}")
    for note in printed_notes(e):
        print(f"    {note}")
