"""Does the map add up? Its sums, over the picture or a part of it, against what the score loses there."""

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
    """How badly sums of the map foretell what the score loses with random rectangles: E (b sum_M L - (y - y_M))^2.

    y_M is the score with rectangle M replaced. A map is defined up to a factor, so b = E (sum_M L)(y - y_M) /
    E (sum_M L)^2 is taken for each picture, as the authors' own code and captum's ``normalize=True`` do. The map is
    taken as each pixel's contribution (the paper's global attribution), not as a gradient.

    Args:
        maps: (B, h, w), signed; laid over the input first.
        inputs: (B, C, H, W).
        score: best the logit.
        substrate: what is put into the rectangles; see `SUBSTRATES`.
        samples: rectangles, with sides from 1/8 to 1/2 of the picture's, the same for every picture.
        seed: of the rectangles.
        clean: (B,) the score of the inputs, where it is known.
        batch_size: inputs in one call of ``score``.

    Returns:
        (B,) in the squared unit of the score; of a map that is 0 E (y - y_M)^2.

    Reference:
        Yeh, Hsieh, Suggala, Inouye, Ravikumar. On the (In)fidelity and Sensitivity of Explanations. NeurIPS 2019.
        arXiv:1901.09392

    >>> x = torch.rand(1, 1, 16, 16)
    >>> infidelity(x[0], x, lambda inputs, rows: inputs.sum((1, 2, 3))).item() < 1e-9
    True
    """
    values, rest = at_size(maps.to(inputs.device), inputs.shape[2:]), substitute(inputs, substrate)
    boxes = _rectangles(inputs.shape[2:], samples, seed).to(inputs.device)
    known = clean_scores(inputs, score, clean, batch_size=batch_size)[:, None]
    edited = scores(
        lambda rows, numbers: torch.where(boxes[numbers, None], rest[rows], inputs[rows]),
        rows=len(inputs),
        edits=samples,
        score=score,
        batch_size=batch_size,
    )
    lost, foretold = known - edited, values.flatten(1) @ boxes.flatten(1).double().T
    squares = foretold.square().mean(1, keepdim=True)
    factor = torch.where(squares > 0, (foretold * lost).mean(1, keepdim=True) / squares, 0.0)
    return (factor * foretold - lost).square().mean(1)


def _rectangles(size: torch.Size, count: int, seed: int) -> Tensor:
    """(count, *size) true inside boxes of random sides and places."""
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
    """How far the map is from adding up to the score: |sum L - (y - y0)| / |y - y0|, y0 the score of the substrate.

    The sum is over the map as it is given: give it on its own grid.

    Args:
        maps: (B, h, w), signed, not scaled.
        inputs: (B, C, H, W).
        score: the logit that was explained.
        substrate: the picture that shows nothing; see `SUBSTRATES`.
        clean: (B,) the score of the inputs, where it is known.
        batch_size: inputs in one call of ``score``.

    Returns:
        (B,) from 0, where the map is complete; 1 for a map of zeros; NaN where the score does not change.

    Reference:
        Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017. arXiv:1703.01365

    >>> x = torch.rand(1, 1, 4, 4)
    >>> completeness(x[0], x, lambda inputs, rows: inputs.sum((1, 2, 3))).item() < 1e-6
    True
    """
    rest = substitute(inputs, substrate)
    known = clean_scores(inputs, score, clean, batch_size=batch_size)
    change = known - clean_scores(rest, score, None, batch_size=batch_size)
    total = maps.detach().double().flatten(1).sum(1).to(change.device)
    return undefined((total - change).abs() / change.abs(), change == 0)
