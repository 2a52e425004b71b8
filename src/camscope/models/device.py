"""Choose and use the device of a model."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from camscope.errors import ModelError, SettingError
from camscope.models.model import Model


def on_device(model: Model, device: str = "auto") -> Model:
    """Put a model on a device.

    Args:
        model: it is moved, not copied.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best there is.

    Raises:
        SettingError: a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.net.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(f"device {device!r} cannot be used ({reason}); use cpu or auto") from None
    return model


def device_of(model: Model) -> str:
    """Return the kind of device that a model is on, such as "cpu" or "cuda".

    >>> device_of(Model("mine", torch.nn.Linear(2, 2)))
    'cpu'
    """
    return next(model.net.parameters(), torch.empty(0)).device.type


def hand_back() -> None:
    """Return freed memory to the system, if the C library is glibc.

    What a network leaves that ran once in another size than it will lies in pieces, and the large tensors to come
    take new memory beside it.

    >>> hand_back()
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def stacked(tensors: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """Stack tensors of one shape as a batch, on the device and in the dtype of another tensor.

    On their way to a GPU they are put into pinned memory, so that the copy runs while the next batch is made ready.

    >>> stacked([torch.zeros(2), torch.ones(2)], like=torch.zeros(1, dtype=torch.float64)).dtype
    torch.float64
    """
    if len(shapes := {tuple(tensor.shape) for tensor in tensors}) > 1:
        raise ModelError(
            f"the preprocessing makes inputs of different sizes, {' and '.join(map(str, sorted(shapes)[:2]))}, and a "
            "batch needs one: resize to a fixed height and width"
        )
    batch = torch.stack(list(tensors))
    if like.is_cuda:
        batch = batch.pin_memory()
    return batch.to(like.device, like.dtype, non_blocking=True)
