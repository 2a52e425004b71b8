"""Figure sheets: a map at several layers of a network, and the steps that make one map."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from camscope.arguments import checked
from camscope.errors import LayerError, SettingError, shortened
from camscope.explanation.method_lookup import check_needs, find_method, method_name
from camscope.explanation.pictures import Source, as_model, explain
from camscope.explanation.result import Explanation
from camscope.explanation.target_spec import TargetSpec
from camscope.heatmap import place
from camscope.images import Picture, Window, as_picture
from camscope.methods import Method, facts_of
from camscope.methods.weights import channel_weights, without_steps
from camscope.models.model import Model
from camscope.models.stages import spatial_convolutions, stage_layers
from camscope.render import Cell, colourise, scale, sheet
from camscope.trace import Trace

_CHANNELS = 11
_COLUMNS = 4
_DIVERGING = "RdBu_r"


@checked
def layers(
    model: Model | nn.Module | str | Path,
    picture: Source,
    *,
    layers: str | Sequence[str] = "stages",
    method: str | Method = "gradcam",
    target: TargetSpec = None,
    engine: str = "auto",
    precision: str = "float32",
    **settings: Any,
) -> Image.Image:
    """Draw the map of one target at several layers of a network, first to last, with names and grid sizes.

    Args:
        model: as in `camscope.explain`.
        picture: as in `camscope.explain`.
        layers: "stages" for one layer per grid size (of a transformer, every block), "all" for every convolution, or
            names of layers. "stages" and "all" include the layer that is explained by default.
        method: a name in `METHODS`, or a function of a `Trace`.
        target: a class name or index, a target function, or None for the predicted class; for detectors and
            segmentation networks also a class at a place of the image, "dog@left,top,right,bottom" in pixels.
        engine: backend for the part of the network before the layer: "auto", "eager" (PyTorch) or "openvino".
        precision: of that part: "float32", "bfloat16", "float16" or "auto".
        **settings: the method's own keyword arguments.

    Returns:
        An RGB image.

    Raises:
        LayerError: a layer that does not exist, or whose output is not a spatial feature map.

    >>> import numpy as np
    >>> layers("timm:test_resnet", np.zeros((48, 64, 3), np.uint8)).size  # doctest: +SKIP
    (1140, 617)
    """
    loaded = as_model(model)
    maps = layer_maps(
        loaded, picture, layers=layers, method=method, target=target, engine=engine, precision=precision, **settings
    )
    return layer_sheet(maps, title=loaded.title)


def layer_maps(
    model: Model, picture: Source, *, layers: str | Sequence[str], method: str | Method, **options: Any
) -> list[Explanation]:
    """Return the map of one target at several layers, first to last; see `layers`."""
    check_needs(model.net, [find_method(method)])
    image = as_picture(picture)
    return [explain(model, image, method=method, layer=name, **options) for name in layer_names(model, image, layers)]


def layer_sheet(maps: Sequence[Explanation], *, title: str) -> Image.Image:
    """Draw the maps of `layer_maps`; the title names the model."""
    first = maps[0]
    captions = ["; ".join(filter(None, [f"{e.layer} {_times(e.grid)}", e.why_empty])) for e in maps]
    overlays = [Cell(e.overlay(), caption) for e, caption in zip(maps, captions, strict=True)]
    cells = [Cell(Image.fromarray(first.picture.rgb), f"image {Path(first.source).name}"), *overlays]
    return sheet(
        _rows(cells),
        title=f"{title}: {first.method} for {first.short_label}, {first.source}",
        cell_width=260,
        caption_lines=6,
    )


def layer_names(model: Model, picture: Picture, wanted: str | Sequence[str] = "stages") -> list[str]:
    """Return the names of the layers that `layers` draws, in the order in which they run."""
    if not isinstance(wanted, str):
        if not isinstance(wanted, Sequence) or not wanted:
            raise SettingError(f"layers must be 'stages', 'all' or a list of names, but got {shortened(wanted)}")
        return list(wanted)
    if wanted not in ("stages", "all"):
        return [wanted]
    parameter = next(model.net.parameters(), torch.empty(0))
    x = model.preprocess(picture)[0][None].to(parameter.device, parameter.dtype)
    stages = stage_layers(model.net, x, output=model.output)
    own = [model.layer] if model.layer and model.layer not in stages else []
    if wanted == "stages":
        return stages + own
    names = spatial_convolutions(model.net, x)
    return [*names, *(name for name in [stages[-1], *own] if name not in names)] if len(names) > 1 else stages + own


@checked
def steps(
    model: Model | nn.Module | str | Path,
    picture: Source,
    *,
    method: str = "gradcam",
    target: TargetSpec = None,
    layer: str | None = None,
    engine: str = "auto",
    precision: str = "float32",
    **settings: Any,
) -> Image.Image:
    """Draw the steps from weighted channels to a map: image, 11 strongest channels, sum, ReLU, heat map, overlay.

    Args:
        model: as in `camscope.explain`.
        picture: as in `camscope.explain`.
        method: a method whose map is a weighted sum of the channels of a layer.
        target: a class name or index, a target function, or None for the predicted class; for detectors and
            segmentation networks also a class at a place of the image, "dog@left,top,right,bottom" in pixels.
        layer: name of the target layer; None for the model's own, or else `default_layer`.
        engine: backend for the part of the network before the layer: "auto", "eager" (PyTorch) or "openvino".
        precision: of that part: "float32", "bfloat16", "float16" or "auto".
        **settings: the method's own keyword arguments.

    Returns:
        An RGB image, captioned with the terms of the formula.

    Raises:
        MethodError: the method's map is not a weighted sum of the channels of a layer.
        LayerError: the map is the sum over several layers, and ``layer`` does not name one.
    """
    return steps_of_map(
        as_model(model),
        picture,
        method=method,
        target=target,
        layer=layer,
        engine=engine,
        precision=precision,
        **settings,
    )[1]


def steps_of_map(model: Model, picture: Source, *, method: str, **options: Any) -> tuple[Explanation, Image.Image]:
    """Return a map, and the sheet of its steps; see `steps`."""
    function = find_method(method)
    check_needs(model.net, [function])
    if facts_of(function).whole_network:
        raise without_steps(method_name(method))
    records: list[tuple[torch.Tensor, torch.Tensor]] = []

    @functools.wraps(function)
    def watched(trace: Trace, **options: Any) -> torch.Tensor:
        raw, weights = channel_weights(function, trace, **options)
        records.append((weights.cpu(), trace.activations[0].cpu()))
        return raw

    e = explain(model, picture, method=watched, **options)
    if len(records) > 1:
        raise LayerError(f"steps show one layer, and this map is the sum over {e.layer}; name one of them with layer=")
    ((weights, A),) = records
    shares = (weights[:, None] * A.flatten(1)).abs().sum(1)
    strongest = shares.topk(min(_CHANNELS, int(weights.count_nonzero()) or len(shares))).indices.tolist()
    placed = place(A[strongest], e.window).numpy()
    channels = [
        Cell(_coloured(values, "viridis", e.window), f"A_{k}, weight w_{k} = {float(weights[k]):.3g}")
        for k, values in zip(strongest, placed, strict=True)
    ]
    weight = (
        "w_k: the mean gradient of the score in channel k"
        if method_name(method) == "gradcam"
        else f"w_k as {method} has it"
    )
    first = f"image. Then {len(channels)} of {len(shares)} channels A_k, largest share |w_k A_k| first; {weight}"
    cells = [Cell(Image.fromarray(e.picture.rgb), first), *channels]
    figure = sheet(
        [*_rows(cells), *_rows(_sums(e))],
        title=f"{e.method}: L = ReLU(sum_k w_k A_k), {model.title}, {e.layer}, {e.short_label}, {e.source}",
        cell_width=260,
        caption_lines=6,
    )
    return e, figure


def _sums(e: Explanation) -> list[Cell]:
    reach = float(np.abs(e.grid).max()) or 1.0
    signed = Image.fromarray(colourise((e.grid / reach + 1) / 2, _DIVERGING))
    rectified = np.maximum(e.grid, 0)
    return [
        Cell(_large(signed), f"sum_k w_k A_k, {_times(e.grid)}: blue negative, red positive, up to {reach:.3g}"),
        Cell(_large(_coloured(rectified, "byr")), f"ReLU of it, {_times(e.grid)}, up to {float(rectified.max()):.3g}"),
        Cell(_coloured(e.heatmap, "byr", e.window), f"at image size, {_times(e.heatmap)}"),
        Cell(e.overlay(), "; ".join(filter(None, [f"overlay: {e.short_label}, score {e.score:.3g}", e.why_empty]))),
    ]


def _coloured(values: npt.NDArray[np.float32], cmap: str, window: Window | None = None) -> Image.Image:
    return Image.fromarray(colourise(scale(values, "minmax")[0], cmap, window=window))


def _large(image: Image.Image) -> Image.Image:
    """Enlarge a small grid, so that its cells are visible squares."""
    factor = max(1, 260 // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _times(values: npt.NDArray[np.float32]) -> str:
    return " x ".join(map(str, values.shape))


def _rows(cells: list[Cell]) -> list[list[Cell]]:
    return [cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]
