"""camscope compare: compare models and methods on one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import MODELS, Device, Engine, Out, Precision, Seed, Weights, pairs, prepare, progress
from camscope.cli.terminal import printed_notes

if TYPE_CHECKING:
    from PIL import Image

    from camscope.explanation import Explanation


@with_model_options
def compare(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    models: Annotated[str, typer.Option(help=f"Models, separated by commas; each is {MODELS}.")],
    out: Out,
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = "gradcam",
    targets: Annotated[str, typer.Option(help="Class names or indices, separated by semicolons, or topK.")] = "top1",
    weights: Weights = "default",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Method setting as name=value; repeat for several.")
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Compare models and methods on one image.

    Writes compare.png, with one column per model, headed by its predicted class, and one row per method and target;
    and compare.json, with the agreement of each pair of maps (Spearman's rank correlation on a common grid). Methods
    that give the same map are marked.

    Example: camscope compare dog.jpg --models timm:legacy_xception,timm:resnet50,timm:vgg19 --out sheet
    """
    from camscope.explanation import explain_all
    from camscope.explanation.agreement import agreement
    from camscope.explanation.method_lookup import check_settings
    from camscope.files import MAPS, claim, write_atomically
    from camscope.images import read

    method_names = methods.split(",")
    settings = pairs(setting or [], "--set")
    check_settings(settings, method_names)
    picture = read(image)
    columns: list[list[Explanation]] = []
    names = [name.strip() for name in models.split(",")]
    with progress() as bar:
        for name in bar.track(names, description="explaining"):
            model = load_noted(name, seed=seed, weights=weights, **loading)
            prepare(model, device, seed)
            target_names = [target.strip() for target in targets.split(";")]
            explanations = explain_all(
                model,
                [picture],
                methods=method_names,
                targets=target_names,
                engine=engine,
                precision=precision,
                **settings,
            )
            columns.append(list(explanations))
    claim(out, MAPS)
    page = out / "compare.png"
    figure = _sheet(columns, title=f"{image}{' (random weights)' if weights == 'none' else ''}")
    write_atomically(page, lambda file: figure.save(file, "PNG"))
    all_maps = [e for column in columns for e in column]
    # JSON has no NaN, the agreement of a constant map.
    table = [[None if value != value else round(float(value), 4) for value in row] for row in agreement(all_maps)]
    content = {"picture": str(image), "maps": [e.to_dict() for e in all_maps], "spearman": table}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "compare.json", lambda file: file.write(text.encode("utf-8", "replace")))
    if as_json:
        print(json.dumps(content, ensure_ascii=False))
        return
    _print_table(all_maps, table)
    print(page)


def _sheet(columns: list[list[Explanation]], *, title: str) -> Image.Image:
    from PIL import Image

    from camscope.render import Cell, sheet

    headings = [column[0].model for column in columns]
    first = [Cell(Image.fromarray(column[0].picture.rgb), _says(column[0])) for column in columns]
    rows = [first, *([Cell(e.overlay(), _caption(e)) for e in cells] for cells in zip(*columns, strict=True))]
    row_names = ["top prediction", *(f"{e.method}" for e in columns[0])]
    return sheet(rows, column_headings=headings, row_headings=row_names, title=title, cell_width=300)


def _says(e: Explanation) -> str:
    label, value = e.top[0] if e.top else (e.label, e.score)
    return f"{label.partition(',')[0]} ({value:.3f})"


def _caption(e: Explanation) -> str:
    from camscope.explanation.agreement import SAME_MAP

    certainty = f"p = {e.probability:.3f}" if e.probability is not None else f"score {e.score:.3g}"
    twins = [note.removeprefix(SAME_MAP).partition(":")[0] for note in e.notes if note.startswith(SAME_MAP)]
    prefix = [f"{SAME_MAP}{', '.join(twins)}"] if twins else []
    return "; ".join([*prefix, f"{e.short_label}, {certainty}"])


def _print_table(maps: list[Explanation], spearman: list[list[float | None]]) -> None:
    """Print each map with its number, its agreement with the previous maps, and its notes, each note once."""
    from camscope.explanation.agreement import SAME_MAP

    past_notes: set[tuple[str, str, str]] = set()
    if len(maps) > 1:
        print("Rank correlation (Spearman) of each map with maps 0, 1, ... before it:")
    for number, (e, row) in enumerate(zip(maps, spearman, strict=True)):
        values = " ".join("    -" if value is None else f"{value:5.2f}" for value in row[:number])
        print(f"{number:2} {e.model} {e.method} {e.short_label}: {values}")
        for note in printed_notes(e):
            if (e.model, e.label, note) not in past_notes or note.startswith(SAME_MAP):
                print(f"   {note}")
            past_notes.add((e.model, e.label, note))
