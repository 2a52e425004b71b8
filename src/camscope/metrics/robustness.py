"""Robustness metrics: how stable the map is under small noise, and on the part of the image that it keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from camscope.metrics.comparison import pearson
from camscope.metrics.complexity import complexity
from camscope.metrics.faithfulness import kept
from camscope.metrics.fitting import at_size, undefined, unit
from camscope.metrics.registry import Explain, Facts, Score, metric


@metric(Facts("low", high=torch.inf))
def max_sensitivity(
    explain: Explain,
    inputs: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    maps: Tensor | None = None,
) -> Tensor:
    """Compute the map's largest change under small noise: max over e in [-r, r] of |L(x + e) - L(x)| / |L(x)|.

    The paper's formula is not divided by |L(x)|. Its authors' code, captum and Quantus divide by it, since a map is
    defined up to a factor.

    Args:
        explain: inputs (B, C, H, W) -> maps (B, h, w), of the class that the unedited image was explained for.
        inputs: (B, C, H, W) images as the network takes them.
        radius: r, in the unit of the inputs.
        samples: number of draws of uniform noise, the same for every image; the maximum is over these.
        seed: random seed of the noise.
        maps: (B, h, w) maps of the inputs; None to compute them.

    Returns:
        (B,) from 0, where the map does not change; NaN for a map of zeros.

    Reference:
        Yeh, Hsieh, Suggala, Inouye, Ravikumar. On the (In)fidelity and Sensitivity of Explanations. NeurIPS 2019.
        arXiv:1901.09392

    >>> max_sensitivity(lambda x: x.sum(1), torch.ones(1, 3, 8, 8), radius=0.0).item()
    0.0
    """
    clean_map = _flat(explain(inputs) if maps is None else maps)
    generator = torch.Generator().manual_seed(seed)
    length, largest = clean_map.norm(dim=1), torch.zeros(len(clean_map), dtype=clean_map.dtype, device=clean_map.device)
    for _ in range(samples):
        noise = radius * (2 * torch.rand(inputs.shape[1:], generator=generator) - 1)
        noisy_map = _flat(explain(inputs + noise.to(inputs)))
        largest = torch.maximum(largest, (noisy_map - clean_map).norm(dim=1))
    return undefined(largest / length, length == 0)


@metric(Facts("high"))
def coherency(explain: Explain, inputs: Tensor, *, maps: Tensor | None = None) -> Tensor:
    """Compute how stable the map is on the part of the image that it keeps: (1 + Pearson(L(x * s(L)), L(x))) / 2.

    Both maps are rectified, and scaled to [0, 1] at the input's size where they multiply it.

    Args:
        explain: inputs (B, C, H, W) -> maps (B, h, w), of the class that the unedited image was explained for.
        inputs: (B, C, H, W) images as the network takes them.
        maps: (B, h, w) maps of the inputs; None to compute them.

    Returns:
        (B,) in [0, 1]; NaN where one of the maps is flat.

    Reference:
        Poppi, Cornia, Baraldi, Cucchiara. CVPR workshops 2021. arXiv:2104.10252

    >>> coherency(lambda x: x.sum(1), torch.rand(2, 1, 8, 8)).gt(0.9)
    tensor([True, True])
    """
    clean_map = explain(inputs) if maps is None else maps
    heat = unit(at_size(clean_map.to(inputs.device), inputs.shape[2:])).to(inputs.dtype)[:, None]
    masked_map = explain(inputs * heat)
    clean_rows, masked_rows = (_flat(m).relu() for m in (clean_map, masked_map))
    return (1 + pearson(clean_rows, masked_rows)) / 2


@metric(Facts("high", score="probability"))
def adcc(
    explain: Explain,
    inputs: Tensor,
    score: Score,
    *,
    maps: Tensor | None = None,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute ADCC, the harmonic mean of coherency, 1 - complexity and 1 - average drop.

    Args:
        explain: inputs (B, C, H, W) -> maps (B, h, w), of the class that the unedited image was explained for.
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) probabilities; row i is an edit of image rows[i].
        maps: (B, h, w) maps of the inputs; None to compute them.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) in [0, 1]; 0 where complexity or drop is 1, as for a uniform map; else NaN where coherency is NaN.

    Reference:
        Poppi, Cornia, Baraldi, Cucchiara. CVPR workshops 2021. arXiv:2104.10252

    >>> adcc(lambda x: x.sum(1), torch.rand(2, 1, 8, 8), lambda x, rows: x.mean((1, 2, 3)).sigmoid()).gt(0.5)
    tensor([True, True])
    """
    clean_map = explain(inputs) if maps is None else maps
    drop = kept(clean_map, inputs, score, clean=clean, batch_size=batch_size).drop
    parts = coherency(explain, inputs, maps=clean_map), complexity(clean_map), drop
    coherent, dense, dropped = (part.to(clean_map.device) for part in parts)
    return adcc_of(coherency=coherent, complexity=dense, drop=dropped)


def adcc_of(*, coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """Compute ADCC = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop)) from its parts, each (B,) in [0, 1].

    The authors' published code lacks the outer reciprocal; this is the paper's formula. Where complexity or drop is 1,
    the result is 0 for any coherency. This includes a uniform map, whose coherency is undefined.

    >>> adcc_of(coherency=torch.tensor(0.9), complexity=torch.tensor(0.2), drop=torch.tensor(0.1))
    tensor(0.8640)
    """
    mean = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
    return mean.masked_fill((complexity == 1) | (drop == 1), 0.0)


def _flat(maps: Tensor) -> Tensor:
    return maps.detach().double().flatten(1)
