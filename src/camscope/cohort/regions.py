"""Compute the named regions of an image, and the share of a map in them.

A region is written ``kind`` or ``kind:argument``: ``border:0.10``, ``corner:0.15:top-left``, ``outside:lung``,
``cue:token``, ``field-of-view``. To add a kind: one function, ``(argument, scene) -> mask``, under ``@kind``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from camscope.array_types import Mask
from camscope.cohort.collimation import open_field
from camscope.errors import SettingError, nearest
from camscope.images.picture import Window

Shares = npt.NDArray[np.float64]
Source = Callable[[], Mask | None] | None
"""Function that reads a mask (H, W) when it is first needed; None, or a result of None, if there is no mask."""

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
_HALF = 0.5
_RIM = 0.02


@dataclass(frozen=True)
class Scene:
    """An image with its masks and cues.

    Attributes:
        size: (H, W) of the image in pixels.
        window: the part of the image in the network's input.
        pixels: (H, W, C) in [0, 1]; only "field-of-view" needs them.
        masks: name -> source of the mask; the mask of the current label is called "label".
        cues: name -> source of the mask of a cue.
    """

    size: tuple[int, int]
    window: Window
    pixels: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    masks: Mapping[str, Source] = field(default_factory=dict)
    cues: Mapping[str, Source] = field(default_factory=dict)

    @property
    def visible(self) -> Mask:
        """Return (H, W), true inside the window."""
        result = np.zeros(self.size, bool)
        result[self.window.visible()] = True
        return result


Kind = Callable[[str, Scene], Mask | None]

REGIONS: dict[str, Kind] = {}
"""Kind of region -> function (argument, scene) -> (H, W) mask, or None if the image does not have the region."""


_Function = TypeVar("_Function", bound=Kind)


def kind(function: _Function) -> _Function:
    """Register a kind of region under its function's name, ``_`` as ``-``."""
    REGIONS[function.__name__.replace("_", "-")] = function
    return function


def region(spec: str, scene: Scene) -> Mask | None:
    """Return the mask of a region inside the window.

    Args:
        spec: name of the region, such as "border:0.10"; see ``REGIONS``.
        scene: the image.

    Returns:
        (H, W) mask, true inside. None if the image has no such mask or cue, or if the region covers nothing or all of
        the window.

    Raises:
        SettingError: the region is not valid for any image; ``check_spec`` checks this before images are read.

    >>> region("border:0.25", Scene((4, 5), Window.whole((4, 5)))).astype(int)
    array([[1, 1, 1, 1, 1],
           [1, 0, 0, 0, 1],
           [1, 0, 0, 0, 1],
           [1, 1, 1, 1, 1]])
    """
    name, _, argument = spec.partition(":")
    if name not in REGIONS:
        raise SettingError(nearest("region", name, REGIONS))
    mask = REGIONS[name](argument, scene)
    if mask is None:
        return None
    if mask.shape != scene.size:
        raise SettingError(f"the mask of {spec!r} has shape {mask.shape}, its image {scene.size}: give it that size")
    view = scene.visible
    mask = mask & view
    return mask if mask.any() and (view & ~mask).any() else None


def check_spec(spec: str, *, masks: Iterable[str] = (), cues: Iterable[str] = ()) -> None:
    """Check a region's name before images are read.

    Args:
        spec: name of the region, such as "outside:lung".
        masks: names of masks; "label" if the label has a mask.
        cues: names of cues with a mask.

    Raises:
        SettingError: the kind, mask, cue or fraction is not valid; names the nearest valid name.

    >>> check_spec("outside:lungs", masks=["lung", "heart"])
    Traceback (most recent call last):
    camscope.errors.SettingError: no mask called 'lungs'; nearest: 'lung'; ...
    """
    size = (64, 64)
    blank = Scene(
        size,
        Window.whole(size),
        np.zeros((*size, 1), np.float32),
        dict.fromkeys(masks, lambda: np.eye(*size, dtype=bool)),
        dict.fromkeys(cues, lambda: np.eye(*size, dtype=bool)),
    )
    region(spec, blank)


@kind
def border(argument: str, scene: Scene) -> Mask:
    """``border:0.10``: a frame whose bars are this fraction of the height and width of the window."""
    inner = np.zeros(scene.size, bool)
    inner[_inset(_fraction(argument, "border:0.10"), scene)] = True
    return ~inner


@kind
def corner(argument: str, scene: Scene) -> Mask:
    """``corner:0.15`` or ``corner:0.15:top-left``: all corners or one; sides are fractions of the window's sides."""
    number, _, which = argument.partition(":")
    if which and which not in CORNERS:
        raise SettingError(f"{nearest('corner', which, CORNERS)}; without a name it is all four")
    rows, columns = _inset(_fraction(number, "corner:0.15"), scene)
    mask = np.zeros(scene.size, bool)
    for name in [which] if which else CORNERS:
        upper, left = name.startswith("top"), name.endswith("left")
        mask[slice(rows.start) if upper else slice(rows.stop, None)] |= (
            np.arange(scene.size[1]) < columns.start if left else np.arange(scene.size[1]) >= columns.stop
        )
    return mask


@kind
def mask(argument: str, scene: Scene) -> Mask | None:
    """``mask:NAME``: inside a mask of the table; ``mask:label`` is the mask of the current label."""
    if argument not in scene.masks:
        if argument == "label":
            raise SettingError('mask:label needs a mask: add mask = "COLUMN" to [labels.NAME]')
        problem = nearest("mask", argument, scene.masks) if scene.masks else f"no mask called {argument!r}"
        raise SettingError(f"{problem}; add it to masks in [cohort]")
    return _mask_of(scene.masks[argument])


@kind
def inside(argument: str, scene: Scene) -> Mask | None:
    """``inside:NAME``: the same as ``mask:NAME``."""
    return mask(argument, scene)


@kind
def outside(argument: str, scene: Scene) -> Mask | None:
    """``outside:NAME``: everything outside a mask of the table."""
    part = mask(argument, scene)
    return None if part is None else ~part


@kind
def cue(argument: str, scene: Scene) -> Mask | None:
    """``cue:NAME``: inside the mask of a cue."""
    if argument not in scene.cues:
        problem = nearest("cue", argument, scene.cues) if scene.cues else f"no cue called {argument!r}"
        raise SettingError(f"{problem}; add it to cues in [cohort], with column and mask")
    return _mask_of(scene.cues[argument])


@kind
def field_of_view(argument: str, scene: Scene) -> Mask | None:
    """``field-of-view``: black or white bars and collimator blades, with a rim of 2 % inside their straight edges."""
    if argument:
        raise SettingError(f"field-of-view takes no {argument!r}: write 'field-of-view' alone")
    if scene.pixels is None:
        raise SettingError("field-of-view is found from the pixels: give the scene its pixels")
    return ~open_field(scene.pixels.mean(axis=2), rim=_RIM)


def _mask_of(source: Source) -> Mask | None:
    return None if source is None else source()


def _fraction(text: str, example: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < _HALF:
        name = example.partition(":")[0]
        raise SettingError(f"{name}:{text} needs a fraction above 0 and below 0.5, as in {example!r}")
    return fraction


def _inset(fraction: float, scene: Scene) -> tuple[slice, slice]:
    """Return the window without a frame of whole pixels, at least one pixel on each side."""
    rows, columns = (
        slice(box.start + bar, max(box.stop - bar, box.start + bar))
        for box in scene.window.visible()
        for bar in [max(round(fraction * (box.stop - box.start)), 1)]
    )
    return rows, columns


def cell_shares(mask: Mask, window: Window, grid: tuple[int, int]) -> Shares:
    """Return the share of each grid cell that a region covers.

    share = (area of the cell that the region covers) / (area of the cell). Cells are compared at the scale of the
    image, so borders between cells may divide a pixel. Padding counts as not covered.

    Args:
        mask: (H, W) on the image.
        window: the part of the image in the network's input.
        grid: (h, w) of the map.

    Returns:
        (h, w) in [0, 1].

    >>> cell_shares(np.array([[True, False, False]]), Window.whole((1, 3)), (1, 2)).round(3)
    array([[0.667, 0.   ]])
    """
    rows, columns = (
        _overlap(cells, pixels, start, extent)
        for cells, pixels, start, extent in zip(grid, mask.shape, window.start, window.extent, strict=True)
    )
    covered: Shares = (columns @ (rows @ mask.astype(np.float64)).T).T
    return np.clip(covered, 0, 1)


def visible_shares(window: Window, grid: tuple[int, int]) -> Shares:
    """Return the share of each grid cell that lies inside the image, (h, w) in [0, 1]; the rest is padding.

    >>> visible_shares(Window((2, 4), start=(-2, 0), extent=(6, 4)), (3, 1)).tolist()
    [[0.0], [1.0], [0.0]]
    """
    rows, columns = (
        _overlap(cells, pixels, start, extent).sum(axis=1)
        for cells, pixels, start, extent in zip(grid, window.picture, window.start, window.extent, strict=True)
    )
    return np.clip(np.outer(rows, columns), 0, 1)


@lru_cache(maxsize=256)
def _overlap(cells: int, pixels: int, start: float, extent: float) -> sparse.csr_array:
    """Return (cells, pixels): the overlap of each pixel with each cell, in units of a cell."""
    edges = start + extent * np.arange(cells + 1) / cells
    first = np.arange(pixels)
    length = np.minimum(edges[1:, None], first + 1) - np.maximum(edges[:-1, None], first)
    return sparse.csr_array(length.clip(0) * cells / extent)


def at_input(mask: Mask, window: Window, input_size: tuple[int, int], *, grow: int = 0) -> Mask:
    """Return a region on the network's input: the input pixels of which it covers at least half.

    A region too small to cover half of any pixel gets the pixels with at least half of its largest coverage.

    Args:
        mask: (H, W) on the image.
        window: the part of the image in the network's input.
        input_size: (h, w) of the network's input.
        grow: number of input pixels by which the region is enlarged. Resampling blurs the edge of a drawn object by
            about one pixel. With 1, this edge is included, so that fill-ins do not continue it into the region.

    Returns:
        (h, w) mask; false everywhere only if the region lies outside the window.
    """
    pixels = _covered(cell_shares(mask, window, input_size))
    if grow:
        view = _covered(visible_shares(window, input_size))
        pixels = ndimage.binary_dilation(pixels, np.ones((3, 3)), iterations=grow, mask=pixels | view)
    return pixels


def _covered(shares: Shares) -> Mask:
    """Return the cells that belong to a region; at least one if it covers any."""
    best = float(shares.max(initial=0))
    result: Mask = (shares >= min(_HALF, best / 2)) & (shares > 0)
    return result


@dataclass(frozen=True)
class Evidence:
    """The share of a map in a region.

    Attributes:
        mass: share of the map's positive sum in the region, in [0, 1]; NaN for a map without positive values.
        area: share of the window's image area that the region covers, in [0, 1].
        enrichment: mass / area; 1 for a uniform map; NaN if mass is NaN.
        peak_inside: whether the map's maximum lies in a cell of the region; None if mass is NaN, or if some but not all
            cells with the maximum belong to the region.
    """

    mass: float
    area: float
    enrichment: float
    peak_inside: bool | None


def evidence(grid_map: npt.NDArray[np.floating], shares: Shares, visible: Shares) -> Evidence:
    """Measure a map in a region, on the grid of the map.

    With L = max(map, 0): mass = sum(L share) / sum(L visible), area = sum(share) / sum(visible). Heat on padding is
    ignored, so that a constant map has enrichment 1 in every region. For the peak, a cell belongs to the region if the
    region covers at least half of it. For a region that covers half of no cell, cells with at least half of its largest
    coverage are used.

    Args:
        grid_map: (h, w) the map, signed.
        shares: (h, w) ``cell_shares`` of the region.
        visible: (h, w) ``visible_shares`` of the image.

    Returns:
        Mass, area, enrichment, and whether the peak lies inside.

    >>> evidence(np.array([[3.0, 1.0, -5.0]]), np.array([[1.0, 0.0, 0.0]]), np.ones((1, 3)))
    Evidence(mass=0.75, area=0.333..., enrichment=2.25, peak_inside=True)
    """
    heat = np.where(visible > 0, np.asarray(grid_map, np.float64).clip(0), 0)
    area = float(shares.sum() / visible.sum()) if visible.any() else float("nan")
    peak = float(heat.max(initial=0))
    if not 0 < peak < np.inf or not area > 0:
        return Evidence(float("nan"), area, float("nan"), None)
    heat = heat / peak
    mass = float((heat * shares).sum() / (heat * visible).sum())
    at_peak = _covered(shares)[heat == 1]
    return Evidence(mass, area, mass / area, bool(at_peak[0]) if at_peak.all() or not at_peak.any() else None)
