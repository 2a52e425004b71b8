"""Notes on maps: why a map is empty, and facts needed to read it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from camscope.errors import CamscopeError
from camscope.methods import MethodFacts
from camscope.methods.heads import frozen_sums, linear_levels
from camscope.methods.network import at_input
from camscope.trace import Forward, Trace, tensors, unchanged
from camscope.trace.boxes import NEVER, has_boxes
from camscope.trace.pytree import call

_BYPASSED = {
    "log p": "the model returns only probabilities: log p is explained",
    "log_softmax": "the logit before the final log-softmax is explained",
    "softmax": "the logit before the final softmax is explained",
}

_SAME = 1e-4
"""Axes of a detector's output: images, boxes, columns."""
_ROUNDING = 1e-5


def notes(traces: Sequence[Trace], raw: Tensor, *, method: str, facts: MethodFacts) -> list[list[str]]:
    """Return what has to be said about each map.

    A method that computed no gradients starts no backward pass here either.

    Args:
        traces: the forward pass of the maps, at each of their layers.
        raw: (B, *grid) signed maps.
        method: name of the method.
        facts: the method's facts.

    Returns:
        For each image the notes, most telling first; empty lists where nothing is to be said.
    """
    method_notes = _reading(traces[0].forward, method, facts)
    empty = [_empty(traces, raw[i], i) for i in range(len(raw))]
    sums = _sums(traces[0], raw) if len(traces) == 1 and traces[0].used_gradients else [[] for _ in raw]
    trace_notes = [[text for trace in traces for text in trace.notes[i]] for i in range(len(raw))]
    return [[*empty[i], *method_notes, *trace_notes[i], *sums[i]] for i in range(len(raw))]


def network_notes(forward: Forward, raw: Tensor, *, method: str, facts: MethodFacts) -> list[list[str]]:
    """Return what has to be said about each map (B, ...) of a method that sees the whole network; see `notes`."""
    texts = _reading(forward, method, facts)
    return [[*(_not_finite(forward, row) or _product(row, method) or _nothing_positive(row)), *texts] for row in raw]


def _empty(traces: Sequence[Trace], raw: Tensor, image: int) -> list[str]:
    """Return why the map of one image shows nothing."""
    trace = traces[0]
    if texts := _not_finite(trace.forward, raw):
        return texts
    if not _nothing_positive(raw):
        return []
    layers = " + ".join(repr(layer_trace.layer) for layer_trace in traces)
    if not any(layer_trace.connected for layer_trace in traces):
        return [f"the map is empty: the score does not depend on layer {layers}; name another layer or target"]
    if trace.used_gradients and not any(bool(layer_trace.gradients[image].any()) for layer_trace in traces):
        score = float(trace.scores[image].detach())
        if has_boxes(trace.outputs.shape) and score < math.log(NEVER) + _ROUNDING:
            return ["the map is empty: no box was found that fits the target"]
        if _depends_on_input(trace, image):
            return [
                f"the map is empty: the score ({score:.4g}) does not come through layer {layers}; name another layer"
            ]
        return [f"the map is empty: the gradient is exactly 0, the score ({score:.4g}) is saturated"]
    return _nothing_positive(raw)


def _depends_on_input(trace: Trace, image: int) -> bool:
    """Return whether the score of an image has a gradient with respect to its pixels, on any path."""
    forward = trace.forward
    try:
        whole = at_input(forward.net, forward.inputs, trace.targets, picture=forward.picture)
        return whole.connected and bool(whole.gradients[image].any())
    except (RuntimeError, CamscopeError):
        return False


def _not_finite(forward: Forward, raw: Tensor) -> list[str]:
    if bool(raw.isfinite().all()):
        return []
    module = first_not_finite(forward)
    where = f"first returned by module {module!r}" if module else "first made by the method, from finite activations"
    return [f"the map is empty: it has values that are not finite (NaN or infinite), {where}"]


def _product(raw: Tensor, method: str) -> list[str]:
    """Return why a product of the maps of several layers is empty."""
    if not method.startswith("refinecam") or bool(raw.any()):
        return []
    text = (
        "the map is empty: no place is positive in the maps of all layers; where stages end in signed activations set "
        "base=layercam, since the default base, Grad-CAM++, assumes that none are negative"
    )
    return [text]


def _nothing_positive(raw: Tensor) -> list[str]:
    if bool((raw > 0).any()) and bool(raw.max() > raw.min()):
        return []
    if bool(raw.max() > raw.min()):
        low, high = float(raw.min()), float(raw.max())
        return [f"the map is empty: no value is positive ({low:.3g} to {high:.3g}), so nothing supports the class"]
    return [f"the map is flat: every cell has the value {float(raw.flatten()[0]):.3g}"]


def _reading(forward: Forward, method: str, facts: MethodFacts) -> list[str]:
    texts = []
    if facts.class_agnostic:
        texts.append(f"{method} is class-agnostic: its map is the same for every class")
    if forward.note:
        texts.append(forward.note)
    if forward.bypassed:
        text = _BYPASSED.get(forward.bypassed, "the logit before the final sigmoid is explained")
        texts.append(text)
    return texts


def _sums(trace: Trace, raw: Tensor) -> list[list[str]]:
    """Return the sum that each map must have, if the head of the network determines it.

    One linear layer: HiResCAM's map adds up to the score less the bias, and how nearly it does is said. A layer norm
    before it: Grad-CAM's map adds up to nearly 0, and that it has no level is said.
    """
    texts: list[list[str]] = [[] for _ in raw]
    with torch.inference_mode(mode=False):
        try:
            levels, frozen = linear_levels(trace), frozen_sums(trace)
        except RuntimeError:  # a network without a backward pass, explained by a method that needs none
            return texts
    if not bool((levels.isfinite() | frozen.isfinite()).any()):
        return texts
    gradcam = (trace.gradients * trace.activations).detach().sum(1)
    total = gradcam.flatten(1).sum(1)
    error = (raw.to(gradcam) - gradcam).abs().flatten(1).amax(1) if raw.shape == gradcam.shape else torch.inf + total
    is_gradcam = error <= _SAME * gradcam.abs().flatten(1).amax(1)
    for image, values in enumerate(torch.stack([levels, frozen, total, is_gradcam.to(total)], 1).tolist()):
        level, frozen_sum, sum_, gradcam_flag = values
        if math.isfinite(level) and level:
            residual = abs(sum_ - level) / abs(level)
            # Smaller values are rounding errors, which differ between batches.
            size = f"{residual:.1e}" if residual >= _ROUNDING else f"below {_ROUNDING:.0e}"
            texts[image].append(
                f"completeness residual {size}: gradient times activation (HiResCAM) adds up to {sum_:.4g}, "
                f"and the score minus the bias is {level:.4g}"
            )
        if math.isfinite(frozen_sum) and gradcam_flag:
            texts[image].append(
                f"the map is a contrast without a level, since a layer norm follows the pooling: it adds up to "
                f"{sum_:.2g}, nearly 0 whatever the score, and frozennormcam's to {frozen_sum:.4g}"
            )
    return texts


def first_not_finite(forward: Forward) -> str:
    """Return the name of the first module that returns NaN or infinite values; "" where none does.

    >>> from torch import nn
    >>> class Root(nn.Module):
    ...     def forward(self, x):
    ...         return (x - 1).sqrt()
    >>> from camscope.trace import record
    >>> net = nn.Sequential(nn.Identity(), Root(), nn.Flatten())
    >>> first_not_finite(record(net, torch.zeros(1, 1, 2, 2), layers=["0"]))
    '1'
    """
    net, culprit = forward.net, [""]

    def check(name: str, output: object) -> None:
        if not culprit[0] and not all(bool(t.isfinite().all()) for t in tensors(output) if t.dtype.is_floating_point):
            culprit[0] = name

    handles = [
        m.register_forward_hook(lambda _, __, out, name=n: check(name, out)) for n, m in net.named_modules() if n
    ]
    try:
        with unchanged(net), torch.no_grad():
            call(net, forward.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return culprit[0]
