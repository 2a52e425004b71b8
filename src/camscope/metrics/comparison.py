"""Comparison metrics: how similar two maps are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from camscope.errors import SettingError
from camscope.heatmap import normalise
from camscope.metrics.fitting import undefined
from camscope.metrics.registry import Facts, metric

_WINDOW = 7


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of two maps over their cells; ties get their mean rank.

    Args:
        maps: (B, h, w) signed maps on the layer's own grid: upsampling would only add dependent values.
        others: (B, h, w) signed maps to compare them with.

    Returns:
        (B,) in [-1, 1]; NaN where a map is flat or has NaN.

    Raises:
        SettingError: the maps have different shapes.

    >>> round(spearman(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[10.0, 20.0, 90.0]]])).item(), 9)
    1.0
    """
    _same_shape(maps, others)
    rows, other_rows = (m.detach().double().flatten(1) for m in (maps, others))
    return undefined(pearson(_mean_ranks(rows), _mean_ranks(other_rows)), (rows + other_rows).isnan().any(1))


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Compute Pearson's correlation (B,) of the rows of two (B, n) tensors; NaN where a row is constant.

    >>> pearson(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2.0, 4.0, 8.0]])).item()
    1.0
    """
    one, other = (row - row.mean(1, keepdim=True) for row in (one, other))
    lengths = one.norm(dim=1), other.norm(dim=1)
    correlation: Tensor = (one * other).sum(1) / lengths[0] / lengths[1]
    return correlation.clamp(-1, 1)


@metric(Facts("none", low=-1.0))
def ssim(maps: Tensor, others: Tensor) -> Tensor:
    """Compute the structural similarity of two maps, each scaled to [0, 1], in windows of 7 x 7 cells.

    The result is the mean of (2 m n + c)(2 cov + d) / ((m^2 + n^2 + c)(var + var' + d)) over all windows inside the
    map, with c = 0.01^2 and d = 0.03^2. A side of fewer than 7 cells is the side of the window.

    Args:
        maps: (B, h, w) signed maps.
        others: (B, h, w) signed maps to compare them with.

    Returns:
        (B,) in [-1, 1].

    Reference:
        Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment. IEEE TIP 2004. doi:10.1109/TIP.2003.819861

    >>> ssim(torch.rand(1, 9, 9), torch.rand(1, 9, 9)).abs() < 0.9
    tensor([True])
    """
    _same_shape(maps, others)
    x, y = (normalise(m.detach().double())[:, None] for m in (maps, others))
    window = [min(_WINDOW, side) for side in maps.shape[1:]]
    places = window[0] * window[1]

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    m, n = mean(x), mean(y)
    sample = places / max(places - 1, 1)
    var, var2, cov = (sample * (mean(a * b) - mean(a) * mean(b)) for a, b in ((x, x), (y, y), (x, y)))
    c, d = 0.01**2, 0.03**2
    return ((2 * m * n + c) * (2 * cov + d) / ((m**2 + n**2 + c) * (var + var2 + d))).flatten(1).mean(1)


@metric(Facts("low", low=-1.0))
def logit_randomisation(maps: Tensor, others: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of the map with the map of another class.

    Args:
        maps: (B, h, w) signed maps of the explained class.
        others: (B, h, w) signed maps of the same images for another class, such as one drawn at random.

    Returns:
        (B,) in [-1, 1]; near 1, the map does not depend on the class.

    Reference:
        Sixt, Granz, Landgraf. When Explanations Lie: Why Many Modified BP Attributions Fail. ICML 2020.
        arXiv:1912.09818

    >>> round(logit_randomisation(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[3.0, 2.0, 1.0]]])).item(), 9)
    -1.0
    """
    return spearman(maps, others)


@metric(Facts("low", low=-1.0))
def image_swap(maps: Tensor, others: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of the map with the map of another image for the same class.

    Args:
        maps: (B, h, w) signed maps.
        others: (B, h, w) signed maps of other images for the same class, such as those of the batch shifted by one.

    Returns:
        (B,) in [-1, 1]; near 1, the map does not depend on the image, as a centre prior does not.

    >>> maps = torch.rand(3, 7, 7)
    >>> image_swap(maps, maps.roll(1, 0)).abs() < 0.9
    tensor([True, True, True])
    """
    return spearman(maps, others)


def _mean_ranks(values: Tensor) -> Tensor:
    """Return ranks (B, n) from 0; ties get their mean rank."""
    order = values.argsort(1)
    ordered = values.gather(1, order)
    place = torch.arange(values.shape[1], device=values.device).expand_as(values)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(new, place, 0).cummax(1).values
    ends = torch.cat([new[:, 1:], new[:, :1]], 1)
    last = torch.where(ends, place, values.shape[1]).flip(1).cummin(1).values.flip(1)
    return torch.empty_like(values).scatter_(1, order, (first + last).double() / 2)


def _same_shape(maps: Tensor, others: Tensor) -> None:
    if maps.shape != others.shape:
        raise SettingError(f"maps {tuple(maps.shape)} and {tuple(others.shape)} do not compare; give both on one grid")
