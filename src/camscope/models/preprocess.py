"""Preprocessing: image -> input of the network, and Window: the part of the image that the network sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from camscope.arguments import check_fields
from camscope.errors import ModelError, PictureError, SettingError
from camscope.images.picture import Picture, Window

Fit = Literal["crop", "squash", "pad"]
Order = Literal["rgb", "bgr"]
Centre = Literal["round", "floor"]

INTERPOLATIONS = {filter_.name.lower(): filter_ for filter_ in Image.Resampling}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# ITU-R BT.601 luma, the weights of Pillow's mode "L".
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# Resizing a longer strip than this before the crop would fill the memory with unused pixels.
_MAX_ASPECT = 100
_MAX_STD = 4.0


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop to the input size, normalise: ``(pixels - mean) / std`` with pixels in [0, 1].

    8-bit images are resized as bytes by Pillow, so that the input equals that of timm and torchvision; images of more
    bits are resized as floats. For a network of three channels, a grey image is repeated; for a network of one channel,
    an RGB image is converted to luminance. For any other number, the image must have the network's number of
    channels.

    Attributes:
        input_size: (height, width) of the network's input.
        mean: one number per channel, at least one, on the scale [0, 1].
        std: standard deviation, in the same format as mean.
        fit: "crop" scales the image until it covers ``resize`` and crops the centre; "squash" scales it to ``resize``
            without keeping its aspect ratio and crops the centre; "pad" scales it to fit into ``resize`` and fills
            the rest with the mean (the nearest byte for 8-bit images), 0 after normalisation.
        resize: (height, width) before the crop; None: the input size, so that as little as possible is cropped. The
            presets of timm and torchvision resize to more, such as 235 or 256 for an input of 224, and crop a margin;
            `camscope.load` with ``mean`` and ``std`` alone keeps the margin of its source.
        interpolation: name of a Pillow filter.
        order: of the input's channels, "rgb" or, for three channels, "bgr"; ``mean`` and ``std`` are in the same
            order.
        centre: rounding of a centred crop that would start between two pixels: "round" to the even pixel, as in
            torchvision and timm, or "floor", as in Hugging Face.

    Examples:
        >>> picture = Picture(np.zeros((100, 200, 3), dtype=np.float32))
        >>> tensor, window = Preprocess()(picture)
        >>> tuple(tensor.shape), window.start, window.extent
        ((3, 224, 224), (0.0, 50.0), (100.0, 100.0))
    """

    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    fit: Fit = "crop"
    resize: tuple[int, int] | None = None
    interpolation: str = "bicubic"
    order: Order = "rgb"
    centre: Centre = "round"

    def __post_init__(self) -> None:
        """Make tuples of single numbers, and refuse values that no network can be fed with."""
        self._make_tuples()
        check_fields(self)
        for key, value, possible in (
            ("fit", self.fit, get_args(Fit)),
            ("order", self.order, get_args(Order)),
            ("centre", self.centre, get_args(Centre)),
        ):
            if value not in possible:
                raise SettingError(f"{key} cannot be {value!r}; possible: {', '.join(possible)}")
        if self.interpolation not in INTERPOLATIONS:
            raise SettingError(f"interpolation cannot be {self.interpolation!r}; possible: {', '.join(INTERPOLATIONS)}")
        if not self.mean or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise SettingError(
                f"mean {self.mean} and std {self.std} must have one number per channel each, std above 0"
            )
        if type(self) is Preprocess and (
            max(self.mean) > 1 or max(self.std) > _MAX_STD
        ):  # callables have their own scale
            raise SettingError(
                f"expected mean and std for pixels in [0, 1], but got mean {self.mean} and std {self.std}: divide "
                "them by 255"
            )
        if self.order == "bgr" and len(self.mean) not in (1, 3):
            raise SettingError(f"order 'bgr' is of 3 channels, and mean has {len(self.mean)} numbers")
        for size in (self.input_size, self.resize or self.input_size):
            if len(size) != 2 or min(size) < 1:
                raise SettingError(f"a size is (height, width), each at least 1; given: {size}")

    def _make_tuples(self) -> None:
        """Replace one number for all channels, or for both sides, by as many as there are."""
        values: tuple[Any, ...] = (self.mean, self.std)
        channels = next((len(v) for v in values if isinstance(v, Sized)), len(IMAGENET_MEAN))
        for key, count in (("mean", channels), ("std", channels), ("input_size", 2), ("resize", 2)):
            value: Any = getattr(self, key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                object.__setattr__(self, key, (value,) * count)

    @property
    def channels(self) -> int:
        """Return the number of channels of the network's input."""
        return len(self.mean)

    def __call__(self, picture: Picture) -> tuple[torch.Tensor, Window]:
        """Compute the network's input from an image.

        Args:
            picture: pixels (H, W, C) in [0, 1].

        Returns:
            The input (C, h, w) float32, and the window of the image that it shows.

        Raises:
            PictureError: for a strip too long to be cropped, or an image with another number of channels.
        """
        if picture.channels != self.channels and {picture.channels, self.channels} != {1, 3}:
            raise PictureError(
                f"the image has {picture.channels} channel(s) and the network takes {self.channels}: "
                "give an image with as many channels as the network, pixels[..., :3] for the first three"
            )
        scaled_size = self._scaled(*picture.size)
        scaled = _scale(picture, scaled_size, grey=self.channels == 1, interpolation=self.interpolation)
        corner = tuple(self._offset(have, want) for have, want in zip(scaled_size, self.input_size, strict=True))
        crop = self._cut(scaled[:, :, ::-1] if self.order == "bgr" else scaled, corner)
        tensor = torch.from_numpy(crop).permute(2, 0, 1).to(torch.float32)
        if crop.dtype == np.uint8:
            tensor = tensor.div(255)
        mean, std = (torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return tensor.sub(mean).div(std).contiguous(), self.window(picture.size)

    def window(self, size: tuple[int, int]) -> Window:
        """Return the part of an image of ``size`` (height, width) that the network sees.

        >>> Preprocess().window((100, 200)).start
        (0.0, 50.0)
        """
        scaled = self._scaled(*size)
        corner = tuple(self._offset(have, want) for have, want in zip(scaled, self.input_size, strict=True))
        pixel = tuple(whole / part for whole, part in zip(size, scaled, strict=True))
        return Window(
            picture=size,
            start=tuple(first * length for first, length in zip(corner, pixel, strict=True)),
            extent=tuple(count * length for count, length in zip(self.input_size, pixel, strict=True)),
        )

    def at(self, input_size: tuple[int, int]) -> Preprocess:
        """Return the same for another input size; the share of the image that is cut off stays.

        >>> Preprocess(resize=(256, 256)).at((448, 448)).resize
        (512, 512)
        """
        resize = None
        if self.resize is not None:
            (high, wide), (old_high, old_wide) = self.resize, self.input_size
            resize = (high * input_size[0] // old_high, wide * input_size[1] // old_wide)
        return dataclasses.replace(self, input_size=input_size, resize=resize)

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """Return notes on information that the preprocessing loses; none here, see `Transform`."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, for JSON."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Return what ``to_dict`` wrote.

        Raises:
            ModelError: for a key or a value that does not belong there.
        """
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        try:
            return cls(**fields)
        except (TypeError, AttributeError, SettingError) as error:
            raise ModelError(f"preprocess cannot be read from {values!r}: {error}") from error

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the resized image before the crop; rounds as torchvision and timm do."""
        goal = self.resize or self.input_size
        if self.fit == "squash":
            return goal
        ratios = (height / goal[0], width / goal[1])
        if self.fit == "pad":
            return max(1, round(height / max(ratios))), max(1, round(width / max(ratios)))
        if max(ratios) > _MAX_ASPECT * min(ratios):
            raise PictureError(
                f"an image of {height} x {width} pixels is too long a strip to be cropped: use fit='squash' or 'pad'"
            )
        if goal[0] != goal[1]:
            return round(height / min(ratios)), round(width / min(ratios))
        short = goal[0]
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)

    def _offset(self, have: int, want: int) -> int:
        """Return the first row of a centred crop; negative if it must be padded."""
        if have < want:
            return -((want - have) // 2)
        return (have - want) // 2 if self.centre == "floor" else round((have - want) / 2)

    def _cut(self, scaled: npt.NDArray[Any], corner: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return the input size at ``corner`` of the scaled image, filled where it reaches beyond; (h, w, C)."""
        fill = np.array(self.mean if self.fit == "pad" else [0.0], dtype=np.float32)
        if scaled.dtype == np.uint8:
            fill = np.rint(fill * 255).clip(0, 255).astype(np.uint8)
        crop = np.empty((*self.input_size, self.channels), dtype=scaled.dtype)
        crop[:] = fill
        source, target = [], []
        for first, have, want in zip(corner, scaled.shape, self.input_size, strict=False):
            low, high = max(first, 0), min(first + want, have)
            source.append(slice(low, high))
            target.append(slice(low - first, high - first))
        crop[tuple(target)] = scaled[tuple(source)]
        return crop


def _scale(picture: Picture, size: tuple[int, int], *, grey: bool, interpolation: str) -> npt.NDArray[Any]:
    """Resize to (height, width, C): bytes stay bytes, deeper pixels are floats in [0, 1]."""
    pixels, filter_, wide_first = picture.pixels, INTERPOLATIONS[interpolation], (size[1], size[0])
    if picture.bits == 8 and picture.channels in (1, 3):
        bytes_ = np.ascontiguousarray(picture.bytes)
        image = Image.fromarray(bytes_.squeeze(2) if picture.channels == 1 else bytes_)
        if grey:
            image = image.convert("L")
        resized = np.asarray(image.resize(wide_first, filter_))
        return resized if resized.ndim == 3 else resized[:, :, None]
    if grey and picture.channels == 3:
        pixels = (pixels @ _LUMA)[:, :, None]
    if picture.bits == 8:  # Pillow would use a fourth channel as alpha, so each channel is resized separately
        pixels = np.rint(pixels * 255).astype(np.uint8)
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, 2, 0)]
    scaled = np.stack([np.asarray(plane.resize(wide_first, filter_)) for plane in planes], axis=2)
    return scaled if picture.bits == 8 else scaled.clip(0, 1)


def of_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return the mean or std of RGB for a network of another number of channels, as timm adapts its networks.

    timm sums the first convolution over its channels for one, so that grey is normalised by what the three have in
    common, and repeats it for more than three.

    >>> of_channels((0.25, 0.5, 0.75), 1), of_channels((0.25, 0.5, 0.75), 4)
    ((0.5,), (0.25, 0.5, 0.75, 0.25))
    """
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


NOTHING_GIVEN = "no preprocessing was given"


def assumed_preprocess(channels: int = 3, size: tuple[int, int] = (224, 224)) -> tuple[Preprocess, str]:
    """Return ImageNet's preprocessing for a network that nothing is known of, and a note that says so.

    >>> preprocess, note = assumed_preprocess(channels=1)
    >>> preprocess.channels, note[:26]
    (1, 'no preprocessing was given')
    """
    preprocess = Preprocess(size, of_channels(IMAGENET_MEAN, channels), of_channels(IMAGENET_STD, channels))
    return preprocess, assumed_note(size)


def assumed_note(size: tuple[int, int], *, mean: str = "mean", std: str = "std") -> str:
    """Return the note on an assumed preprocessing; "" for the mean or std if the caller gave it."""
    names = " and ".join(filter(None, (mean, std)))
    return (
        f"{NOTHING_GIVEN} and the network has none of its own: images are scaled and cropped to {size[0]} x {size[1]} "
        f"with ImageNet's {names}, which is an assumption; pass preprocess= with the transforms of the training"
    )
