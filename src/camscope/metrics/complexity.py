"""Complexity metrics: how much of the image a map covers, computed from the map alone."""

from __future__ import annotations

import torch
from torch import Tensor

from camscope.metrics.fitting import undefined, unit
from camscope.metrics.registry import Facts, metric


@metric(Facts("none"))
def gini(maps: Tensor) -> Tensor:
    """Compute the sparseness of a map, Gini's index of |L|: sum_k (2 k - n - 1) |L|_(k) / (n sum |L|).

    |L|_(k) are the n values of |L| in ascending order.

    Args:
        maps: (B, h, w) maps; pass rectified maps for the sparseness of the heat map alone.

    Returns:
        (B,) from 0 for a uniform map to 1 - 1/n for a single cell; NaN for a map of zeros.

    Reference:
        Chalasani, Chen, Chowdhury, Jha, Wu. Concise Explanations of Neural Networks using Adversarial Training. ICML
        2020. arXiv:1810.06583

    >>> gini(torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]))
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    size = maps.detach().double().abs().flatten(1).sort(1).values
    n = size.shape[1]
    weights = 2 * torch.arange(1, n + 1, device=size.device) - n - 1
    total = size.sum(1)
    return undefined((weights * size).sum(1) / (n * total), total == 0)


@metric(Facts("none", high=torch.inf))
def entropy(maps: Tensor) -> Tensor:
    """Compute the complexity of a map as the entropy of the shares q = |L| / sum |L|: -sum q ln q.

    Args:
        maps: (B, h, w) maps; pass rectified maps for the entropy of the heat map alone. Compare only maps of one size.

    Returns:
        (B,) in nats, from 0 for a single cell to ln n for a uniform map of n cells; NaN for a map of zeros.

    Reference:
        Bhatt, Weller, Moura. Evaluating and Aggregating Feature-based Model Explanations. IJCAI 2020. arXiv:2005.00631

    >>> entropy(torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]))
    tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    size = maps.detach().double().abs().flatten(1)
    total = size.sum(1, keepdim=True)
    share = size / total
    return undefined(torch.special.entr(share).sum(1), total[:, 0] == 0)


@metric(Facts("none"))
def complexity(maps: Tensor) -> Tensor:
    """Compute ADCC's complexity: the mean of the heat map scaled to [0, 1].

    Args:
        maps: (B, h, w) signed maps.

    Returns:
        (B,) from 0 for a map without positive values to 1 for a uniform positive map; NaN for a map with NaN.

    Reference:
        Poppi, Cornia, Baraldi, Cucchiara. Revisiting The Evaluation of Class Activation Mapping for Explainability: A
        Novel Metric and Experimental Analysis. CVPR workshops 2021. arXiv:2104.10252

    >>> complexity(torch.tensor([[[-1.0, 2.0, 4.0]]]))
    tensor([0.5000], dtype=torch.float64)
    """
    scaled = unit(maps).flatten(1).mean(1)
    return undefined(scaled, maps.detach().flatten(1).isnan().any(1))
