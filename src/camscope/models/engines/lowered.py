"""Compute the part before a layer by PyTorch in bfloat16 or float16."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camscope.models.engines.ahead import Ahead, cuts_of
from camscope.trace.hooks import tracing
from camscope.trace.pytree import call, map_tensors
from camscope.trace.replica import replicate


def lowered(net: nn.Module, x: Any, *, layer: str, dtype: torch.dtype) -> Ahead:
    """Copy a network in a lower precision, for what comes before a layer; the rest stays in float32.

    Args:
        net: any network in float32.
        x: (B, C, *space) inputs, or several.
        layer: its layer, which runs once in a pass.
        dtype: bfloat16 or float16, of weights, statistics and inputs.
    """
    cuts = cuts_of(net, x, layer=layer)
    twin = replicate(net, lambda _, __, parameter: _cast(parameter, dtype), dtype=dtype)

    def compute(inputs: Any) -> Sequence[Tensor]:
        reached: list[Tensor] = []

        def stop(output: Tensor) -> Tensor:
            reached.append(output)
            raise _ReachedError

        stopped = contextlib.suppress(_ReachedError)
        with torch.no_grad(), tracing(twin, cuts, edits={layer: stop}) as recording, stopped:
            call(twin, map_tensors(inputs, lambda tensor: _cast(tensor, dtype)))
        outputs = [*reached, *(recording.tensors[name] for name in cuts[1:])]
        return [output.detach().float() for output in outputs]

    return Ahead.of(net, x, cuts=cuts, compute=compute)


class _ReachedError(Exception):
    """The pass has reached the layer."""


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a lower precision, with the channels last, which convolutions are fastest with."""
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(dtype)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
