"""Convert a Hugging Face image processor to a Preprocess, by running it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from camscope.errors import ModelError
from camscope.images import Picture
from camscope.models.preprocess import Preprocess
from camscope.models.transform import Transform

_PROBES = ((331, 457), (457, 334))
_LEVEL = 1 / 255
_EXACT = 1e-5
# LeViT's processor scales by a ratio that is not in its fields.
_LEVIT = 256 / 224
_OWN = "make the model yourself, camscope.Model(NAME, net, preprocess=camscope.Preprocess(...))"


def preprocess_of(name: str, config: Any, *, offline: bool, whole: bool = False) -> tuple[Preprocess, str]:
    """Return the preprocessing that belongs to a model of transformers, and what had to be assumed of it.

    Args:
        name: of the model, an id on the hub or a folder.
        config: the model's configuration.
        offline: look in folders and caches only.
        whole: whether the model needs the whole image, as detectors and segmentation networks do.

    Raises:
        ModelError: for a processor that makes no input of one size out of images, or is code of the model's makers.
    """
    processor = processor_of(name, offline=offline)
    if processor is None:
        size = getattr(getattr(config, "vision_config", config), "image_size", 224)
        assumed = (
            f"there is no image processor in {name} (preprocessor_config.json), so ImageNet's usual preprocessing is "
            "assumed; set others with mean=, std=, input_size= and fit="
        )
        warnings.warn(assumed, stacklevel=2)
        size = (size, size) if isinstance(size, int) else tuple(size)
        return Preprocess(input_size=size, fit="pad" if whole else "crop"), assumed
    return read_processor(processor, whole=whole), ""


def processor_of(name: str, *, offline: bool) -> Any:
    """Return the image processor of a model, or None where there is none.

    Args:
        name: of the model, an id on the hub or a folder.
        offline: look in folders and caches only.

    Raises:
        ModelError: it is code of the model's makers.
    """
    if not name:
        return None
    transformers: Any = importlib.import_module("transformers")
    try:
        # Weights were trained and evaluated with Pillow's resizing; torchvision's backend rounds differently.
        return transformers.AutoImageProcessor.from_pretrained(
            name, backend="pil", local_files_only=offline, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"the image processor of {name} needs code from the hub, which camscope never runs; {_OWN}"
            ) from error
        return None


def read_processor(processor: Any, *, whole: bool = False) -> Preprocess:
    """Return a Preprocess with the same input, or if there is none, the processor itself as a `Transform`.

    Black, white and red images determine the normalisation and the order of the channels. Of the geometries that the
    processor's sizes allow, the one with the same input for noise in landscape and portrait format is used.

    Args:
        processor: an image processor of transformers.
        whole: for inputs that keep the image's aspect ratio, as in DETR, fit the whole image into a square of the
            processor's shorter side.

    Raises:
        ModelError: the processor returns no input for an image, or inputs of different sizes.
    """
    transform = Transform.of(processor)
    side = (processor.to_dict().get("size") or {}).get("shortest_edge")
    if not transform.fixed_size and whole and side:
        return Preprocess(
            (side, side),
            transform.mean,
            transform.std,
            order=transform.order,
            fit="pad",
            interpolation=_interpolation(processor),
        )
    if not transform.fixed_size:
        raise ModelError(
            f"{type(processor).__name__} makes inputs of different sizes out of images of different shapes, and a "
            f"model has one input size; {_OWN}"
        )
    size = transform.input_size
    pictures = [_noise(*shape) for shape in _PROBES]
    references = [transform.run(picture) for picture in pictures]
    best: Preprocess = transform
    least = np.inf
    for geometry in _geometries(processor, size):
        candidate = Preprocess(size, transform.mean, transform.std, order=transform.order, **geometry)
        outputs = [candidate(picture)[0].numpy() for picture in pictures]
        off = max(float(np.abs(a - b).mean()) for a, b in zip(outputs, references, strict=True)) * min(transform.std)
        if off < least:
            best, least = candidate, off
    # With torchvision's resizing, most bytes agree and some differ by one level.
    return best if least <= (_EXACT if getattr(processor, "backend", "pil") == "pil" else _LEVEL) else transform


def _geometries(processor: Any, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the geometries that the fields of a processor allow."""
    fields = processor.to_dict()
    size_fields, share = fields.get("size") or {}, fields.get("crop_pct")
    geometries: list[dict[str, Any]] = [{"fit": "squash", "resize": None}]
    if short := size_fields.get("shortest_edge"):
        sides = {short, int(_LEVIT * short)} | ({int(short / share)} if share else set())
        geometries += [{"fit": "crop", "resize": (side, side)} for side in sides]
    elif high := size_fields.get("height"):
        wide = size_fields["width"]
        geometries += [{"fit": "squash", "resize": (high, wide)}]
        geometries += [{"fit": "crop", "resize": (int(high / share), int(wide / share))}] if share else []
    for geometry in geometries:
        yield {**geometry, "interpolation": _interpolation(processor), "centre": "floor"}


def _interpolation(processor: Any) -> str:
    resample = processor.to_dict().get("resample")
    return Image.Resampling(2 if resample is None else int(resample)).name.lower()


def _noise(height: int, width: int) -> Picture:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Picture((levels / 255).astype(np.float32))
