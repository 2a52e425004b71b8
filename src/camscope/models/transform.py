"""Any callable as preprocessing: the transforms that a network was trained with, run as they are."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from camscope.errors import ModelError, PictureError, SettingError
from camscope.images import Picture, Window
from camscope.models.preprocess import Order, Preprocess
from camscope.models.window_search import Mirrored, Rule, alike, find_rule, find_window, shows, shows_best

Inputs = npt.NDArray[np.float32]

_TRIALS = ((331, 457), (457, 334), (240, 700))
"""Sizes of the generated pictures: lying, standing, and a long strip."""
_RUNS = 8
_BLEND = 0.2
"""Share of the pattern where it is laid over a picture."""
_EXPECTED = "a tensor or array (C, h, w) or (1, C, h, w) of floats"
INSTEAD = "camscope.Preprocess(input_size=(h, w), mean=(...), std=(...), fit='crop', 'squash' or 'pad')"


class _UnfitError(Exception):
    """A result that is no input of a network; never leaves this file."""


class _AlmostError(_UnfitError):
    """A result that lacks one step to an input, so that another form need not be tried."""


@dataclass(frozen=True)
class Form:
    """How a callable wants to be given a picture.

    Attributes:
        keyword: the argument's name; "" for the first positional argument.
        kind: "pillow" image, "array" (H, W, C) or (H, W) uint8, uint8 "tensor" (C, H, W), or "float tensor" in [0, 1].
        channels: 1 (grey) or 3 (RGB), to which a picture is converted; any other number must be that of the picture,
            whose array is float32 in [0, 1].
    """

    keyword: str
    kind: str
    channels: int

    def argument(self, picture: Picture) -> Any:
        """Return the picture in this form."""
        if self.channels in (1, 3):
            if picture.channels not in (1, 3):
                raise PictureError(
                    f"the picture has {picture.channels} channels and the preprocessing takes grey or RGB pictures"
                )
            image = Image.fromarray(picture.rgb)
            image = image.convert("L") if self.channels == 1 else image
            if self.kind == "pillow":
                return image
            array = np.array(image)
        else:
            if picture.channels != self.channels:
                raise PictureError(
                    f"the picture has {picture.channels} channel(s) and the preprocessing takes {self.channels}"
                )
            array = picture.pixels.copy()
        if self.kind == "array":
            return array
        tensor = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1).contiguous()
        return tensor / 255 if self.kind == "float tensor" and tensor.dtype == torch.uint8 else tensor


@dataclass(frozen=True, eq=False, repr=False)
class Transform(Preprocess):
    """A callable as preprocessing, made by `Transform.of`; it is run on every picture and never replaced.

    The window is computed by the geometry that was measured on generated pictures, or measured for each new size of
    picture, and checked on each picture: where the input does not show what it should (a crop that depends on the
    content), it is measured on that very picture, and where that fails, the whole picture is assumed and the window
    says so. ``input_size`` is that of the first generated picture; ``mean`` and ``std`` are measured on black and
    white, and are 0 and 1 where the callable does more than to normalise.

    Attributes:
        function: the callable.
        form: how it takes pictures.
        fixed_size: whether pictures of different shapes become inputs of one size.
        rule: what gives the window of a picture of any size, where that was found.
        fingerprint: sha256 of what becomes of the generated pictures.
    """

    function: Callable[..., Any] = field(kw_only=True)
    form: Form = field(kw_only=True)
    fixed_size: bool = True
    rule: Rule | None = None
    fingerprint: str = ""
    _windows: dict[tuple[int, int], Window | None] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any], *, channels: int | None = None) -> Transform:
        """Find out how a callable takes pictures and what it does with them, by running it on generated ones.

        Tried in turn, until one gives an input: a Pillow image, an array (H, W, C) of uint8, a tensor of uint8 or of
        floats in [0, 1]; in RGB, then grey; by position, as ``image=`` (albumentations), or as ``images=``
        (Hugging Face). For a network of any other number of channels: an array or a tensor of floats in [0, 1].

        Args:
            function: such as a Compose of torchvision, ``weights.transforms()``, timm's ``create_transform(...)``, a
                Compose of albumentations, an image processor of Hugging Face, or a function of yours. Its result is a
                tensor or array (C, h, w) or (1, C, h, w), or a dict that holds it as "image" or "pixel_values".
            channels: of the network's input; None: not known.

        Returns:
            The preprocessing.

        Raises:
            ModelError: it takes pictures in none of these ways, draws random numbers, or mirrors the picture.

        >>> from torchvision import transforms
        >>> steps = [transforms.Resize(64), transforms.CenterCrop(48), transforms.ToTensor()]
        >>> transform = Transform.of(transforms.Compose(steps))
        >>> tensor, window = transform(Picture(np.zeros((100, 200, 3), np.float32)))
        >>> tuple(tensor.shape), window.start
        ((3, 48, 48), (12.5, 62.5))
        """
        with _generators_kept():
            form = _find_form(function, channels)
        bare = cls(function=function, form=form)
        pictures = [_noise(size, form.channels) for size in _TRIALS]
        with _generators_kept():
            made = [bare.run(pictures[0])]
            for picture in pictures[1:]:
                with contextlib.suppress(PictureError):  # it may be made for pictures of one shape
                    made.append(bare.run(picture))
            sizes = [(m.shape[1], m.shape[2]) for m in made]
            mean, std, order = bare._normalisation()
            given: dict[str, Any] = {
                "function": function,
                "form": form,
                "input_size": sizes[0],
                "mean": mean,
                "std": std,
                "order": order,
                "fixed_size": len(set(sizes)) == 1,
                "fingerprint": hashlib.sha256(b"".join(m.tobytes() for m in made)).hexdigest(),
            }
            windows = [window for picture in pictures if (window := bare._measured(picture)) is not None]
            return cls(**given, rule=find_rule(windows, sizes) if len(windows) == len(sizes) == len(_TRIALS) else None)

    def __call__(self, picture: Picture) -> tuple[torch.Tensor, Window]:
        """Make the network's input out of a picture.

        Args:
            picture: pixels (H, W, C) in [0, 1]; grey and RGB are given to the callable as bytes.

        Returns:
            The input (C, h, w) float32, and the window of the picture that it shows.

        Raises:
            PictureError: the callable fails on this picture, or takes another number of channels.
        """
        made = self.run(picture)
        if not np.isfinite(made).all():
            raise PictureError(f"the preprocessing {self.name} makes values of the picture that are not finite")
        return torch.from_numpy(made), self._located(picture, made)

    def run(self, picture: Picture) -> Inputs:
        """Return what the callable makes of a picture, (C, h, w), as an array.

        Raises:
            PictureError: the callable fails on this picture, or takes another number of channels.
        """
        argument = self.form.argument(picture)
        try:
            return _run(self.function, self.form, argument)
        except Exception as error:
            raise PictureError(f"the preprocessing {self.name} fails: {_first_line(error)}") from error

    @property
    def name(self) -> str:
        """Name of the function, or of the callable's class."""
        return _named(self.function)

    def __repr__(self) -> str:
        return f"Transform({self.name}, input_size={self.input_size})"

    def window(self, size: tuple[int, int]) -> Window:
        """Return the part of a picture of ``size`` (height, width) that the network sees, whatever its content."""
        return self._of_size(size) or Window(size, (0.0, 0.0), (float(size[0]), float(size[1])), assumed=True)

    def at(self, input_size: tuple[int, int]) -> Preprocess:
        """Raise a SettingError: only the callable's author can change its input size."""
        self.refuse(f"input_size={input_size}")

    def refuse(self, setting: str) -> NoReturn:
        """Raise a SettingError for a setting that belongs to a Preprocess."""
        raise SettingError(
            f"{setting} cannot change the preprocessing {self.name}, which is a callable: change the callable, or give "
            f"preprocess={INSTEAD}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; they describe the callable, and cannot make it again."""
        return {
            "callable": " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.function)).split()),
            "input_size": list(self.input_size),
            "channels": self.channels,
            "fingerprint": self.fingerprint,
        }

    def _located(self, picture: Picture, made: Inputs) -> Window:
        window = self._of_size(picture.size)
        if window is not None and shows(made, picture, window):
            return window
        if measured := self._measured(picture, blend=_BLEND):
            same = window is not None and alike(window, measured, (made.shape[1], made.shape[2]))
            return window if same and window is not None else measured
        if window is not None and shows_best(made, picture, window):
            return window
        return Window(picture.size, (0.0, 0.0), (float(picture.size[0]), float(picture.size[1])), assumed=True)

    def _of_size(self, size: tuple[int, int]) -> Window | None:
        if self.rule is not None:
            return self.rule.window(size)
        if size not in self._windows:
            self._windows[size] = self._measured(_noise(size, self.form.channels))
        return self._windows[size]

    def _measured(self, picture: Picture, **options: float) -> Window | None:
        try:
            return find_window(self.run, picture, **options)
        except Mirrored:
            raise ModelError(
                f"the preprocessing {self.name} mirrors the picture, so that a map would lie on the wrong side: leave "
                "the flip out"
            ) from None

    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...], Order]:
        """Measure mean and std on the scale [0, 1], and the order of the channels, on black, white and red pictures."""
        flat = np.zeros((*_TRIALS[0], self.form.channels), np.float32)
        middles = []
        red = flat.copy()
        red[..., 0] = 1
        for pixels in (flat, flat + 1, red):
            try:
                made = self.run(Picture(pixels))
            except PictureError:
                made = self.run(_noise(_TRIALS[0], self.form.channels)) * np.nan
            middles.append(made[:, made.shape[1] // 2, made.shape[2] // 2].astype(np.float64))
        black, white, red_ = middles
        if not np.isfinite(white - black).all() or not (white > black).all():
            return (0.0,) * len(black), (1.0,) * len(black), "rgb"
        mean, std = -black / (white - black), 1 / (white - black)
        is_bgr = len(mean) == 3 and abs(red_[-1] - white[-1]) < abs(red_[0] - white[0])
        # Seven digits, so that 0.485 is 0.485 again and not what float32 makes of it.
        rounded = tuple(float(f"{m:.7g}") + 0.0 for m in mean), tuple(float(f"{s:.7g}") for s in std)
        return (*rounded, "bgr" if is_bgr else "rgb")


def _find_form(function: Callable[..., Any], channels: int | None) -> Form:
    """Return the first form in which a callable makes an input, of the network's channels where they are known."""
    possible: list[tuple[Form, int]] = []
    faults: list[Exception] = []
    for form in _forms(function, channels):
        picture = _noise(_TRIALS[0], form.channels)
        before = _generators()
        try:
            made = _run(function, form, form.argument(picture))
        except _AlmostError as error:
            faults = [error]
            break
        except Exception as error:
            faults.append(error)
            continue
        if channels in (None, made.shape[0]):
            _refuse_random(function, form, made, before)
            return form
        possible.append((form, made.shape[0]))
    if possible:
        raise ModelError(
            f"the preprocessing {_named(function)} makes inputs of {possible[0][1]} channel(s), and the first "
            f"convolution of the network takes {channels}: give the preprocessing that the network was trained with"
        )
    unfit = next((fault for fault in faults if isinstance(fault, _UnfitError)), faults[0])
    raise ModelError(
        f"the preprocessing {_named(function)} cannot be used: given a picture, it "
        f"{'' if isinstance(unfit, _UnfitError) else 'fails: '}{_first_line(unfit)}; expected a callable that makes "
        f"{_EXPECTED} out of a Pillow image or an array, or {INSTEAD}"
    ) from unfit


def _forms(function: Callable[..., Any], channels: int | None) -> Iterator[Form]:
    """Ways to give a picture to a callable, the likeliest first."""
    keywords = ("images", "") if hasattr(function, "model_input_names") else ("", "image")
    if channels not in (None, 1, 3):
        yield from (
            Form(keyword, kind, int(channels or 0)) for keyword in keywords for kind in ("array", "float tensor")
        )
        return
    for colours in (3, 1):
        for kind in ("pillow", "array", "tensor", "float tensor"):
            for keyword in keywords:
                yield Form(keyword, kind, colours)


def _run(function: Callable[..., Any], form: Form, argument: Any) -> Inputs:
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
    """Raise a ModelError for a callable that makes another input of the same picture, or draws random numbers."""
    picture = _noise(_TRIALS[0], form.channels)
    drew = not all(np.array_equal(a, b) for a, b in zip(before, _generators(), strict=True))
    for _ in range(_RUNS - 1):
        made = _run(function, form, form.argument(picture))
        if drew or made.shape != first.shape or not np.array_equal(made, first, equal_nan=True):
            raise ModelError(
                f"the preprocessing {_named(function)} is random: it is an augmentation for training (a random crop or "
                "flip); give the transforms of evaluation, which treat each picture the same way every time"
            )


def _generators() -> tuple[Any, ...]:
    """The states of the random number generators of Python, NumPy and torch."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  the user's callable may use it
    counter = [*state["state"]["key"], state["state"].get("pos", 0)]
    return np.array(random.getstate()[1]), np.array(counter), torch.get_rng_state().numpy()


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the random number generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@functools.lru_cache(maxsize=8)
def _noise(size: tuple[int, int], channels: int) -> Picture:
    """A picture of bytes: noise on blocks of noise, so that every part differs from every other."""
    generator = np.random.default_rng(0)
    fine = generator.integers(0, 128, (*size, channels))
    coarse = generator.integers(0, 128, (size[0] // 16 + 1, size[1] // 16 + 1, channels))
    values = fine + coarse.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
    return Picture((values / 255).astype(np.float32))


def _named(function: Callable[..., Any]) -> str:
    """A short name: of the function, or of the object's class."""
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
