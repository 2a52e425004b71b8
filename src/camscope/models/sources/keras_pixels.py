"""The range of pixels that a Keras model expects, from the arithmetic before its first weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch

from camscope.models.sources.keras_net import input_shape, sublayers

Range = Literal["[0, 1]", "[0, 255]", "[-1, 1]"]

# A network's first weights are trained on values of the order of 1; pixels of 0 to 255 span less after a division.
_WIDEST_SPAN = 20.0
_NEGLIGIBLE = 1e-6


def expected_range(model: Any, size: tuple[int, int]) -> Range | None:
    """Return the range of pixels that a model expects, or None if it is unknown.

    Uniform images of the values 0, 1 and 255 are run through the model up to its first trained layer. The values there
    show the division and subtraction on the way, in any layers or operations. Batch norms count as arithmetic.

    Args:
        model: a Keras model with one image input.
        size: (height, width) of its input.
    """
    if "int" in str(model.inputs[0].dtype):
        return "[0, 255]"
    shape = input_shape(model)
    channels_last = shape[-1] in (1, 3)
    picture = (*size, shape[-1]) if channels_last else (shape[0], *size)
    values = torch.tensor([0.0, 1.0, 255.0]).view(3, 1, 1, 1).expand(3, *picture).contiguous()
    arrived = _at_first_weights(model, values)
    if arrived is None or len(arrived) != len(values):
        return None
    black, unit, white = arrived.double().flatten(1)
    gain = (white - black) / 255
    depends = gain.abs() > _NEGLIGIBLE * gain.abs().max()
    if not depends.any() or not torch.allclose(unit - black, gain, rtol=0.05, atol=1e-3 * float(gain.abs().max())):
        return None
    zero = -black[depends] / gain[depends]
    return range_of(float(gain[depends].abs().median()), float(zero.median()))


def range_of(gain: float, zero: float) -> Range | None:
    """Return the range of x for which ``gain * (x - zero)`` is an input that networks are trained on.

    >>> range_of(1 / 127.5, 127.5), range_of(1.0, 116.8), range_of(4.4, 0.45), range_of(0.5, -1.0)
    ('[0, 255]', '[0, 255]', '[0, 1]', '[-1, 1]')
    >>> print(range_of(1.0, 0.0))
    None
    """
    if 255 * gain <= _WIDEST_SPAN or zero > 2:
        return "[0, 255]"
    if abs(zero + 1) < 0.05:
        return "[-1, 1]"
    if 0.01 < zero < 0.75 or (gain > 1.5 and abs(zero) <= 0.01):
        return "[0, 1]"
    return None


class _Reached(BaseException):
    """Signal that ends the pass at the first weights; a BaseException, since Keras rewrites Exceptions."""


def _at_first_weights(model: Any, pictures: torch.Tensor) -> torch.Tensor | None:
    """Return the input of the first layer with trained weights."""
    arrived: list[torch.Tensor] = []

    def keep(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arrived.extend(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        raise _Reached

    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in _trained(model)]
    try:
        with torch.no_grad():
            model(pictures, training=False)
    except _Reached:
        return arrived[0].detach() if arrived else None
    finally:
        for handle in handles:
            handle.remove()
    return None


def _trained(layer: Any) -> Iterator[Any]:
    """Yield the layers with trained weights of their own, at every depth."""
    for child in sublayers(layer):
        has_weights = child._trainable_variables or type(child).__name__ == "TorchModuleWrapper"
        if has_weights and type(child).__name__ != "BatchNormalization":
            yield child
        else:
            yield from _trained(child)
