"""Additivity metrics: compare sums of a map, over the whole image or parts of it, with the change of the score."""

from __future__ import annotations

import torch
from torch import Tensor

from camscope.metrics.edits import Substrate, clean_scores, scores, substitute
from camscope.metrics.fitting import at_size, undefined
from camscope.metrics.registry import Facts, Score, metric


@metric(Facts("low", high=torch.inf, score="logit"))
def infidelity(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    substrate: Substrate = "zero",
    samples: int = 64,
    seed: int = 0,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute how badly sums of the map predict the score lost to random rectangles: E (b sum_M L - (y - y_M))^2.

    y is the score of the image, and y_M the score with rectangle M replaced. A map is defined up to a factor, so
    b = E (sum_M L)(y - y_M) / E (sum_M L)^2 is fitted per image, as in the authors' own code and captum's
    ``normalize=True``. The map is read as each pixel's contribution (the paper's global attribution), and not as a
    gradient.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best logits; row i is an edit of image rows[i].
        substrate: fills the rectangles: "zero", "mean" (the image's mean colour), "blur", or a tensor that broadcasts.
        samples: number of rectangles, the same for all images; their sides are 1/8 to 1/2 of the image's sides.
        seed: random seed of the rectangles.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) in the squared unit of the score, from 0, the best; E (y - y_M)^2 for a map of zeros.

    Reference:
        Yeh, Hsieh, Suggala, Inouye, Ravikumar. On the (In)fidelity and Sensitivity of Explanations. NeurIPS 2019.
        arXiv:1901.09392

    >>> x = torch.rand(1, 1, 16, 16)
    >>> infidelity(x[0], x, lambda inputs, rows: inputs.sum((1, 2, 3))).item() < 1e-9
    True
    """
    values, baseline = at_size(maps.to(inputs.device), inputs.shape[2:]), substitute(inputs, substrate)
    boxes = _rectangles(inputs.shape[2:], samples, seed).to(inputs.device)
    clean_score = clean_scores(inputs, score, clean, batch_size=batch_size)[:, None]
    edited = scores(
        lambda rows, numbers: torch.where(boxes[numbers, None], baseline[rows], inputs[rows]),
        rows=len(inputs),
        edits=samples,
        score=score,
        batch_size=batch_size,
    )
    losses, predictions = clean_score - edited, values.flatten(1) @ boxes.flatten(1).double().T
    squares = predictions.square().mean(1, keepdim=True)
    factor = torch.where(squares > 0, (predictions * losses).mean(1, keepdim=True) / squares, 0.0)
    return (factor * predictions - losses).square().mean(1)


def _rectangles(size: torch.Size, count: int, seed: int) -> Tensor:
    """Return masks (count, *size), true inside boxes of random sides and positions."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.ones(count, *size, dtype=torch.bool)
    for axis, side in enumerate(size):
        extent = (side * (0.125 + 0.375 * torch.rand(count, generator=generator))).round().clamp_min(1)
        start = (torch.rand(count, generator=generator) * (side - extent + 1)).floor()
        place = torch.arange(side)
        line = (place >= start[:, None]) & (place < (start + extent)[:, None])
        inside &= line.view(count, *[side if a == axis else 1 for a in range(len(size))])
    return inside


@metric(Facts("low", high=torch.inf, score="logit"))
def completeness(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    substrate: Substrate = "zero",
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute how far the map is from adding up to the score: |sum L - (y - y0)| / |y - y0|, y0 the substrate's score.

    y is the score of the image. The sum is over the map as it is: pass it on its own grid.

    Args:
        maps: (B, h, w) signed maps, not scaled.
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) logits that were explained; row i is an edit of image rows[i].
        substrate: image without content: "zero", "mean" (the image's mean colour), "blur", or a tensor that broadcasts.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) from 0, for a complete map; 1 for a map of zeros; NaN where the score does not change.

    Reference:
        Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017. arXiv:1703.01365

    >>> x = torch.rand(1, 1, 4, 4)
    >>> completeness(x[0], x, lambda inputs, rows: inputs.sum((1, 2, 3))).item() < 1e-6
    True
    """
    baseline = substitute(inputs, substrate)
    clean_score = clean_scores(inputs, score, clean, batch_size=batch_size)
    change = clean_score - clean_scores(baseline, score, None, batch_size=batch_size)
    total = maps.detach().double().flatten(1).sum(1).to(change.device)
    return undefined((total - change).abs() / change.abs(), change == 0)
