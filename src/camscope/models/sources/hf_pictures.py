"""What a Hugging Face image processor does to a picture, as a Preprocess: found out by running it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from camscope.errors import ModelError
from camscope.images import Picture
from camscope.models.preprocess import Order, Preprocess

_PROBES = ((331, 457), (457, 334))
_LEVEL = 1 / 255
_EXACT = 1e-5
# LeViT's processor scales by a ratio of its own, which stands in no field.
_LEVIT = 256 / 224


def preprocess_of(name: str, config: Any, *, offline: bool, whole: bool = False) -> Preprocess:
    """Return the preprocessing that belongs to a model of transformers.

    Args:
        name: of the model, an id on the hub or a folder.
        config: the model's configuration.
        offline: look in folders and caches only.
        whole: whether the model needs the whole picture, as detectors and segmentation networks do.

    Raises:
        ModelError: for a processor that does something else than resize, cut and normalise, or is code of the model's
            makers.
    """
    transformers: Any = importlib.import_module("transformers")
    try:
        # Pillow resizes as the weights were trained and evaluated with; torchvision's backend rounds otherwise.
        processor = transformers.AutoImageProcessor.from_pretrained(
            name, backend="pil", local_files_only=offline, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"the image processor of {name} is code of its makers, which camscope never runs; {_OWN}"
            ) from error
        size = getattr(getattr(config, "vision_config", config), "image_size", 224)
        warnings.warn(
            f"there is no image processor in {name} (preprocessor_config.json), so ImageNet's usual preprocessing is "
            "assumed; say otherwise with mean=, std=, input_size= and fit=",
            stacklevel=2,
        )
        size = (size, size) if isinstance(size, int) else tuple(size)
        return Preprocess(input_size=size, fit="pad" if whole else "crop")
    return read_processor(processor, whole=whole)


def read_processor(processor: Any, *, whole: bool = False) -> Preprocess:
    """Find the Preprocess that makes the same input.

    Black, white and red pictures tell the normalisation and the order of the channels; of the geometries that the
    processor's sizes allow, that is taken which makes its very input out of noise, lying and standing.

    Args:
        processor: an image processor of transformers.
        whole: where the input keeps the picture's shape, as DETR's does, let the whole picture lie in a square of
            the processor's shorter side.

    Raises:
        ModelError: none does.
    """
    pictures = [_noise(*size) for size in _PROBES]
    wanted = [_run(processor, picture) for picture in pictures]
    side = (processor.to_dict().get("size") or {}).get("shortest_edge")
    if wanted[0].shape != wanted[1].shape and whole and side:
        mean, std, order = _normalisation(processor)
        way = _interpolation(processor)
        return Preprocess(input_size=(side, side), mean=mean, std=std, order=order, fit="pad", interpolation=way)
    if wanted[0].shape != wanted[1].shape:
        raise ModelError(
            f"{type(processor).__name__} makes inputs of {wanted[0].shape[1:]} and {wanted[1].shape[1:]} out of two "
            f"pictures, and a model has one input size; {_OWN}"
        )
    mean, std, order = _normalisation(processor)
    size = (wanted[0].shape[1], wanted[0].shape[2])
    best, least = None, np.inf
    for geometry in _geometries(processor, size):
        found = Preprocess(input_size=size, mean=mean, std=std, order=order, **geometry)
        made = [found(Picture((p / 255).astype(np.float32)))[0].numpy() for p in pictures]
        off = max(float(np.abs(a - b).mean()) for a, b in zip(made, wanted, strict=True)) * min(std)
        if off < least:
            best, least = found, off
    # Where only torchvision's resizing is to be had, most bytes agree and some are a level off.
    if best is None or least > (_EXACT if getattr(processor, "backend", "pil") == "pil" else _LEVEL):
        raise ModelError(f"{type(processor).__name__} does something else than resize, cut and normalise; {_OWN}")
    return best


_OWN = "make the model yourself, camscope.Model(NAME, net, preprocess=camscope.Preprocess(...))"


def _geometries(processor: Any, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Ways to the input size that the fields of a processor allow."""
    fields = processor.to_dict()
    given, share = fields.get("size") or {}, fields.get("crop_pct")
    cuts: list[dict[str, Any]] = [{"fit": "squash", "resize": None}]
    if short := given.get("shortest_edge"):
        sides = {short, int(_LEVIT * short)} | ({int(short / share)} if share else set())
        cuts += [{"fit": "crop", "resize": (side, side)} for side in sides]
    elif high := given.get("height"):
        wide = given["width"]
        cuts += [{"fit": "squash", "resize": (high, wide)}]
        cuts += [{"fit": "crop", "resize": (int(high / share), int(wide / share))}] if share else []
    for cut in cuts:
        yield {**cut, "interpolation": _interpolation(processor), "centre": "floor"}


def _interpolation(processor: Any) -> str:
    resample = processor.to_dict().get("resample")
    return Image.Resampling(2 if resample is None else int(resample)).name.lower()


def _normalisation(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...], Order]:
    """Mean and standard deviation on the scale [0, 1], and the order of the channels."""
    picture = np.zeros((*_PROBES[0], 3), np.uint8)
    black, white = _centre(processor, picture), _centre(processor, picture + 255)
    picture[:, :, 0] = 255
    red = _centre(processor, picture)
    mean, std = -black / (white - black), 1 / (white - black)
    order: Order = "bgr" if abs(red[-1] - white[-1]) < abs(red[0] - white[0]) else "rgb"
    # Seven digits, so that 0.485 is 0.485 again and not what float32 makes of it.
    return tuple(float(f"{m:.7g}") + 0.0 for m in mean), tuple(float(f"{s:.7g}") for s in std), order


def _centre(processor: Any, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(C,) what becomes of the pixel in the middle, where nothing is padded."""
    made = _run(processor, picture)
    middle: npt.NDArray[np.float64] = made[:, made.shape[1] // 2, made.shape[2] // 2].astype(np.float64)
    return middle


def _run(processor: Any, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(C, h, w) what a processor makes of bytes (H, W, 3)."""
    try:
        values = processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{type(processor).__name__} makes no input of an RGB picture ({error}); {_OWN}") from error
    if not isinstance(values, torch.Tensor) or values.ndim != 3 or len(values) not in (1, 3):
        raise ModelError(f"{type(processor).__name__} makes no input (1 or 3, h, w) out of a picture; {_OWN}")
    array: npt.NDArray[np.float32] = values.float().numpy()
    return array


def _noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
