"""Notes on the image and its preprocessing."""

from __future__ import annotations

from torch import Tensor

from camscope.images import Picture, Volume, Window

_SHOWN = (1, 3)
_BYTE = 255
_PART = 0.6
"""Share of the image below which a note says how much of it the network sees."""
_FLAT_INPUT = "the network's input has the same value everywhere: its preprocessing leaves nothing to look at"
_DARK = 1 / 8
"""Share of the 16-bit range that values of up to 13 bits stay below."""


def picture_notes(picture: Picture, tensor: Tensor, window: Window) -> tuple[str, ...]:
    """Return the notes that every explanation of an image has, most telling first; a model has its own.

    Args:
        picture: the image.
        tensor: (C, h, w) the input of the network.
        window: the part of the image that the input shows.
    """
    notes: list[str] = []
    view = picture.pixels[window.visible()]
    flat = tensor.flatten(1)
    if view.size and bool((view.max((0, 1)) == view.min((0, 1))).all()):
        values = ", ".join(f"{value:.3g}" for value in view[0, 0][:3])
        notes.append(f"every pixel that the network sees has the same value ({values}): there is nothing to look at")
    elif bool((flat.amax(1) == flat.amin(1)).all()):
        notes.append(_FLAT_INPUT)
    if window.assumed:
        notes.append(
            "which part of the image the preprocessing shows to the network could not be measured: the map is laid "
            "over the whole image, and may be displaced"
        )
    shown = view.shape[0] * view.shape[1] / max(1, picture.pixels.shape[0] * picture.pixels.shape[1])
    if not window.assumed and 0 < shown < _PART:
        notes.append(
            f"the preprocessing cuts the image: the network sees {shown:.0%} of it, less than {_PART:.0%}; with "
            "fit='squash' or 'pad' it would see all of it"
        )
    notes += picture.notes
    brightest = float(picture.pixels.max())
    if picture.highest > _BYTE and 0 < brightest <= _DARK:
        notes.append(
            f"the brightest pixel is {brightest * picture.highest:.0f} of {picture.highest}, so that the image is "
            "nearly black: scale values of fewer bits to the whole range"
        )
    if picture.channels not in _SHOWN:
        display = "the first three are shown as red, green and blue" if picture.channels > 3 else "the first is shown"
        notes.append(f"the image has {picture.channels} channels, of which {display}")
    return tuple(notes)


def volume_notes(volume: Volume, tensor: Tensor, window: Window) -> tuple[str, ...]:
    """Return the notes that every explanation of a volume has.

    Args:
        volume: the volume.
        tensor: (C, *size) the input of the network.
        window: the part of the volume that the input shows.
    """
    notes: list[str] = []
    view = volume.values[window.visible()]
    flat = tensor.flatten(1)
    if view.size and view.min() == view.max():
        notes.append(f"every voxel that the network sees has the same value ({view.min():.3g}): nothing is to be seen")
    elif bool((flat.amax(1) == flat.amin(1)).all()):
        notes.append(_FLAT_INPUT)
    shown = view.size / volume.values.size
    if shown < _PART:
        notes.append(
            f"the preprocessing cuts the volume: the network sees {shown:.0%} of it, less than {_PART:.0%}; with "
            "fit='pad' or 'squash' it would see all of it"
        )
    return (*notes, *volume.notes)
