"""Preprocessing of volumes: volume -> input of the network, and the Window of the volume that the network sees."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, get_args

import numpy as np
import torch

from camscope.arguments import check_fields
from camscope.errors import PictureError, SettingError
from camscope.images import Picture, Turn, Volume, Window
from camscope.images.volume import Voxels, check_orientation
from camscope.models.preprocess import NOTHING_GIVEN, Centre, Fit, Order, Preprocess

_ASSUMED = (96, 96, 96)
_SAME = 1e-4
"""Difference from 1 of a ratio of spacings that is rounding of the file."""


@dataclass(frozen=True)
class VolumePreprocess(Preprocess):
    """Reorient, resample, crop or pad to the input size, normalise: ``(values - mean) / std``.

    Axes are reordered and reversed, never turned by other angles: an oblique volume is sampled along its own axes.
    Samples are interpolated linearly between the centres of voxels. The steps on values are, in this order:
    ``value_range``, ``zscore``, ``mean`` and ``std``. For a network of several channels the volume is repeated.

    Attributes:
        input_size: of the network's input, along its three axes.
        mean: one number per channel, in the unit of the values after ``value_range`` and ``zscore``.
        std: standard deviation, in the same format as mean.
        fit: "crop" samples at ``spacing`` around the centre of the volume, and cuts off or fills what is more or less
            than the input size; "pad" samples the whole volume at the one spacing at which it fits into the input;
            "squash" samples the whole volume, each axis at a spacing of its own.
        orientation: ends of the body to which the axes of the input lead: "RAS" as in MONAI; "SPL" for (slices, rows,
            columns), as arrays of SimpleITK and of DICOM series are.
        spacing: for "crop", millimetres between samples along each axis of the input; None: that of the volume.
        value_range: values that become 0 and 1, such as (-160, 240) Hounsfield units; those outside become 0 or 1.
            None: values stay as they are.
        zscore: whether the mean of the whole volume is subtracted, and its standard deviation divided by.
        fill: value of the input where the volume does not reach, after all steps.

    Examples:
        >>> volume = Volume(np.zeros((100, 80, 20), np.float32), np.diag([-1.0, -1.0, 5.0, 1.0]))
        >>> tensor, window = VolumePreprocess((32, 32, 32), spacing=(2.0, 2.0, 5.0))(volume)
        >>> tuple(tensor.shape), window.start, window.extent
        ((1, 32, 32, 32), (18.0, 8.0, -6), (64.0, 64.0, 32.0))
    """

    input_size: tuple[int, int, int] = _ASSUMED  # type: ignore[assignment]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fit: Fit = "crop"
    resize: None = field(init=False, default=None)
    interpolation: str = field(init=False, default="linear")
    order: Order = field(init=False, default="rgb")
    centre: Centre = field(init=False, default="floor")
    orientation: str = "RAS"
    spacing: tuple[float, float, float] | None = None
    value_range: tuple[float, float] | None = None
    zscore: bool = False
    fill: float = 0.0

    def __post_init__(self) -> None:
        """Make tuples of single numbers, and refuse values that no network can be fed with."""
        self._make_tuples()
        check_fields(self)
        if self.fit not in get_args(Fit):
            raise SettingError(f"fit cannot be {self.fit!r}; possible: {', '.join(get_args(Fit))}")
        object.__setattr__(self, "orientation", check_orientation(self.orientation))
        if not self.mean or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise SettingError(
                f"mean {self.mean} and std {self.std} must have one number per channel each, std above 0"
            )
        if min(self.input_size) < 1:
            raise SettingError(f"an input size of volumes has three numbers of at least 1; given: {self.input_size}")
        if self.spacing is not None and (self.fit != "crop" or min(self.spacing) <= 0):
            raise SettingError(
                f"spacing is of fit='crop', in millimetres above 0; given: {self.spacing} and {self.fit!r}"
            )
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise SettingError(f"value_range has a lower value before a higher one; given: {self.value_range}")

    def _make_tuples(self) -> None:
        """Replace one number for all channels, or for all axes, by as many as there are; lists by tuples."""
        channels = next((len(v) for v in (self.mean, self.std) if isinstance(v, Sequence)), 1)
        for key, count in (
            ("mean", channels),
            ("std", channels),
            ("input_size", 3),
            ("spacing", 3),
            ("value_range", 0),
        ):
            value: Any = getattr(self, key)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and count:
                object.__setattr__(self, key, (value,) * count)
            elif isinstance(value, list):
                object.__setattr__(self, key, tuple(value))

    def __call__(self, picture: Picture | Volume) -> tuple[torch.Tensor, Window]:
        """Compute the network's input from a volume.

        Args:
            picture: the volume.

        Returns:
            The input (C, *input_size) float32, and the window of the volume that it shows.

        Raises:
            PictureError: an image instead of a volume.
        """
        if not isinstance(picture, Volume):
            raise PictureError(
                f"the model takes volumes, and {picture.source or 'the image'!r} is an image: give a NIfTI file or the "
                "folder of a DICOM series to explain()"
            )
        window = self.place(picture)
        values = self._normalised(picture, _sampled(picture, window, self.input_size))
        inside = np.ones(self.input_size, bool)
        for axis, covered in enumerate(_covered(window, self.input_size)):
            shape = [-1 if a == axis else 1 for a in range(3)]
            inside &= covered.reshape(shape)
        tensor = torch.from_numpy(values).expand(self.channels, -1, -1, -1)
        mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1, 1) for v in (self.mean, self.std))
        filled = torch.where(torch.from_numpy(inside), tensor.sub(mean).div(std), torch.tensor(float(self.fill)))
        return filled.contiguous(), window

    def place(self, volume: Volume) -> Window:
        """Return the part of a volume that the network sees, on the volume's own axes."""
        turn = Turn.to(self.orientation, volume)
        own = Window.whole(volume.size)
        start, extent = list(own.start), list(own.extent)
        steps = self._steps([volume.size[o] for o in turn.order], [volume.spacing[o] for o in turn.order])
        for axis, (count, step, flip) in enumerate(zip(self.input_size, steps, turn.flipped, strict=True)):
            i = turn.order[axis]
            first = (volume.size[i] - count * step) / 2
            first = math.floor(first) if step == 1 else first
            extent[i] = count * step
            start[i] = volume.size[i] - first - extent[i] if flip else first
        return Window(volume.size, tuple(start), tuple(extent), order=turn.order, flipped=turn.flipped)

    def at(self, input_size: Sequence[int]) -> VolumePreprocess:
        """Return the same for another input size; two equal numbers are the sides of a cube.

        >>> VolumePreprocess().at((64, 64)).input_size
        (64, 64, 64)
        """
        size = tuple(input_size) * 2 if len(set(input_size)) == 1 else tuple(input_size)
        if len(size) < 3:
            raise SettingError(f"an input size of volumes has three numbers; given: {tuple(input_size)}")
        return dataclasses.replace(self, input_size=(size[0], size[1], size[2]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and names, for JSON."""
        names = [one.name for one in dataclasses.fields(self) if one.init]
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in names}

    def _steps(self, size: Sequence[int], spacing: Sequence[float]) -> list[float]:
        """Return the distance between samples in voxels, along each axis of the input.

        Args:
            size: voxels of the volume, along the axes of the input.
            spacing: their millimetres.
        """
        if self.fit == "squash":
            return [n / count for n, count in zip(size, self.input_size, strict=True)]
        if self.fit == "pad":
            edge = max(n * mm / count for n, mm, count in zip(size, spacing, self.input_size, strict=True))
            wanted: Sequence[float] = (edge,) * 3
        else:
            wanted = self.spacing or spacing
        steps = [goal / mm for goal, mm in zip(wanted, spacing, strict=True)]
        return [1.0 if abs(step - 1) < _SAME else step for step in steps]

    def _normalised(self, volume: Volume, values: Voxels) -> Voxels:
        """Return sampled values after the steps before mean and std; statistics are those of the whole volume."""
        values = self._ranged(values)
        if self.zscore:
            whole = self._ranged(volume.values)
            mean, std = float(whole.mean(dtype=np.float64)), float(whole.std(dtype=np.float64))
            values = (values - np.float32(mean)) / np.float32(std or 1.0)
        return values

    def _ranged(self, values: Voxels) -> Voxels:
        if self.value_range is None:
            return values
        low, high = self.value_range
        scaled: Voxels = ((values - np.float32(low)) / np.float32(high - low)).clip(0, 1)
        return scaled


def _covered(window: Window, input_size: Sequence[int]) -> list[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return, along each axis of the input, which samples lie inside of the volume."""
    covered = []
    for axis, count in enumerate(input_size):
        i = window.order[axis]
        places = window.start[i] + (np.arange(count) + 0.5) * window.extent[i] / count
        inside = (places >= 0) & (places <= window.picture[i])
        covered.append(inside[::-1] if window.flipped[axis] else inside)
    return covered


def _sampled(volume: Volume, window: Window, input_size: Sequence[int]) -> Voxels:
    """Return the volume's values at the samples of the input, (*input_size); beyond its edge the nearest."""
    values = volume.values
    counts = {i: input_size[axis] for axis, i in enumerate(window.order)}
    # The axes that lose most samples first, so that little memory is needed.
    for i in sorted(counts, key=lambda i: counts[i] / volume.size[i]):
        places = window.start[i] + (np.arange(counts[i]) + 0.5) * window.extent[i] / counts[i] - 0.5
        places = places.clip(0, volume.size[i] - 1)
        lower = np.floor(places).astype(np.intp)
        share = (places - lower).astype(np.float32).reshape([-1 if a == i else 1 for a in range(3)])
        below = values.take(lower, i)
        if share.any():
            above = values.take(np.minimum(lower + 1, volume.size[i] - 1), i)
            above -= below
            above *= share
            below += above
        values = below
    return np.ascontiguousarray(Turn(window.order, window.flipped)(values))


def is_of_volumes(preprocess: Preprocess) -> TypeGuard[VolumePreprocess]:
    """Return whether a preprocessing takes volumes."""
    return isinstance(preprocess, VolumePreprocess)


def preprocess_from_dict(values: Mapping[str, Any]) -> Preprocess:
    """Return the preprocessing of images or volumes that ``to_dict`` wrote.

    Raises:
        ModelError: for a key or a value that does not belong there.

    >>> preprocess_from_dict(VolumePreprocess((8, 8, 8)).to_dict()).input_size
    (8, 8, 8)
    """
    return (VolumePreprocess if "orientation" in values else Preprocess).from_dict(values)


def assumed_volume_note(input_size: Sequence[int]) -> str:
    """Return the note on an assumed preprocessing of volumes."""
    return (
        f"{NOTHING_GIVEN} and the network has none of its own: volumes are turned to RAS, scaled to fit into "
        f"{' x '.join(map(str, input_size))}, and normalised by their own mean and standard deviation, which is an "
        "assumption; pass preprocess=VolumePreprocess(...) as in the training"
    )


def assumed_volume_preprocess(channels: int = 1) -> tuple[VolumePreprocess, str]:
    """Return the preprocessing for a network of volumes that nothing is known of, and a note that says so.

    >>> preprocess, note = assumed_volume_preprocess()
    >>> preprocess.fit, preprocess.zscore, note[:26]
    ('pad', True, 'no preprocessing was given')
    """
    preprocess = VolumePreprocess(mean=(0.0,) * channels, std=(1.0,) * channels, fit="pad", zscore=True)
    return preprocess, assumed_volume_note(_ASSUMED)
