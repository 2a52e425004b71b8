"""Figure sheets: a map at every stage of a network, and the steps that make one map."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from camscope.explanation.method_lookup import check_needs, find_method
from camscope.explanation.pictures import explain
from camscope.explanation.result import Explanation
from camscope.explanation.target_spec import TargetSpec
from camscope.heatmap import place
from camscope.images import Picture
from camscope.methods import Method
from camscope.methods.weights import channel_weights
from camscope.models.model import Model
from camscope.models.stages import stage_layers
from camscope.render import Cell, colourise, scale, sheet
from camscope.trace import Trace

_CHANNELS = 12
_COLUMNS = 4
_DIVERGING = "RdBu_r"


def stages_sheet(
    model: Model,
    picture: Picture,
    *,
    method: str | Method = "gradcam",
    target: TargetSpec = None,
    engine: str = "auto",
    precision: str = "float32",
    **settings: Any,
) -> Image.Image:
    """Draw the map of one target at every stage of the network, first to last, with names and grid sizes.

    Args:
        model: the model.
        picture: the image.
        method: a name in `METHODS`, or a function of a `Trace`.
        target: a class name or index, a target function, or None for the predicted class; for detectors and
            segmentation networks also a class at a place of the image, "dog@left,top,right,bottom" in pixels.
        engine: backend for the part of the network before the layer: "auto", "eager" (PyTorch) or "openvino".
        precision: of that part: "float32", "bfloat16", "float16" or "auto".
        **settings: the method's own keyword arguments.

    Returns:
        An RGB image.
    """
    check_needs(model.net, [find_method(method)])
    parameter = next(model.net.parameters(), torch.empty(0))
    x = model.preprocess(picture)[0][None].to(parameter.device, parameter.dtype)
    cells = [Cell(Image.fromarray(picture.rgb), "image")]
    for layer in stage_layers(model.net, x):
        e = explain(
            model, picture, method=method, target=target, layer=layer, engine=engine, precision=precision, **settings
        )
        empty = f"; {e.notes[0]}" if e.notes and "empty" in e.notes[0] else ""
        cells.append(Cell(e.overlay(), f"{layer} {_times(e.grid)}{empty}"))
    return sheet(_rows(cells), title=f"{model.name}: {e.method} for {e.short_label}", cell_width=260)


def steps_sheet(
    model: Model,
    picture: Picture,
    *,
    method: str = "gradcam",
    target: TargetSpec = None,
    layer: str | None = None,
    engine: str = "auto",
    precision: str = "float32",
    **settings: Any,
) -> Image.Image:
    """Draw the steps from weighted channels to a map: 12 strongest channels, sum, ReLU, heat map, overlay.

    Args:
        model: the model.
        picture: the image.
        method: a method that gives each channel one weight.
        target: a class name or index, a target function, or None for the predicted class; for detectors and
            segmentation networks also a class at a place of the image, "dog@left,top,right,bottom" in pixels.
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        engine: backend for the part of the network before the layer: "auto", "eager" (PyTorch) or "openvino".
        precision: of that part: "float32", "bfloat16", "float16" or "auto".
        **settings: the method's own keyword arguments.

    Returns:
        An RGB image, captioned with the terms of the formula.

    Raises:
        MethodError: the method does not weight channels.
    """
    function = find_method(method)
    records: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(trace: Trace, **options: Any) -> torch.Tensor:
        raw, weights = channel_weights(function, trace, **options)
        records.append((weights[0].cpu(), trace.activations[0].cpu()))
        return raw

    e = explain(
        model, picture, method=watched, target=target, layer=layer, engine=engine, precision=precision, **settings
    )
    weights, A = records[0]
    shares = (weights[:, None] * A.flatten(1)).abs().sum(1)
    strongest = shares.topk(min(_CHANNELS, len(shares))).indices.tolist()
    placed = place(A[strongest], e.window).numpy()
    channels = [
        Cell(_coloured(values, "viridis"), f"A_{k}, weight w_{k} = {float(weights[k]):.3g}")
        for k, values in zip(strongest, placed, strict=True)
    ]
    return sheet(
        [*_rows(channels), *_rows(_sums(e, picture))],
        title=f"{method}: L = ReLU(sum_k w_k A_k), {model.name}, {e.layer}, {e.short_label}",
        cell_width=260,
    )


def _sums(e: Explanation, picture: Picture) -> list[Cell]:
    reach = float(np.abs(e.grid).max()) or 1.0
    signed = Image.fromarray(colourise((e.grid / reach + 1) / 2, _DIVERGING))
    rectified = np.maximum(e.grid, 0)
    return [
        Cell(_large(signed), f"sum_k w_k A_k, {_times(e.grid)}: blue negative, red positive, up to {reach:.3g}"),
        Cell(_large(_coloured(rectified, "byr")), f"ReLU of it, {_times(e.grid)}, up to {float(rectified.max()):.3g}"),
        Cell(_coloured(e.heatmap, "byr"), f"at image size, {_times(e.heatmap)}"),
        Cell(e.overlay(), f"overlay: {e.short_label}, score {e.score:.3g}"),
        Cell(Image.fromarray(picture.rgb), "image"),
    ]


def _coloured(values: npt.NDArray[np.float32], cmap: str) -> Image.Image:
    return Image.fromarray(colourise(scale(values, "minmax")[0], cmap))


def _large(image: Image.Image) -> Image.Image:
    """Enlarge a small grid, so that its cells are visible squares."""
    factor = max(1, 260 // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _times(values: npt.NDArray[np.float32]) -> str:
    return " x ".join(map(str, values.shape))


def _rows(cells: list[Cell]) -> list[list[Cell]]:
    return [cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]
