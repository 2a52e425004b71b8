"""Inspect a model: how it would be explained, and properties of its maps, computed on one random image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from camscope.errors import CamscopeError
from camscope.explanation.agreement import same_map
from camscope.explanation.batch import BatchExplainer, Sample, goals_of
from camscope.explanation.method_lookup import methods_of_scores
from camscope.images import Picture, Volume
from camscope.methods import METHODS
from camscope.methods.heads import frozen_sums, linear_levels
from camscope.models.black_box import BlackBox
from camscope.models.model import Model
from camscope.models.untrained import FACT
from camscope.models.volume_preprocess import is_of_volumes
from camscope.trace import Layout, Trace

# Methods that coincide for simple heads, and need one pass.
_COMPARED = ("gradcam", "hirescam", "xgradcam", "gradcamelementwise", "layercam", "shapleycam", "cam", "frozennormcam")
_FLAT = 1e-5
_SHOWN = 5


def examine(model: Model) -> dict[str, Any]:
    """Return how a model would be explained.

    Args:
        model: the model, on any device; it is not changed.

    Returns:
        Plain values for JSON: model, weights, outcome, outputs, labels (how many, the first), layer, layout (axes),
        grid, channels, head (the part after the layer), preprocess, same (groups of methods with the same map of a
        random image), facts. For a black box, layer, layout and channels are None.

    Raises:
        LayerError: no layer is found.

    >>> from camscope.models.loading import load
    >>> found = examine(load("timm:test_resnet", weights="none"))
    >>> found["layer"], found["grid"], found["head"]
    ('layer4', [5, 5], 'global average pooling, linear')
    >>> found["same"][0]
    ['gradcam', 'hirescam', 'xgradcam', 'shapleycam', 'cam']
    """
    functions = [] if isinstance(model.net, BlackBox) else [METHODS["gradcam"]]
    run = BatchExplainer.over(model, [_random_sample(model)], functions=functions)
    return {
        "model": model.name,
        "untrained": model.untrained,
        "weights": None if model.recipe is None else model.recipe.weights,
        "outcome": model.outcome,
        "outputs": list(run.outputs.shape[1:]),
        "labels": {"count": len(model.labels), "first": list(model.labels[:_SHOWN])},
        **_inside(run),
        "preprocess": model.preprocess.to_dict(),
        "facts": {name: fact for name, fact in model.facts.items() if name != FACT},
    }


def _inside(run: BatchExplainer) -> dict[str, Any]:
    """Return the facts about the layers: layer, layout, grid, channels, head, same."""
    if run.recorded is None:
        head = f"a black box: only methods that need nothing but scores work ({', '.join(methods_of_scores())})"
        return {"layer": None, "layout": None, "grid": [], "channels": None, "head": head, "same": []}
    goal = goals_of(run.model, [None], run.outputs[0])[0]
    with torch.inference_mode(mode=False), torch.enable_grad():
        (trace, *_) = run.recorded.traces(run.forward, [goal.target])
        head = head_of(trace, run.model)
    record = run.forward.records[run.recorded.layers[0]]
    return {
        "layer": run.recorded.layer,
        "layout": axes(run.recorded.layouts[0], record.ndim),
        "grid": list(trace.activations.shape[2:]),
        "channels": trace.activations.shape[1],
        "head": head,
        "same": _same(run, goal),
    }


def head_of(trace: Trace, model: Model) -> str:
    """Describe the part after a layer, by the gradient of the explained score and by the outputs."""
    if model.outcome == "boxes":
        return "boxes"
    if trace.outputs.ndim > 2:
        return "a map of scores"
    gradients = trace.gradients.detach().flatten(2)
    if not bool(gradients.any()):
        return "none that the score depends on"
    spread = (gradients - gradients.mean(2, keepdim=True)).abs().amax()
    pooled = bool(spread <= _FLAT * gradients.abs().amax())
    if bool(frozen_sums(trace).isfinite().any()):
        return "global average pooling, layer norm, linear"
    if bool(linear_levels(trace).isfinite().any()):
        return "global average pooling, linear" if pooled else "flatten, linear"
    if pooled:
        return "global average pooling, and more than a linear layer"
    if trace.layout.grid is not None:
        return f"tokens with {trace.layout.prefix} before the grid"
    return "flattened or convolved: places weigh differently"


def axes(layout: Layout, count: int) -> str:
    """Return the axes of a layer's output in words.

    >>> axes(Layout(), 4), axes(Layout(channel=2, grid=(14, 14), prefix=1), 3)
    ('(batch, channels, space, space)', '(batch, tokens, channels), tokens = 1 + 14 x 14')
    """
    default = "space" if layout.grid is None else "tokens"
    names = ["batch" if a == layout.batch else "channels" if a == layout.channel else default for a in range(count)]
    text = f"({', '.join(names)})"
    if layout.grid is None:
        return text
    before = f"{layout.prefix} + " if layout.prefix else ""
    return f"{text}, tokens = {before}{' x '.join(map(str, layout.grid))}"


def _random_sample(model: Model) -> Sample:
    if is_of_volumes(model.preprocess):
        values = np.random.default_rng(0).random(model.preprocess.input_size).astype(np.float32)
        return Sample.of(model, Volume(values, source="random"))
    height, width = model.preprocess.input_size
    channels = model.preprocess.channels
    shape = (height, width, 3 if channels == 1 else channels)
    pixels = np.random.default_rng(0).random(shape).astype(np.float32)
    picture = Picture(pixels, "random", bits=32)
    return Sample.of(model, picture)


def _same(run: BatchExplainer, goal: Any) -> list[list[str]]:
    """Return groups of methods whose maps differ only by a positive factor."""
    groups: list[tuple[np.ndarray[Any, np.dtype[np.float32]], list[str]]] = []
    for name in _COMPARED:
        try:
            method_maps = run.maps(name, METHODS[name], goals={0: goal}, settings={})
        except (CamscopeError, RuntimeError):
            continue  # a method that cannot be applied to this network
        grid = method_maps.raw[0].cpu().numpy()
        group = next((names for group_grid, names in groups if same_map(grid, group_grid)), None)
        if group is None:
            groups.append((grid, [name]))
        else:
            group.append(name)
    return [names for _, names in groups if len(names) > 1]
