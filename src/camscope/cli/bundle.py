"""camscope bundle: a model with its weights, labels and preprocessing in one folder."""

from __future__ import annotations

from typing import Annotated

import typer

from camscope.cli.options import MODELS, Labels, Out, Weights, class_names, numbers, pairs


def bundle(
    spec: Annotated[str, typer.Argument(help=f"{MODELS}.")],
    out: Out,
    weights: Weights = "default",
    labels: Labels = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of outputs.", show_default="as many as labels")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(help="one (softmax), any (sigmoid) or value (regression).", show_default="by the classes"),
    ] = None,
    input_size: Annotated[str | None, typer.Option(help="Side in pixels, or HEIGHT,WIDTH.")] = None,
    mean: Annotated[str | None, typer.Option(help="Of pixels in [0, 1], one number or one a channel.")] = None,
    std: Annotated[str | None, typer.Option(help="As --mean.")] = None,
    fit: Annotated[str | None, typer.Option(help="crop, squash or pad.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="name=value for the source, such as pad_type=same; repeat for several.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="The layer to explain.", show_default="found when needed")] = None,
) -> None:
    """Write a model as a bundle: model.json and weights.safetensors, with sha256.

    Example: camscope bundle timm:convnext_base --weights effusion.pth --labels Effusion --outcome any --out effusion
    """
    import dataclasses

    from camscope.files import claim
    from camscope.models.bundle import CARD
    from camscope.models.loading import load

    size = numbers(input_size, "--input-size")
    model = load(
        spec,
        weights=weights,
        labels=class_names(labels),
        classes=classes,
        outcome=outcome,  # type: ignore[arg-type]
        input_size=None if size is None else (int(size[0]), int(size[-1])),
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
        fit=fit,  # type: ignore[arg-type]
        options=pairs(option or [], "--option"),
    )
    claim(out, "a model", record=(CARD, "format"))
    print(dataclasses.replace(model, layer=layer or model.layer).save(out))
