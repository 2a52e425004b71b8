"""camscope models: list the names of models, or print how a model would be explained."""

from __future__ import annotations

import fnmatch
import json
import sys
from typing import Annotated, Any

import typer

from camscope.cli.model_loading import load_noted
from camscope.cli.model_options import with_model_options
from camscope.cli.options import Device, Labels, Seed, Weights, class_names, prepare

_NOTES = {
    "hf": "hf: takes any image classifier, CLIP, SigLIP, object detector or semantic segmentation network of the "
    "Hugging Face hub, or a folder; these are examples",
    "smp": "smp: takes any architecture and encoder of segmentation_models_pytorch; these are examples",
    "ultralytics": "ultralytics: also takes FILE.pt, with --trust; an ONNX model is named by its FILE.onnx",
}


@with_model_options
def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern such as 'timm:convnext*'.")] = "",
    check: Annotated[
        str | None, typer.Option(help="Load this model and print how it would be explained.", metavar="SPEC")
    ] = None,
    weights: Weights = "default",
    labels: Labels = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    loading: dict[str, Any],
) -> None:
    """List the models that --model takes; with --check, print how a model would be explained.

    --check also lists which methods give the same map on the model.

    Example: camscope models 'timm:convnext*'

    Example: camscope models --check timm:resnet18 --weights none
    """
    if check is not None:
        from camscope.explanation.inspect_model import examine

        model = load_noted(check, seed=seed, weights=weights, labels=class_names(labels), **loading)
        prepare(model, device, seed)
        facts = examine(model)
        print(json.dumps(facts, ensure_ascii=False) if as_json else _told(facts))
        return
    names = _names(pattern)
    for source, text in _NOTES.items():
        if any(name.startswith(f"{source}:") for name in names):
            print(f"note: {text}", file=sys.stderr)
    print(json.dumps(names) if as_json else "\n".join(names))


def _names(pattern: str) -> list[str]:
    from camscope.errors import ModelError
    from camscope.models.sources import NAMES

    # Sources that cannot match the pattern are skipped, because importing some of them takes seconds.
    prefix, colon, _ = pattern.partition(":")
    sources = {source: lister for source, lister in NAMES.items() if not colon or fnmatch.fnmatch(source, f"*{prefix}")}
    names = [f"{source}:{name}" for source, lister in sources.items() for name in lister()]
    wildcard = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    wildcard = wildcard if colon or wildcard.startswith("*") else f"*:{wildcard}"
    matches = fnmatch.filter(names, wildcard)
    if not matches:
        raise ModelError(f"none of the {len(names)} models matches {pattern!r}; `camscope models` lists them all")
    return matches


def _told(facts: dict[str, Any]) -> str:
    """Return one line per fact."""
    first, count = facts["labels"]["first"], facts["labels"]["count"]
    dots = " ..." if count > len(first) else ""
    preprocess = {key: value for key, value in facts["preprocess"].items() if value is not None}
    lines = {
        "model": f"{facts['model']} ({facts['untrained'] or 'weights: ' + str(facts['weights'])})",
        "layer": facts["layer"],
        "layout": f"{facts['layout']}, {facts['channels']} channels" if facts["layout"] else None,
        "grid": " x ".join(map(str, facts["grid"])),
        "head": facts["head"],
        "input": ", ".join(f"{key} {_short(value)}" for key, value in preprocess.items()),
        "labels": f"{count}: {', '.join(repr(name) for name in first)}{dots}" if count else "none; classes by index",
        "outcome": f"{facts['outcome']}, outputs {' x '.join(map(str, facts['outputs']))}",
        "same maps": "; ".join(" = ".join(group) for group in facts["same"]) or "none of those compared",
    } | {key.replace("_", " "): _short(value) for key, value in facts["facts"].items()}
    lines = {key: value for key, value in lines.items() if value}
    width = max(map(len, lines))
    return "\n".join(f"{key:{width}}  {value}" for key, value in lines.items())


def _short(value: Any) -> str:
    return " ".join(map(_short, value)) if isinstance(value, list | tuple) else str(value)
