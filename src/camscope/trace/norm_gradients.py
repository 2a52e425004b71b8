"""Give batch and instance norms tensors with plain strides: with others, PyTorch returns wrong gradients on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NORMS = ("batch_norm", "instance_norm")
"""Functions of torch whose gradient may be wrong on the CPU (seen with torch 2.8 and 2.15).

The kernel recognises by the strides whether a tensor is channels-last, and reads it wrongly if an axis of length 1 has
a stride that fits neither layout. Networks whose tokens follow a batch norm, ``x.flatten(2).transpose(1, 2)[:, 0]``,
give such gradients for a batch of one image; the gradient is then spread over the whole image. An instance norm is a
batch norm of one image inside, so it may be wrong in batches of any size.
"""


def plain_norm(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a norm; in a graph, its input and the gradient of its output have plain strides.

    >>> x = torch.ones(1, 2, 3, 3).permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    >>> x.stride(), plain(x).stride()
    ((2, 1, 6, 2), (18, 1, 6, 2))
    """
    with torch._C.DisableTorchFunction():  # other modes see the norm alone
        if args and isinstance(args[0], Tensor) and args[0].requires_grad:
            args = (plain(args[0]), *args[1:])
    result = func(*args, **kwargs)
    with torch._C.DisableTorchFunction():
        if isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(torch.Tensor.contiguous if func.__name__ == "instance_norm" else plain)
    return result


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor whose strides are those of a contiguous or channels-last tensor of its shape."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(tensor.ndim, torch.contiguous_format)
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=layout):
        layout = torch.contiguous_format
    expected = torch.empty(tensor.shape, device="meta", memory_format=layout).stride()
    return tensor if tensor.stride() == expected else tensor.clone(memory_format=layout)
