"""Convert arrays, tensors and Pillow images to `Picture`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from camscope.errors import PictureError
from camscope.images.photo import from_pillow
from camscope.images.picture import Picture
from camscope.images.pixels import unit, unit_float
from camscope.images.registry import read
from camscope.images.source import reason

_NAME = "image in memory"
_USUAL = (1, 3)


def as_picture(source: str | Path | Picture | Image.Image | npt.NDArray[Any] | Any) -> Picture:
    """Convert a path, an array, a tensor or a Pillow image to a `Picture`.

    Args:
        source: a path or an address; a `Picture`; a Pillow image; an array (H, W), (H, W, C), or (C, H, W) where that
            is unambiguous, of uint8, uint16, or float in [0, 1]; a torch tensor (H, W), (C, H, W) or (1, C, H, W) of
            uint8 or float in [0, 1]; or any object that NumPy takes for such an array. Arrays and tensors are copied.

    Returns:
        The image: float32 in [0, 1], (H, W, C).

    Raises:
        PictureError: an unreadable file, or an array of another shape, type or range.

    >>> as_picture(np.full((4, 6), 255, np.uint8)).pixels.shape
    (4, 6, 1)
    >>> as_picture(np.zeros((3, 40, 60), np.float32)).pixels.shape
    (40, 60, 3)
    >>> as_picture(np.zeros((40, 40, 40), np.float32))
    Traceback (most recent call last):
    camscope.errors.PictureError: an array of shape (40, 40, 40) is not an image; expected (H, W) or (H, W, C)...
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | Path):
        return read(source)
    if isinstance(source, Image.Image):
        return _from_image(source)
    if any(kind.__name__ == "Tensor" and kind.__module__ == "torch" for kind in type(source).__mro__):
        return _from_tensor(source)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        array = np.asarray(source)
        return _from_array(array, channel_axis=_channel_axis(array.shape, first=False), kind="an array")
    raise PictureError(
        f"cannot read an object of type {type(source).__name__} as an image; pass a path, a NumPy array, a torch "
        "tensor, a Pillow image or a Picture, and several images to explain_all()"
    )


def _from_image(image: Image.Image) -> Picture:
    name = str(getattr(image, "filename", "") or _NAME)
    try:
        return from_pillow(image, source=name)
    except PictureError:
        raise
    except Exception as fault:  # opened lazily, so damage appears only here
        raise PictureError(f"{name!r} cannot be decoded: {reason(fault)}") from None


def _from_tensor(tensor: Any) -> Picture:
    """Read a torch tensor, without importing torch."""
    shape = tuple(tensor.shape)
    if len(shape) == 4:
        if shape[0] != 1:
            raise PictureError(
                f"a tensor of shape {shape} is a batch of {shape[0]} images; pass one of them, or all of them as a "
                "list to explain_all(model, list(x))"
            )
        tensor = tensor[0]
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()
        low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
        if low < 0 or high > 1:
            raise PictureError(
                f"a tensor with values from {low:.6g} to {high:.6g} is not an image but perhaps a normalised input; "
                "pass uint8 or float in [0, 1], or explain a network input with cs.cam(net, x)"
            )
    array = values.numpy()
    return _from_array(array, channel_axis=_channel_axis(array.shape, first=True), kind="a tensor")


def _channel_axis(shape: tuple[int, ...], *, first: bool) -> int | None:
    """Return the axis of the channels of a shape (H, W, C) or (C, H, W), or None if it is ambiguous.

    1 or 3 channels decide, at the usual end before the other end; else the channels are fewer than rows and columns.

    Args:
        shape: of three axes.
        first: whether the channels usually come first (torch) or last (NumPy).
    """
    if len(shape) != 3:
        return None
    ends = (0, 2) if first else (2, 0)
    likely = [axis for axis in ends if shape[axis] in _USUAL]
    likely += [axis for axis in ends if shape[axis] < min(n for i, n in enumerate(shape) if i != axis)]
    return likely[0] if likely else None


def _from_array(array: npt.NDArray[Any], *, channel_axis: int | None, kind: str) -> Picture:
    shape = tuple(array.shape)
    if array.ndim != 2 and channel_axis is None:
        order = "(H, W) or (C, H, W)" if kind == "a tensor" else "(H, W) or (H, W, C)"
        hint = ", with fewer channels than rows and columns" if array.ndim == 3 else ""
        raise PictureError(f"{kind} of shape {shape} is not an image; expected {order}{hint}")
    if array.size == 0:
        raise PictureError(f"{kind} of shape {shape} has no pixels")
    if channel_axis == 0:
        array = np.moveaxis(array, 0, -1)
    if array.dtype == np.uint8:
        return Picture(unit(array, 255), _NAME)
    if array.dtype == np.uint16:
        return Picture(unit(array, 65535), _NAME, bits=16, highest=65535)
    if np.issubdtype(array.dtype, np.floating):
        return Picture(unit_float(array, source=_NAME), _NAME, bits=32)
    raise PictureError(f"{kind} of {array.dtype} is not an image; expected uint8, uint16 or float in [0, 1]")
