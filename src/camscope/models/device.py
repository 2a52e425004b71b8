"""Where a model runs."""

from __future__ import annotations

import torch

from camscope.errors import SettingError
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
    """The kind of device that a model is on, such as "cpu" or "cuda".

    >>> device_of(Model("mine", torch.nn.Linear(2, 2)))
    'cpu'
    """
    return next(model.net.parameters(), torch.empty(0)).device.type
