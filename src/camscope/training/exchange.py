"""Exchange a region or an acquisition property between training images, to remove its association with the label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camscope.acquisition import PROPERTIES
from camscope.acquisition.property import Trait, reduced
from camscope.array_types import Floats, Mask
from camscope.cohort.regions import REGIONS, check_spec
from camscope.errors import SettingError, nearest
from camscope.images.picture import Picture

Array = npt.NDArray[np.float32]

MOVING = ("aspect", "frame")
"""Properties whose exchange moves the content of an image, so that its masks and regions no longer fit."""

_LEAST_SIDE = 256
_ORDER = sorted(PROPERTIES.values(), key=lambda item: (item.name != "inversion", not item.full_size))


def exchange_kinds(
    exchange: Sequence[str], *, masks: Sequence[str] = (), fixed: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide what is exchanged into regions and acquisition properties.

    Args:
        exchange: regions such as "border:0.15", and names of properties in `camscope.acquisition.PROPERTIES`.
        masks: names that masks of the data can have.
        fixed: other regions and masks of the training, whose place must stay the same.

    Returns:
        The regions, and the properties.

    Raises:
        SettingError: an unknown region, mask or property; or a property that moves the content beside a region or mask.

    Examples:
        >>> exchange_kinds(["border:0.15", "contrast"])
        (('border:0.15',), ('contrast',))
    """
    properties = tuple(item.name for item in _ORDER if item.name in exchange)
    regions = tuple(spec for spec in exchange if spec not in PROPERTIES)
    for spec in regions:
        if spec.partition(":")[0] not in REGIONS:
            raise SettingError(nearest("region or property", spec, [*REGIONS, *PROPERTIES]))
        check_spec(spec, masks=masks, cues=masks)
    moving = next((name for name in MOVING if name in properties), None)
    if moving and (regions or fixed):
        raise SettingError(
            f"exchanging {moving!r} moves the content of an image, and {[*regions, *fixed][0]!r} would no longer fit: "
            f"use one of the two"
        )
    return regions, properties


@dataclass(frozen=True)
class Lenders:
    """The images that lend what is exchanged, by class.

    Attributes:
        groups: indices of the images of each class, or one group of all images where an image can have several labels.
    """

    groups: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, numbers: Sequence[int], truth: Floats, *, single: bool) -> Lenders:
        """Group images by class.

        Args:
            numbers: indices of the images, in the order of the rows of the truth.
            truth: (images, labels): 1, 0, or NaN if unknown.
            single: whether one of the labels is right per image.

        Returns:
            One group per class, or per value of the one label; one group of all images for several labels.
        """
        one_label = truth[:, 0] if truth.shape[1] == 1 else np.zeros(len(truth))
        classes = truth.argmax(axis=1) if single else one_label
        members = np.asarray(numbers, int)
        return cls(tuple(tuple(members[classes == value].tolist()) for value in np.unique(classes)))

    def pick(self, draw: np.random.Generator) -> int:
        """Return the index of a lender; each class is equally likely, whatever the class of the recipient.

        The image itself can be drawn: leaving it out would make the other label more likely.
        """
        group = self.groups[int(draw.integers(len(self.groups)))]
        return group[int(draw.integers(len(group)))]


def exchanged(x: Array, places: Iterable[tuple[Mask | None, Mask | None]], *, visible: Mask, donor: Array) -> Array:
    """Return an image with some regions replaced by those of a donor.

    For each region, the image gets the donor's pixels in the region of the image, which removes its content, and in the
    region of the donor, which inserts the donor's content. With donors drawn independently of the label, the region is
    not associated with the label, and the network sees it in images of every label.

    Args:
        x: (C, h, w) input of the network; it is not changed.
        places: for each region, where it lies in the image and in the donor, (h, w) each, or None.
        visible: (h, w), true where the input shows the image, and not padding.
        donor: (C, h, w) another training image.

    Returns:
        (C, h, w) input with the regions of the donor.

    Source:
        Exchanging parts between images of different labels: Yun et al., CutMix, ICCV 2019; here the label stays.

    Examples:
        >>> left, right = np.array([[1, 0, 0]], bool), np.array([[0, 0, 1]], bool)
        >>> x, donor = np.float32([[[1, 2, 3]]]), np.float32([[[7, 8, 9]]])
        >>> exchanged(x, [(left, right)], visible=left | ~left, donor=donor)
        array([[[7., 2., 9.]]], dtype=float32)
    """
    union = np.zeros_like(visible)
    for pair in places:
        for mask in pair:
            if mask is not None:
                union |= mask
    return np.where(union & visible, donor, x)


def small_enough(picture: Picture, side: int) -> Picture:
    """Return an image reduced to less than twice the longest side of the input, or twice 256 pixels."""
    return reduced(picture, max(side, _LEAST_SIDE))


def measured(picture: Picture, names: Sequence[str], *, side: int) -> dict[str, Trait]:
    """Measure properties of a picture: those that show in the file only at full size, the others in a reduced one.

    Args:
        picture: as it is read.
        names: names of the properties.
        side: longest side of the network's input, in pixels.
    """
    small = small_enough(picture, side)
    return {name: PROPERTIES[name].measure(picture if PROPERTIES[name].full_size else small) for name in names}


def compared(traits: Mapping[int, Mapping[str, Trait]]) -> dict[int, dict[str, Trait]]:
    """Return the traits of images in terms of their cohort, as `AcquisitionProperty.compare` does.

    Args:
        traits: index of the image -> name of the property -> its trait.
    """
    names = next(iter(traits.values()), {})
    columns = {name: PROPERTIES[name].compare([row[name] for row in traits.values()])[0] for name in names}
    return {number: {name: columns[name][k] for name in names} for k, number in enumerate(traits)}


def with_properties(picture: Picture, own: Mapping[str, Trait], other: Mapping[str, Trait], *, side: int) -> Picture:
    """Return an image with some properties of another one.

    Inversion comes first, then the properties of the file, then the others. After a change, the next property is
    measured again, since setting one property changes others.

    Args:
        picture: as it is read.
        own: name of each property -> trait of the image.
        other: the same of the other image.
        side: longest side of the network's input, in pixels.

    Returns:
        The image, reduced unless only properties of the file were set.

    Examples:
        >>> pixels = np.linspace(0.3, 0.5, 64, dtype=np.float32).reshape(8, 8, 1)
        >>> own, other = {"brightness": np.array([0.4])}, {"brightness": np.array([0.6])}
        >>> changed = with_properties(Picture(pixels, bits=16), own, other, side=8)
        >>> round(float(np.median(changed.pixels)), 2)
        0.6
    """
    first = True
    for item in _ORDER:
        if item.name in own:
            picture = picture if item.full_size else small_enough(picture, side)
            trait = own[item.name] if first else item.measure(picture)
            picture = item.set(picture, trait, other[item.name])
            first = False
    return picture
