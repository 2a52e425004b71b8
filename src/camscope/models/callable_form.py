"""Detect the form in which a preprocessing callable takes images, by running it on generated images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from camscope.errors import ModelError, PictureError, first_line
from camscope.images import Picture

Inputs = npt.NDArray[np.float32]

TRIALS = ((331, 457), (457, 334), (240, 700))
"""Sizes of the generated images: landscape, portrait, and a long strip."""
_RUNS = 8
_SAME = 0.99
"""Correlation above which 16 bits give the same input as 8, up to its scale."""
_EXPECTED = "a tensor or array (C, h, w) or (1, C, h, w) of floats"
INSTEAD = "camscope.Preprocess(input_size=(h, w), mean=(...), std=(...), fit='crop', 'squash' or 'pad')"


class _UnfitError(Exception):
    """A result that is not an input of a network; internal to this file."""


class _AlmostError(_UnfitError):
    """A result that is almost an input; no other form is tried."""


@dataclass(frozen=True)
class Form:
    """The form in which a callable takes an image.

    Attributes:
        keyword: the argument's name; "" for the first positional argument.
        kind: "pillow" image, "array" (H, W, C) or (H, W) uint8, uint8 "tensor" (C, H, W), or "float tensor" in [0, 1].
        channels: 1 (grey) or 3 (RGB), to which an image is converted; any other number must be that of the image,
            whose array is float32 in [0, 1].
        deep: whether 16-bit grey images are passed unchanged, not in 8 bits.
    """

    keyword: str
    kind: str
    channels: int
    deep: bool = False

    def gives_all_bits(self, picture: Picture) -> bool:
        """Return whether an image of more than 8 bits is passed with all its bits."""
        return self.deep and picture.channels == 1 and picture.highest > 255

    def argument(self, picture: Picture) -> Any:
        """Return the image in this form."""
        if self.gives_all_bits(picture):
            values = np.rint(picture.pixels[..., 0] * picture.highest).astype(np.uint16)
            return Image.fromarray(values) if self.kind == "pillow" else values
        if self.channels in (1, 3):
            if picture.channels not in (1, 3):
                raise PictureError(
                    f"the image has {picture.channels} channels and the preprocessing takes grey or RGB images"
                )
            image = Image.fromarray(picture.rgb)
            image = image.convert("L") if self.channels == 1 else image
            if self.kind == "pillow":
                return image
            array = np.array(image)
        else:
            if picture.channels != self.channels:
                raise PictureError(
                    f"the image has {picture.channels} channel(s) and the preprocessing takes {self.channels}"
                )
            array = picture.pixels.copy()
        if self.kind == "array":
            return array
        tensor = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1).contiguous()
        return tensor / 255 if self.kind == "float tensor" and tensor.dtype == torch.uint8 else tensor


def find_form(function: Callable[..., Any], channels: int | None) -> Form:
    """Return the first form in which a callable makes an input, of the network's channels where they are known."""
    possible: list[tuple[Form, int]] = []
    faults: list[Exception] = []
    for form in _forms(function, channels):
        picture = noise(TRIALS[0], form.channels)
        before = _generators()
        try:
            inputs = run_in_form(function, form, form.argument(picture))
        except _AlmostError as error:
            faults = [error]
            break
        except Exception as error:
            faults.append(error)
            continue
        if channels in (None, inputs.shape[0]):
            _refuse_random(function, form, inputs, before)
            return form
        possible.append((form, inputs.shape[0]))
    if possible:
        raise ModelError(
            f"the preprocessing {name_of(function)} makes inputs of {possible[0][1]} channel(s), and the first "
            f"convolution of the network takes {channels}: give the preprocessing that the network was trained with"
        )
    unfit = next((fault for fault in faults if isinstance(fault, _UnfitError)), faults[0])
    raise ModelError(
        f"the preprocessing {name_of(function)} cannot be used: given an image, it "
        f"{'' if isinstance(unfit, _UnfitError) else 'fails: '}{first_line(unfit)}; expected a callable that makes "
        f"{_EXPECTED} out of a Pillow image or an array, or {INSTEAD}"
    ) from unfit


def _forms(function: Callable[..., Any], channels: int | None) -> Iterator[Form]:
    """Yield forms in which a callable may take an image, the likeliest first."""
    keywords = ("images", "") if hasattr(function, "model_input_names") else ("", "image")
    if channels not in (None, 1, 3):
        yield from (
            Form(keyword, kind, int(channels or 0)) for keyword in keywords for kind in ("array", "float tensor")
        )
        return
    for colours in (1, 3) if channels == 1 else (3, 1):
        for kind in ("pillow", "array", "tensor", "float tensor"):
            for keyword in keywords:
                yield Form(keyword, kind, colours)


def with_depth(function: Callable[..., Any], form: Form) -> Form:
    """Return a form that gives 16-bit images as they are, if a callable makes the same of them but for the scale."""
    deep = dataclasses.replace(form, deep=True)
    if form.channels not in (1, 3) or form.kind not in ("pillow", "array"):
        return form
    picture = dataclasses.replace(noise(TRIALS[0], 1), bits=16, highest=65535)
    try:
        deep_values, flat_values = (
            run_in_form(function, variant, variant.argument(picture)).ravel() for variant in (deep, form)
        )
    except Exception:  # any exception of the callable: it takes 8 bits
        return form
    if deep_values.shape != flat_values.shape or not np.ptp(deep_values) > 0 or not np.ptp(flat_values) > 0:
        return form
    return deep if np.corrcoef(deep_values, flat_values)[0, 1] > _SAME else form


def run_in_form(function: Callable[..., Any], form: Form, argument: Any) -> Inputs:
    """Call a function in one form; returns (C, h, w).

    Raises:
        _UnfitError: the result is no input.
    """
    if form.keyword == "images":
        result = function(images=argument, return_tensors="pt")
    else:
        result = function(**{form.keyword: argument}) if form.keyword else function(argument)
    if isinstance(result, Mapping):
        result = next((result[key] for key in ("pixel_values", "image") if key in result), result)
    if isinstance(result, list | tuple) and len(result) == 1:
        result = result[0]
    if isinstance(result, torch.Tensor):
        result = result.detach().cpu()
        result = (result.float() if result.is_floating_point() else result).numpy()
    if result is argument or not isinstance(result, np.ndarray):
        raise _UnfitError(f"returns an object of type {type(result).__name__}")
    shape = tuple(result.shape)
    result = result[0] if result.ndim == 4 and shape[0] == 1 else result
    if result.ndim != 3 or 0 in shape:
        raise _UnfitError(f"returns the shape {shape}")
    if result.shape[0] > result.shape[2] < result.shape[1]:
        raise _AlmostError(f"returns the shape {shape}, with the channels last")
    if not np.issubdtype(result.dtype, np.floating):
        raise _AlmostError(f"returns numbers of type {result.dtype}, not yet scaled")
    return np.array(result, dtype=np.float32, order="C")


def _refuse_random(function: Callable[..., Any], form: Form, first: Inputs, before: tuple[Any, ...]) -> None:
    """Raise a ModelError for a callable that makes another input of the same image, or draws random numbers."""
    picture = noise(TRIALS[0], form.channels)
    drew = not all(np.array_equal(a, b) for a, b in zip(before, _generators(), strict=True))
    drew = drew or _is_left_to_chance(function)
    for _ in range(_RUNS - 1):
        inputs = run_in_form(function, form, form.argument(picture))
        if drew or inputs.shape != first.shape or not np.array_equal(inputs, first, equal_nan=True):
            raise ModelError(
                f"the preprocessing {name_of(function)} is random: it is an augmentation for training (a random crop "
                "or flip); give the transforms of evaluation, which treat each image the same way every time"
            )


def _is_left_to_chance(function: Any) -> bool:
    """Return whether a callable, or one of its ``transforms``, has a probability ``p`` between 0 and 1.

    Packages such as albumentations have random number generators of their own, and draw rare augmentations rarely.
    """
    chance, parts = getattr(function, "p", 1.0), getattr(function, "transforms", ())
    if isinstance(chance, (int, float)) and 0 < chance < 1:
        return True
    return any(map(_is_left_to_chance, parts)) if isinstance(parts, (list, tuple)) else False


def _generators() -> tuple[Any, ...]:
    """Return the states of the random number generators of Python, NumPy and torch."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  the user's callable may use it
    counter = [*state["state"]["key"], state["state"].get("pos", 0)]
    return np.array(random.getstate()[1]), np.array(counter), torch.get_rng_state().numpy()


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the random number generators on exit."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@functools.lru_cache(maxsize=8)
def noise(size: tuple[int, int], channels: int) -> Picture:
    """Return an image of bytes: noise on blocks of noise, so that every part differs from every other."""
    generator = np.random.default_rng(0)
    fine = generator.integers(0, 128, (*size, channels))
    coarse = generator.integers(0, 128, (size[0] // 16 + 1, size[1] // 16 + 1, channels))
    values = fine + coarse.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
    return Picture((values / 255).astype(np.float32))


def name_of(function: Callable[..., Any]) -> str:
    """Return a short name: of the function, or of the object's class."""
    return str(getattr(function, "__qualname__", None) or type(function).__name__)
