"""Localisation metrics: maps (B, h, w) against annotation masks (B, H, W) of what the network saw."""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor

from camscope.errors import SettingError
from camscope.metrics.fitting import against, undefined
from camscope.metrics.registry import Facts, metric


@metric(Facts("high"))
def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: float = 15) -> Tensor:
    """Test whether the map's peak is in the region or less than 15 pixels (``tolerance``) from it: TorchRay's rule.

    Where several pixels tie for the peak, the result is the share of them that hits, so that a flat map gets its
    `chance`. TorchRay takes the first of them.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.
        tolerance: in pixels of the masks; 0 for none.

    Returns:
        (B,) 1 or 0, between them for ties; NaN for an empty mask and for a map with NaN.

    Reference:
        Zhang, Bargal, Lin, Brandt, Shen, Sclaroff. Top-Down Neural Attention by Excitation Backprop. IJCV 2018.
        arXiv:1608.00507; the tolerance as in Fong, Patrick, Vedaldi. ICCV 2019. arXiv:1910.08485 (TorchRay)

    >>> maps = torch.tensor([[[0.0, 0.0, 5.0], [0.0, 0.0, 0.0]]])
    >>> mask = torch.tensor([[[True, False, False], [False, False, False]]])
    >>> pointing_game(maps, mask, tolerance=2), pointing_game(maps, mask, tolerance=3)
    (tensor([0.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    heat, inside = against(maps, masks)
    accepted = near(masks, tolerance).to(heat.device).flatten(1)
    peak = heat == heat.amax(1, keepdim=True)
    return undefined((accepted & peak).sum(1).double() / peak.sum(1), ~inside.any(1) | heat.isnan().any(1))


@metric(Facts("high"))
def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Test whether the map's peak is inside the region, without tolerance: CheXlocalize's hit rate.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.

    Returns:
        (B,) 1 or 0, between them for ties; NaN for an empty mask and for a map with NaN.

    Reference:
        Saporta et al. Benchmarking saliency methods for chest X-ray interpretation. Nature Machine Intelligence 2022.
        doi:10.1038/s42256-022-00536-x

    >>> pointing(torch.tensor([[[0.0, 5.0]]]), torch.tensor([[[False, True]]]))
    tensor([1.], dtype=torch.float64)
    """
    return pointing_game(maps, masks, tolerance=0)


def chance(masks: Tensor, *, tolerance: float = 0) -> Tensor:
    """Return the chance level of the pointing game: the share of pixels that count as a hit.

    Args:
        masks: (B, H, W), true inside the region.
        tolerance: in pixels of the masks; pixels less than this far from the region count as a hit. 0 for none.

    Returns:
        (B,) in [0, 1].

    >>> chance(torch.tensor([[[True, False, False, False]]])).item()
    0.25
    """
    return near(masks, tolerance).double().flatten(1).mean(1)


def near(masks: Tensor, tolerance: float) -> Tensor:
    """Return (B, H, W), true inside the region and less than ``tolerance`` pixels from it; false for an empty mask.

    Raises:
        SettingError: a negative tolerance.
    """
    if tolerance < 0:
        raise SettingError(f"a tolerance of {tolerance} px is not possible; give 0 for none, or TorchRay's 15")
    masks = masks.bool()
    if tolerance == 0:
        return masks
    areas = masks.clone()
    for area, mask in zip(areas, masks, strict=True):
        if mask.any():
            area |= torch.from_numpy(ndimage.distance_transform_edt(~mask.cpu().numpy()) < tolerance).to(mask.device)
    return areas


@metric(Facts("high"))
def mass_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the relevance mass accuracy: the share of the heat map that lies in the region, sum_G R(L) / sum R(L).

    Only positive evidence counts. Quantus sums signed values, whose share may lie outside [0, 1].

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.

    Returns:
        (B,) in [0, 1]; NaN for an empty mask and for a map without positive values.

    Reference:
        Arras, Osman, Samek. CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural network
        explanations. Information Fusion 2022. arXiv:2003.07258

    >>> mass_accuracy(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, False]]]))
    tensor([0.7500], dtype=torch.float64)
    """
    values, inside = against(maps, masks)
    heat = values.relu()
    heat = heat / heat.amax(1, keepdim=True)
    return undefined((heat * inside).sum(1) / heat.sum(1), ~inside.any(1))


@metric(Facts("high", high=torch.inf))
def enrichment(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the ratio of the heat in the region to that of a uniform map: mass accuracy / area share.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.

    Returns:
        (B,) from 0 to 1 / area; 1 for a uniform map; NaN for an empty mask and for a map without positive values.

    >>> enrichment(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, False]]]))
    tensor([2.2500], dtype=torch.float64)
    """
    return mass_accuracy(maps, masks) / chance(masks).to(maps.device)


@metric(Facts("high"))
def rank_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the relevance rank accuracy: the share of the map's n largest values that lies in the region of n pixels.

    Values that tie for the last places count by the share of them that lies in the region, so that a uniform map gets
    the region's share of the image.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.

    Returns:
        (B,) in [0, 1]; NaN for an empty mask and for a map with NaN.

    Reference:
        Arras, Osman, Samek. CLEVR-XAI. Information Fusion 2022. arXiv:2003.07258

    >>> rank_accuracy(torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor([[[True, False, True]]]))
    tensor([0.5000], dtype=torch.float64)
    """
    heat, inside = against(maps, masks)
    size = inside.sum(1, keepdim=True)
    least = heat.sort(1, descending=True).values.gather(1, (size - 1).clamp_min(0))
    above, tied = heat > least, heat == least
    places = size - above.sum(1, keepdim=True)
    shared = places * (tied & inside).sum(1, keepdim=True).double() / tied.sum(1, keepdim=True)
    value = ((above & inside).sum(1, keepdim=True) + shared)[:, 0] / size[:, 0]
    return undefined(value, ~inside.any(1) | heat.isnan().any(1))


@metric(Facts("high"))
def auprc(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the area under the precision-recall curve of the map as a detector of the region's pixels.

    This is the average precision sum_k (R_k - R_(k-1)) P_k over the distinct values of the map, from the largest. A
    uniform map gets the region's share of the image.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        masks: (B, H, W), true inside the region.

    Returns:
        (B,) in [0, 1]; NaN for an empty mask and for a map with NaN.

    Reference:
        Choe et al. Evaluating Weakly Supervised Object Localization Methods Right. CVPR 2020. arXiv:2001.07437, which
        pools the pixels of a whole set (PxAP); here each image has its own.

    >>> auprc(torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor([[[True, False, True]]]))
    tensor([0.8333], dtype=torch.float64)
    """
    heat, inside = against(maps, masks)
    order = heat.argsort(1, descending=True)
    value, hit = heat.gather(1, order), inside.gather(1, order)
    hits = hit.double().cumsum(1)
    last = torch.cat([value[:, 1:] != value[:, :-1], torch.ones_like(hit[:, :1])], 1)
    before = torch.where(last, hits, 0.0).cummax(1).values
    gained = hits - torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], 1)
    precision = hits / torch.arange(1, hits.shape[1] + 1, device=heat.device)
    area = (last * gained * precision).sum(1) / hits[:, -1]
    return undefined(area, ~inside.any(1) | heat.isnan().any(1))
