"""Overlap metrics: thresholds and boxes of a map, and how well they overlap with the annotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from camscope.errors import SettingError
from camscope.metrics.fitting import against, at_size, undefined, unsound
from camscope.metrics.registry import Facts, metric

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom exclusive."""

THRESHOLDS = torch.arange(100, dtype=torch.float64) / 100
"""Thresholds of the tuned metrics, as shares of a map's maximum: 0, 0.01 ... 0.99."""

_BINS = 256
_SIDE = 224
"""Maximum side in pixels of the images that boxes are drawn on, as in the paper."""
_EIGHT = np.ones((3, 3), int)


class Tuned(NamedTuple):
    """A metric at the best threshold for a whole set.

    Attributes:
        value: mean over the set.
        thresholds: chosen shares of the maximum: one, or for MaxBoxAccV2 one per overlap.
        values: (B,) value of each image at these thresholds.
    """

    value: float
    thresholds: tuple[float, ...]
    values: Tensor


def tuned(curves: Tensor) -> Tuned:
    """Choose one threshold for a whole set: the one at which the mean over its images is largest.

    The threshold is chosen on the set itself, as in MaxBoxAcc. So the value is optimistic, for all maps alike.

    Args:
        curves: (B, ..., T) values of a tuned metric at each of `THRESHOLDS`, for all images of the set. Images with NaN
            do not count.

    Returns:
        The mean over the set at that threshold, the threshold, and the value of each image.

    >>> tuned(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 1.0]]))
    Tuned(value=0.75, thresholds=(0.01,), values=tensor([1.0000, 0.5000]))
    """
    several = curves.flatten(1, -2) if curves.ndim > 2 else curves[:, None]
    best = several.nanmean(0).nan_to_num(-1).argmax(-1)
    values = several.gather(2, best.expand(len(several), -1)[:, :, None])[:, :, 0].mean(1)
    return Tuned(float(values.nanmean()), tuple(THRESHOLDS[best.cpu()].tolist()), values)


def otsu(maps: Tensor) -> Tensor:
    """Compute Otsu's threshold of each heat map R(L), with 256 levels from 0 to its maximum.

    It maximises the variance between the two classes; the foreground lies above it.

    Args:
        maps: (B, h, w) signed maps.

    Returns:
        (B,) in the unit of the maps; -1, below all values, for a flat map.

    Reference:
        Otsu. A threshold selection method from gray-level histograms. IEEE Trans. SMC 1979.
        doi:10.1109/TSMC.1979.4310076

    >>> otsu(torch.tensor([[[0.0, 0.1, 0.9, 1.0]]])).item()
    0.1015625
    """
    heat = maps.detach().double().relu().flatten(1)
    top = heat.amax(1, keepdim=True)
    level = _levels(heat, top, _BINS)
    count = torch.zeros(len(heat), _BINS, dtype=heat.dtype, device=heat.device)
    count.scatter_add_(1, level, torch.ones_like(heat))
    below = count.cumsum(1)
    sums = (count * torch.arange(_BINS, device=heat.device)).cumsum(1)
    total, mass = below[:, -1:], sums[:, -1:]
    between = (mass * below - total * sums).square() / (below * (total - below))
    best_bin = between.nan_to_num(-1, posinf=-1).argmax(1)
    flat = (count > 0).sum(1) <= 1
    return torch.where(flat, -1.0, (best_bin + 1) / _BINS * top[:, 0])


@metric(Facts("high"))
def iou(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the intersection over union of the region with the heat map above Otsu's threshold.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.

    Returns:
        (B,) in [0, 1]: 0 for a map without positive values, the region's area share for a uniform map; NaN for an empty
            mask.

    >>> iou(torch.tensor([[[0.0, 0.1, 0.9, 1.0]]]), torch.tensor([[[False, False, False, True]]]))
    tensor([0.5000], dtype=torch.float64)
    """
    values, inside = against(maps, masks)
    heat = values.relu()
    foreground = (heat >= otsu(heat)[:, None]) & (heat > 0)
    overlap = (foreground & inside).sum(1).double() / (foreground | inside).sum(1)
    return undefined(overlap, ~inside.any(1) | heat.isnan().any(1))


@metric(Facts("high", tuned=True))
def tuned_iou(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the overlap with the region where heat >= t * maximum, for each t of `THRESHOLDS`.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.

    Returns:
        (B, T) in [0, 1], one value per threshold; NaN for an empty mask. `tuned` makes one number per set of them.

    >>> tuned_iou(torch.tensor([[[0.0, 0.1, 0.9, 1.0]]]), torch.tensor([[[False, False, False, True]]]))[0, [0, 50, 95]]
    tensor([0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """
    values, inside = against(maps, masks)
    heat = values.relu()
    top, steps = heat.amax(1, keepdim=True), len(THRESHOLDS)
    level = _levels(heat, top, steps)
    counts = torch.zeros(2, len(heat), steps, dtype=heat.dtype, device=heat.device)
    counts[0].scatter_add_(1, level, torch.ones_like(heat))
    counts[1].scatter_add_(1, level, inside.double())
    sizes, hits = counts.flip(2).cumsum(2).flip(2)
    overlap = hits / (sizes + inside.sum(1, keepdim=True) - hits)
    overlap = torch.where(top > 0, overlap, 0.0)
    return undefined(overlap, ~inside.any(1) | heat.isnan().any(1))


@metric(Facts("high", tuned=True))
def maxboxacc(maps: Tensor, masks: Tensor, *, boxes: Sequence[Sequence[Box]] | None = None) -> Tensor:
    """Test whether the largest component's box overlaps a true box by an IoU of 0.5 or more, for each of `THRESHOLDS`.

    A component is a connected part of the heat map at or above the threshold. MaxBoxAcc is the share of images that
    pass at the best threshold (`tuned`).

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.
        boxes: true boxes of each image, (left, top, right, bottom) in pixels of the masks, right and bottom exclusive;
            None for the boxes of the connected components of the masks.

    Returns:
        (B, T) 1 or 0; NaN for an image without a true box and for a map with NaN.

    Reference:
        Choe, Oh, Lee, Chun, Akata, Shim. Evaluating Weakly Supervised Object Localization Methods Right. CVPR 2020.
        arXiv:2001.07437. Their code cuts maps of 8 bits, makes boxes one pixel larger, and takes the piece with the
        largest outline.

    >>> maps = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    >>> maxboxacc(maps, maps > 0)[0, [0, 50]]
    tensor([1., 1.], dtype=torch.float64)
    """
    overlaps = _box_overlaps(maps, masks, boxes, pick=_largest)
    return undefined((overlaps >= 0.5).double(), _boxless(masks, boxes) | unsound(maps).to(masks.device))


@metric(Facts("high", tuned=True))
def maxboxaccv2(maps: Tensor, masks: Tensor, *, boxes: Sequence[Sequence[Box]] | None = None) -> Tensor:
    """Test whether any component's box overlaps a true box by an IoU of 0.3, 0.5 and 0.7, for each of `THRESHOLDS`.

    A component is a connected part of the heat map at or above the threshold. MaxBoxAccV2 is the mean over the three
    IoUs of the share of images that pass, each at its own best threshold (`tuned`).

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.
        boxes: true boxes of each image, (left, top, right, bottom) in pixels of the masks, right and bottom exclusive;
            None for the boxes of the connected components of the masks.

    Returns:
        (B, 3, T) 1 or 0; NaN for an image without a true box and for a map with NaN.

    Reference:
        Choe et al. Evaluation for Weakly Supervised Object Localization: Protocol, Metrics, and Datasets. TPAMI 2022.
        arXiv:2007.04178

    >>> maps = torch.tensor([[[1.0, 0.0, 0.9, 0.9], [0.0, 0.0, 0.9, 0.9]]])
    >>> maxboxaccv2(maps, torch.tensor([[[True, False, False, False], [False] * 4]]))[0, :, 95]
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    overlaps = _box_overlaps(maps, masks, boxes, pick=lambda pieces, _: pieces)
    limits = torch.tensor([0.3, 0.5, 0.7], dtype=overlaps.dtype, device=overlaps.device)
    enough = (overlaps[:, None] >= limits[:, None]).double()
    return undefined(enough, _boxless(masks, boxes) | unsound(maps).to(masks.device))


def boxes_of(heat: Tensor, threshold: float) -> list[Box]:
    """Return the boxes around the connected components of a heat map, the largest component first.

    Args:
        heat: (h, w) heat map of one image.
        threshold: share of the maximum at or above which pixels form components; a map with no positive value has none.

    Returns:
        Boxes (left, top, right, bottom), right and bottom exclusive; pixels connect at edges and corners.

    >>> boxes_of(torch.tensor([[1.0, 0.0, 0.6, 0.9], [0.0, 0.0, 0.7, 0.9]]), 0.5)
    [(2, 0, 4, 2), (0, 0, 1, 1)]
    """
    values = heat.detach().double().cpu().numpy()
    if not values.max() > 0:
        return []
    pieces, sizes = _pieces(values >= threshold * values.max())
    return [_as_box(pieces[i]) for i in np.argsort(-sizes, kind="stable")]


def mask_boxes(masks: Tensor) -> list[list[Box]]:
    """Return the boxes around the connected components of each mask (B, H, W)."""
    return [[_as_box(box) for box in _pieces(mask.cpu().numpy().astype(bool))[0]] for mask in masks]


Edges = npt.NDArray[np.number]
"""Return (n, 4) left, top, right, bottom."""


def _box_overlaps(
    maps: Tensor,
    masks: Tensor,
    boxes: Sequence[Sequence[Box]] | None,
    *,
    pick: Callable[[Edges, npt.NDArray[np.int64]], Edges],
) -> Tensor:
    """Return the best IoU (B, T) of the picked boxes with any true box."""
    height, width = (min(side, _SIDE) for side in masks.shape[1:])
    truths = mask_boxes(masks) if boxes is None else boxes
    if not len(truths) == len(maps) == len(masks):
        raise SettingError(f"boxes of {len(truths)} images do not fit {len(maps)} maps; give one list for each")
    heat = at_size(at_size(maps, masks.shape[1:]), (height, width)).relu().cpu().numpy()
    scale = np.array([width, height] * 2) / np.array([masks.shape[2], masks.shape[1]] * 2)
    overlaps = np.zeros((len(heat), len(THRESHOLDS)))
    for row, (values, truth) in enumerate(zip(heat, truths, strict=True)):
        top = values.max()
        if not truth or not top > 0:
            continue
        true = np.array(truth) * scale
        for column, threshold in enumerate(THRESHOLDS.tolist()):
            pieces, sizes = _pieces(values >= threshold * top)
            overlaps[row, column] = _box_iou(pick(pieces, sizes), true).max(initial=0)
    return torch.from_numpy(overlaps).to(maps.device)


def _largest(pieces: Edges, sizes: npt.NDArray[np.int64]) -> Edges:
    return pieces[[int(sizes.argmax())]]


def _pieces(foreground: npt.NDArray[np.bool_]) -> tuple[Edges, npt.NDArray[np.int64]]:
    """Return the boxes (n, 4) and sizes (n,) of the connected components."""
    labels, count = ndimage.label(foreground, structure=_EIGHT)
    edges = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    return np.array(edges, np.int64).reshape(count, 4), np.bincount(labels.ravel(), minlength=count + 1)[1:]


def _box_iou(row_boxes: Edges, column_boxes: Edges) -> npt.NDArray[np.float64]:
    """Return the intersection over union (n, m) of n boxes with m others."""
    low = np.maximum(row_boxes[:, None, :2], column_boxes[None, :, :2])
    high = np.minimum(row_boxes[:, None, 2:], column_boxes[None, :, 2:])
    intersection = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (row_boxes, column_boxes)]
    overlap: npt.NDArray[np.float64] = intersection / (areas[0][:, None] + areas[1][None] - intersection)
    return overlap


def _boxless(masks: Tensor, boxes: Sequence[Sequence[Box]] | None) -> Tensor:
    """Return (B,), true for images without a true box."""
    missing = ~masks.flatten(1).any(1) if boxes is None else torch.tensor([not row for row in boxes], dtype=torch.bool)
    return missing.to(masks.device)


def _as_box(edges: npt.NDArray[np.int64]) -> Box:
    left, top, right, bottom = (int(edge) for edge in edges)
    return left, top, right, bottom


def _levels(heat: Tensor, top: Tensor, bins: int) -> Tensor:
    """Return which of ``bins`` equal parts of [0, top] each value lies in; the maximum lies in the last."""
    return (heat / torch.where(top > 0, top, 1.0) * bins).nan_to_num().long().clamp(0, bins - 1)
