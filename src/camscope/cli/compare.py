"""camscope compare: compare models and methods on images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_options_per_model
from camscope.cli.options import MODELS, Device, Engine, Out, Precision, Seed, pairs, prepare, progress
from camscope.cli.terminal import exit_after, in_options, printed_notes
from camscope.errors import PictureError

if TYPE_CHECKING:
    from camscope.explanation import Comparison


@with_options_per_model
def compare(
    images: Annotated[list[str], typer.Argument(help="Image files, folders or patterns such as 'photos/*.jpg'.")],
    models: Annotated[
        list[str],
        typer.Option(
            "--model", "--models", "-m", help=f"Model; repeat, or separate by commas, for several. Each is {MODELS}."
        ),
    ],
    out: Out,
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = "gradcam",
    targets: Annotated[str, typer.Option(help="Class names or indices, separated by semicolons, or topK.")] = "top1",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Method setting as name=value; repeat for several.")
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, one object per image.")] = False,
    *,
    loading: list[dict[str, Any]],
) -> None:
    """Compare models and methods on images.

    Writes, into a folder with the name of each image, a sheet with one column per model, headed by its five highest
    classes, and one row per method and target; and a JSON file with the agreement of each pair of maps (Spearman's rank
    correlation on a common grid). Methods that give the same map are marked. Another comparison never replaces it;
    index.html shows all. Options of the model hold for all models, or are given once per model, in their order.

    Example: camscope compare dog.jpg -m timm:resnet50 --weights a.pth -m timm:resnet50 --weights b.pth --out sheet
    """
    from camscope.explanation.comparison import compare as compared
    from camscope.explanation.method_lookup import check_settings
    from camscope.gallery import MapFolder
    from camscope.images import as_picture, find_pictures, require_one

    method_names = [name.strip() for name in methods.split(",")]
    settings = pairs(setting or [], "--set")
    check_settings(settings, method_names)
    places = dict(find_pictures(images, exclude=[out]))
    require_one(places)
    loaded = [load_noted(name, seed=seed, **arguments) for name, arguments in zip(models, loading, strict=True)]
    for model in loaded:
        prepare(model, device, seed)
    folder = MapFolder(out)
    failed: dict[str, str] = {}
    with progress() as bar:
        for path, place in bar.track(places.items(), description="comparing"):
            try:
                picture = as_picture(path)
            except PictureError as error:
                failed[str(path)] = str(error)
                continue
            found = compared(
                loaded,
                picture,
                methods=method_names,
                targets=[target.strip() for target in targets.split(";")],
                engine=engine,
                precision=precision,
                **settings,
            )
            maps = [e for column in found.columns for e in column]
            _write(found, folder.reserve_sheet("compare", maps, place.parent), as_json=as_json)
    folder.finish()
    raise exit_after(failed, "compared")


def _write(found: Comparison, paths: dict[str, Path], *, as_json: bool) -> None:
    from camscope.files import write_atomically

    content = found.to_dict()
    found.save(paths["sheet"])
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(paths["json"], lambda file: file.write(text.encode("utf-8", "replace")))
    if as_json:
        print(json.dumps(content, ensure_ascii=False))
        return
    _print_table(found, content["spearman"])
    for note in found.notes:
        print(f"note: {in_options(note)}")
    print(paths["sheet"])


def _print_table(found: Comparison, spearman: list[list[float | None]]) -> None:
    """Print each map with its number, its agreement with the previous maps, and its notes, each note once."""
    from camscope.explanation.agreement import SAME_MAP

    maps = [(title, e) for title, column in zip(found.titles, found.columns, strict=True) for e in column]
    past_notes: set[tuple[str, str, str]] = set()
    if len(maps) > 1:
        print("Rank correlation (Spearman) of each map with maps 0, 1, ... before it:")
    for number, ((title, e), row) in enumerate(zip(maps, spearman, strict=True)):
        values = " ".join("    -" if value is None else f"{value:5.2f}" for value in row[:number])
        print(f"{number:2} {title} {e.method} {e.short_label}: {values}")
        for note in printed_notes(e):
            if (title, e.label, note) not in past_notes or note.startswith(SAME_MAP):
                print(f"   {note}")
            past_notes.add((title, e.label, note))
