"""Fill in a region of the network's input, and move a region's shape to another position (sham).

Every fill-in is a function ``(x, mask, *, donor, mean, seed, visible) -> x'`` that changes only the pixels of the mask.
Arguments that a fill-in does not need are ignored, so that all have the same signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from camscope.array_types import Mask
from camscope.errors import SettingError
from camscope.metrics.imputation import imputer

Array = npt.NDArray[np.float32]
Values = npt.NDArray[np.floating]
FillIn = Callable[..., Array]

FILL_INS: dict[str, FillIn] = {}
"""Name -> function (x, mask, *, donor=None, mean=None, seed=0, visible=None) -> x'.

    x: (C, h, w) or (B, C, h, w) the network's input, normalised or not; it is not changed in place.
    mask: (h, w) true where x is replaced; the same for the whole batch.
    donor: another image for "donor", with the shape of one image or of x.
    mean: one number, one number per channel, or (C, h, w), for "mean".
    seed: random seed of the noise, which is the same for every image of a batch.
    visible: (h, w) true inside the image (a box), false in padding; None for no padding. Padding is neither replaced
        nor used.

All raise a SettingError if shapes do not fit, or if the mask covers nothing or all of the image.
"""

_NOISE = 0.01
_SIGMA = 0.10
_SOLVERS = 8


def fill_in(function: Callable[..., Values]) -> FillIn:
    """Register a fill-in under its function's name.

    Args:
        function: (x, mask, known, *, donor, mean, seed as needed) -> the new pixels (C, pixels of the mask) or (B, C,
            pixels of the mask). ``known`` is true for the pixels of the image outside the mask.

    Returns:
        The function in ``FILL_INS``.
    """
    parameters = set(inspect.signature(function).parameters)

    def filled(
        x: Array,
        mask: Mask,
        *,
        donor: Array | None = None,
        mean: npt.ArrayLike | None = None,
        seed: int = 0,
        visible: Mask | None = None,
    ) -> Array:
        mask, context = _parts(x, mask, visible)
        options = {"donor": donor, "mean": mean, "seed": seed}
        result = x.astype(np.float32, copy=True)
        result[..., mask] = function(x, mask, context, **{name: options[name] for name in parameters & options.keys()})
        return result

    filled.__name__, filled.__doc__ = function.__name__, function.__doc__
    FILL_INS[function.__name__] = filled
    return filled


@fill_in
def impute(x: Array, mask: Mask, known: Mask, *, seed: int) -> Values:
    """Impute the region (noisy linear imputation): every pixel becomes the weighted mean of its neighbours.

    x_i = sum_j w_j x_j / sum_j w_j over the up to 8 existing neighbours, w = 1/6 across and 1/12 diagonally, solved for
    all pixels at once. Then normal noise with 0.01 standard deviations of the known pixels is added. At the border of
    the image, missing neighbours are left out of the mean, so that the content is continued outwards.

    Reference:
        Rong et al. A Consistent and Efficient Evaluation Strategy for Attribution Methods (ROAD). ICML 2022.
        arXiv:2202.00449
    """
    solve = _imputer(mask.shape, np.packbits(mask).tobytes(), np.packbits(known).tobytes())
    pixels = x.reshape(-1, mask.size)
    spread = pixels[:, known.ravel()].std(axis=1, dtype=np.float64, keepdims=True)
    noise = np.random.default_rng(seed).standard_normal((x.shape[-3], int(mask.sum())))
    imputed = solve(pixels[:, known.ravel()]) + _NOISE * spread * np.tile(noise, (len(pixels) // len(noise), 1))
    result: Values = imputed.reshape(*x.shape[:-2], -1)
    return result


@fill_in
def blur(x: Array, mask: Mask, known: Mask) -> Values:
    """Fill in a blur of the surroundings: a Gaussian of 10 % of each side, over the pixels outside the mask only.

    x' = G(x known) / G(known). Pixels of the region are not used, because a blurred token is still a token.
    """
    rows, columns = (_gaussian(side) for side in mask.shape)
    weight = rows @ known.astype(np.float64) @ columns
    blurred: Values = ((rows @ np.where(known, x, 0.0) @ columns) / weight)[..., mask]
    return blurred


@fill_in
def donor(x: Array, mask: Mask, known: Mask, *, donor: Array | None) -> Values:
    """Fill in the same part of another image, preferably of another patient in the same view.

    Raises:
        SettingError: there is no donor, or its shape differs.
    """
    if donor is None or donor.shape not in (x.shape, x.shape[-3:]):
        description = "none" if donor is None else f"one of shape {donor.shape}"
        raise SettingError(f"a donor of shape {x.shape[-3:]} or {x.shape} is needed, given: {description}")
    return donor[..., mask]


@fill_in
def mean(x: Array, mask: Mask, known: Mask, *, mean: npt.ArrayLike | None) -> Values:
    """Fill in the mean image of the data set, or its mean colour.

    Raises:
        SettingError: there is no mean, or its shape differs.
    """
    values = np.asarray(mean if mean is not None else np.nan, np.float32)
    values = values[:, None, None] if values.ndim == 1 else values
    picture = x.shape[-3:]
    if np.isnan(values).any() or values.shape not in ((), picture, (picture[0], 1, 1)):
        raise SettingError(
            f"a mean is needed: one number, {picture[0]} (one per channel) or an image of shape {picture}"
        )
    return np.broadcast_to(values, picture)[:, mask]


@fill_in
def reflect(x: Array, mask: Mask, known: Mask) -> Values:
    """Fill in the mirror image of the inner box; only for regions around a box, such as frame rings.

    Raises:
        SettingError: the pixels outside the mask do not form a box.
    """
    inner, outer = _box(known), _box(known | mask)
    if not known[inner].all():
        raise SettingError("reflect needs a region that leaves a box of the image free, as border:0.10 does")
    around = [(i.start - o.start, o.stop - i.stop) for i, o in zip(inner, outer, strict=True)]
    mirrored = np.pad(x[..., *inner], [(0, 0)] * (x.ndim - 2) + around, mode="symmetric")
    return mirrored[..., mask[outer]]


def sham(mask: Mask, forbidden: Mask | None = None, *, seed: int = 0) -> Mask | None:
    """Move a region's shape to a random position, to test whether any patch of this shape has the same effect.

    The whole shape must lie inside the image, outside its original position and outside forbidden pixels. All such
    positions are equally likely. A shape with several parts is moved as a whole.

    Args:
        mask: (h, w) the region, not empty.
        forbidden: (h, w) pixels to avoid: every declared mask, and padding.
        seed: random seed of the position.

    Returns:
        (h, w) the moved shape; None if there is no such position, as for frame rings.

    Raises:
        SettingError: the mask is empty.

    >>> sham(np.array([[1, 1, 0, 0, 0]], bool), np.array([[0, 0, 0, 0, 1]], bool)).astype(int)
    array([[0, 0, 1, 1, 0]])
    """
    if not mask.any():
        raise SettingError("an empty mask has no shape to move")
    box = _box(mask)
    shape = mask[box]
    blocked = mask if forbidden is None else mask | forbidden
    overlap = signal.fftconvolve(blocked.astype(np.float64), shape[::-1, ::-1].astype(np.float64), mode="valid")
    free = np.argwhere(overlap < 0.5)
    if not len(free):
        return None
    row, column = free[np.random.default_rng(seed).integers(len(free))]
    moved = np.zeros_like(mask)
    moved[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    return moved


def beside(mask: Mask, visible: Mask) -> Mask | None:
    """Return the part of the image next to a region, as large as the region: the nearest pixels outside it.

    Args:
        mask: (h, w) the region.
        visible: (h, w) pixels that show the image.

    Returns:
        (h, w) the part; None if less than three quarters of the size of the region lies outside it.

    >>> beside(np.array([[1, 1, 0, 0, 0, 0]], bool), np.ones((1, 6), bool)).astype(int)
    array([[0, 0, 1, 1, 0, 0]])
    """
    rest, size = visible & ~mask, int(mask.sum())
    if not size or 4 * rest.sum() < 3 * size:
        return None
    distance = np.where(rest, ndimage.distance_transform_edt(~mask), np.inf)
    nearest = np.argsort(distance, axis=None, kind="stable")[: min(size, int(rest.sum()))]
    part = np.zeros(mask.shape, bool)
    part.flat[nearest] = True
    return part


def _parts(x: Array, mask: Mask, visible: Mask | None) -> tuple[Mask, Mask]:
    """Return the replaced pixels and the known pixels of the image, without padding."""
    if x.ndim not in (3, 4) or mask.shape != x.shape[-2:] or (visible is not None and visible.shape != mask.shape):
        raise SettingError(f"a mask of shape {mask.shape} does not fit an input of {x.shape}: give (h, w) of (C, h, w)")
    context = ~mask if visible is None else visible & ~mask
    mask = mask if visible is None else visible & mask
    if not mask.any() or not context.any():
        raise SettingError("a mask must cover some of the image and leave some of it free")
    return mask, context


def _box(mask: Mask) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _gaussian(side: int) -> npt.NDArray[np.float64]:
    """Return the (side, side) weights between positions; they are not truncated, so every position has neighbours."""
    distance = np.subtract.outer(np.arange(side), np.arange(side)) / (_SIGMA * side)
    weights: npt.NDArray[np.float64] = np.exp(-0.5 * distance**2)
    return weights


@lru_cache(maxsize=_SOLVERS)
def _imputer(shape: tuple[int, int], mask_bits: bytes, known_bits: bytes) -> Callable[[Values], Values]:
    """Return the factorised system of a mask; cached, because rings are the same for all images."""
    mask, context = (
        np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).astype(bool).reshape(shape)
        for bits in (mask_bits, known_bits)
    )
    return imputer(mask, context)
