"""Any callable as preprocessing, such as the transforms used in training."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch

from camscope.errors import ModelError, PictureError, SettingError, first_line
from camscope.images import Picture, Window
from camscope.models.callable_form import (
    INSTEAD,
    TRIALS,
    Form,
    Inputs,
    find_form,
    generators_kept,
    name_of,
    noise,
    run_in_form,
    with_depth,
)
from camscope.models.preprocess import Order, Preprocess
from camscope.models.window_search import Mirrored, Rule, alike, find_rule, find_window, shows, shows_best

_BLEND = 0.2
"""Share of the pattern when it is blended with an image."""


@dataclass(frozen=True, eq=False, repr=False)
class Transform(Preprocess):
    """A callable as preprocessing, from `Transform.of`; it runs on every image.

    The window is computed by the geometry measured on generated images, or measured for each new image size, and
    checked on each image. If the check fails (a crop that depends on the content), the window is measured on that
    image. If this fails too, the whole image is assumed, and the window says so. ``input_size`` is that of the first
    generated image; ``mean`` and ``std`` are measured on black and white, and are 0 and 1 if the callable does more
    than normalise.

    Attributes:
        function: the callable.
        form: the form in which it takes images.
        fixed_size: whether inputs have one size for images of different shapes.
        rule: function that returns the window for any image size, if there is one.
        fingerprint: sha256 of the inputs of the generated images.
    """

    function: Callable[..., Any] = field(kw_only=True)
    form: Form = field(kw_only=True)
    fixed_size: bool = True
    rule: Rule | None = None
    fingerprint: str = ""
    _windows: dict[tuple[int, int], Window | None] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any], *, channels: int | None = None) -> Transform:
        """Return the preprocessing of a callable, which is run on generated images to measure it.

        These forms are tried until one gives an input: a Pillow image, an array (H, W, C) of uint8, a tensor of uint8
        or of floats in [0, 1]; in RGB, then grey; by position, as ``image=`` (albumentations), or as ``images=``
        (Hugging Face). For a network of any other number of channels: an array or a tensor of floats in [0, 1].

        Args:
            function: a callable, such as a Compose of torchvision or albumentations, ``weights.transforms()``, timm's
                ``create_transform(...)``, an image processor of Hugging Face, or a function of yours. Its result is a
                tensor or array (C, h, w) or (1, C, h, w), or a dict that holds it as "image" or "pixel_values".
            channels: number of channels of the network's input; None: unknown.

        Returns:
            The preprocessing.

        Raises:
            ModelError: it does not take images in any of these forms, is random, or mirrors the image.

        >>> from torchvision import transforms
        >>> steps = [transforms.Resize(64), transforms.CenterCrop(48), transforms.ToTensor()]
        >>> transform = Transform.of(transforms.Compose(steps))
        >>> tensor, window = transform(Picture(np.zeros((100, 200, 3), np.float32)))
        >>> tuple(tensor.shape), window.start
        ((3, 48, 48), (12.5, 62.5))
        """
        with generators_kept():
            form = with_depth(function, find_form(function, channels))
        bare = cls(function=function, form=form)
        pictures = [noise(size, form.channels) for size in TRIALS]
        with generators_kept():
            inputs = [bare.run(pictures[0])]
            for picture in pictures[1:]:
                with contextlib.suppress(PictureError):  # it may only accept images of one shape
                    inputs.append(bare.run(picture))
            sizes = [(array.shape[1], array.shape[2]) for array in inputs]
            mean, std, order = bare._normalisation()
            fields: dict[str, Any] = {
                "function": function,
                "form": form,
                "input_size": sizes[0],
                "mean": mean,
                "std": std,
                "order": order,
                "fixed_size": len(set(sizes)) == 1,
                "fingerprint": hashlib.sha256(b"".join(array.tobytes() for array in inputs)).hexdigest(),
            }
            windows = [window for picture in pictures if (window := bare._measured(picture)) is not None]
            return cls(**fields, rule=find_rule(windows, sizes) if len(windows) == len(sizes) == len(TRIALS) else None)

    def __call__(self, picture: Picture) -> tuple[torch.Tensor, Window]:
        """Compute the network's input from an image.

        Args:
            picture: pixels (H, W, C) in [0, 1]; the callable gets grey and RGB images as bytes.

        Returns:
            The input (C, h, w) float32, and the window of the image that it shows.

        Raises:
            PictureError: the callable fails on this image, or takes another number of channels.
        """
        inputs = self.run(picture)
        if not np.isfinite(inputs).all():
            raise PictureError(f"the preprocessing {self.name} makes values of the image that are not finite")
        return torch.from_numpy(inputs), self._located(picture, inputs)

    def run(self, picture: Picture) -> Inputs:
        """Return the callable's result for an image as an array (C, h, w).

        Raises:
            PictureError: the callable fails on this image, or takes another number of channels.
        """
        argument = self.form.argument(picture)
        try:
            return run_in_form(self.function, self.form, argument)
        except Exception as error:
            raise PictureError(f"the preprocessing {self.name} fails: {first_line(error)}") from error

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """Return a note with the number of bits that the callable gets, for images of more than 8 bits."""
        if picture.bits <= 8 or self.form.channels not in (1, 3):
            return ()
        if self.form.gives_all_bits(picture):
            return (f"the preprocessing {self.name} is given the {picture.bits}-bit values of the image",)
        return (f"the preprocessing {self.name} is given 8 of the {picture.bits} bits per channel of the image",)

    @property
    def name(self) -> str:
        """Return the name of the function, or of the callable's class."""
        return name_of(self.function)

    def __repr__(self) -> str:
        return f"Transform({self.name}, input_size={self.input_size})"

    def window(self, size: tuple[int, int]) -> Window:
        """Return the part of an image of ``size`` (height, width) that the network sees, for any content."""
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
        """Return plain values for JSON; they describe the callable, but cannot rebuild it."""
        return {
            "callable": " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.function)).split()),
            "input_size": list(self.input_size),
            "channels": self.channels,
            "fingerprint": self.fingerprint,
        }

    def _located(self, picture: Picture, inputs: Inputs) -> Window:
        window = self._of_size(picture.size)
        if window is not None and shows(inputs, picture, window):
            return window
        if measured := self._measured(picture, blend=_BLEND):
            if window is not None and alike(window, measured, (inputs.shape[1], inputs.shape[2])):
                return window
            return measured
        if window is not None and shows_best(inputs, picture, window):
            return window
        return Window(picture.size, (0.0, 0.0), (float(picture.size[0]), float(picture.size[1])), assumed=True)

    def _of_size(self, size: tuple[int, int]) -> Window | None:
        if self.rule is not None:
            return self.rule.window(size)
        if size not in self._windows:
            self._windows[size] = self._measured(noise(size, self.form.channels))
        return self._windows[size]

    def _measured(self, picture: Picture, **options: float) -> Window | None:
        try:
            return find_window(self.run, picture, **options)
        except Mirrored:
            raise ModelError(
                f"the preprocessing {self.name} mirrors the image, so that a map would lie on the wrong side: leave "
                "the flip out"
            ) from None

    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...], Order]:
        """Measure mean and std on the scale [0, 1], and the order of the channels, on black, white and red images."""
        flat = np.zeros((*TRIALS[0], self.form.channels), np.float32)
        middles = []
        red = flat.copy()
        red[..., 0] = 1
        for pixels in (flat, flat + 1, red):
            try:
                inputs = self.run(Picture(pixels))
            except PictureError:
                inputs = self.run(noise(TRIALS[0], self.form.channels)) * np.nan
            middles.append(inputs[:, inputs.shape[1] // 2, inputs.shape[2] // 2].astype(np.float64))
        black, white, red_ = middles
        if not np.isfinite(white - black).all() or not (white > black).all():
            return (0.0,) * len(black), (1.0,) * len(black), "rgb"
        mean, std = -black / (white - black), 1 / (white - black)
        is_bgr = len(mean) == 3 and abs(red_[-1] - white[-1]) < abs(red_[0] - white[0])
        # Seven digits, so that 0.485 is not changed by float32.
        rounded = tuple(float(f"{m:.7g}") + 0.0 for m in mean), tuple(float(f"{s:.7g}") for s in std)
        return (*rounded, "bgr" if is_bgr else "rgb")
