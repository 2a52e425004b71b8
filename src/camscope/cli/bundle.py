"""camscope bundle: write a model with its weights, labels and preprocessing to a folder."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from camscope.cli.model_options import with_model_options
from camscope.cli.options import MODELS, Labels, Out, Weights, class_names


@with_model_options
def bundle(
    spec: Annotated[str, typer.Argument(help=f"{MODELS}.")],
    out: Out,
    weights: Weights = "default",
    labels: Labels = None,
    layer: Annotated[str | None, typer.Option(help="Target layer.", show_default="detected when needed")] = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Write a model as a bundle: model.json and weights.safetensors, with sha256.

    Example: camscope bundle timm:convnext_base --weights effusion.pth --labels Effusion --outcome any --out effusion
    """
    import dataclasses

    from camscope.files import claim
    from camscope.models.bundle import CARD
    from camscope.models.loading import load

    model = load(spec, weights=weights, labels=class_names(labels), **loading)
    claim(out, "a model", record=(CARD, "format"))
    print(dataclasses.replace(model, layer=layer or model.layer).save(out))
