"""ROAD (remove and debias): removed pixels are imputed from their neighbours, so that a hole carries no information."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camscope.errors import SettingError
from camscope.metrics.edits import clean_scores, ranks, scores
from camscope.metrics.fitting import undefined, unsound
from camscope.metrics.imputation import impute
from camscope.metrics.registry import Facts, Score, metric

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_NOISE = 0.01


@metric(Facts("low", low=-1.0, score="probability"))
def road_morf(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = _NOISE,
    seed: int = 0,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute the mean change of the score over the shares, the most relevant pixels removed first; low is good.

    Removed pixels are imputed (`impute`), with a little noise, so that the classifier cannot read the mask. The paper
    counts how often the predicted class stays. The change of its score, as in pytorch-grad-cam, is more precise on few
    images.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        shares: shares of the pixels to remove, each between 0 and 1; by default 0.1, 0.2 ... 0.9.
        noise: standard deviation of the noise added to imputed pixels, in the unit of the inputs.
        seed: random seed of the noise, which is the same for every image.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs that are imputed and scored per call.

    Returns:
        (B,) the mean of (score after - score before), in [-1, 1] for probabilities; NaN for a map with NaN.

    Raises:
        SettingError: a share that removes no pixel or every pixel.

    Reference:
        Rong, Leemann, Borisov, Kasneci, Kasneci. A Consistent and Efficient Evaluation Strategy for Attribution
        Methods. ICML 2022. arXiv:2202.00449

    >>> x = torch.zeros(1, 1, 8, 8)
    >>> x[..., 3, 3] = 1
    >>> total = lambda inputs, rows: inputs.sum((1, 2, 3))
    >>> road_morf(x[0], x, total, noise=0).item(), road_morf(-x[0], x, total, noise=0, shares=[0.1]).item() >= 0
    (-1.0, True)
    """
    clean_score = clean_scores(inputs, score, clean, batch_size=batch_size)
    changes = _changes(
        maps, inputs, score, known=clean_score, shares=shares, noise=noise, seed=seed, batch_size=batch_size
    )
    return changes.mean(1)


@metric(Facts("high", low=-1.0, score="probability"))
def road_lerf(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = _NOISE,
    seed: int = 0,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute the mean change of the score over the shares, the least relevant pixels removed first; high is good.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        shares: shares of the pixels to remove, each between 0 and 1; by default 0.1, 0.2 ... 0.9.
        noise: standard deviation of the noise added to imputed pixels, in the unit of the inputs.
        seed: random seed of the noise, which is the same for every image.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs that are imputed and scored per call.

    Returns:
        (B,) the mean of (score after - score before), in [-1, 1] for probabilities; NaN for a map with NaN.

    Reference:
        Rong et al. ICML 2022. arXiv:2202.00449
    """
    options = {"shares": shares, "noise": noise, "seed": seed, "clean": clean, "batch_size": batch_size}
    return road_morf(-maps, inputs, score, **options)  # type: ignore[arg-type]


@metric(Facts("high", low=-1.0, score="probability"))
def road(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = _NOISE,
    seed: int = 0,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute ROAD combined: (`road_lerf` - `road_morf`) / 2; a map without information is expected to get 0.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        shares: shares of the pixels to remove, each between 0 and 1; by default 0.1, 0.2 ... 0.9.
        noise: standard deviation of the noise added to imputed pixels, in the unit of the inputs.
        seed: random seed of the noise, which is the same for every image.
        clean: (B,) scores of the unedited inputs; None to compute them. They cancel in the result.
        batch_size: inputs that are imputed and scored per call.

    Returns:
        (B,) in [-0.5, 0.5] for probabilities; NaN for a map with NaN.

    Reference:
        Rong et al. ICML 2022. arXiv:2202.00449; both orders in one number as in pytorch-grad-cam.
    """
    curves = road_curves(maps, inputs, score, shares=shares, noise=noise, seed=seed, clean=clean, batch_size=batch_size)
    return curves.combined


class RoadCurves(NamedTuple):
    """Change of the score for each share of removed pixels, in both orders of removal.

    Attributes:
        shares: (S,) shares of the pixels that are removed.
        morf: (B, S) change of the score with the most relevant pixels removed first.
        lerf: (B, S) change of the score with the least relevant pixels removed first.
    """

    shares: Tensor
    morf: Tensor
    lerf: Tensor

    @property
    def combined(self) -> Tensor:
        """Return (LeRF - MoRF) / 2, (B,), each the mean over the shares."""
        return (self.lerf.mean(1) - self.morf.mean(1)) / 2


def road_curves(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = _NOISE,
    seed: int = 0,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> RoadCurves:
    """Compute both curves of ROAD.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        shares: shares of the pixels to remove, each between 0 and 1; by default 0.1, 0.2 ... 0.9.
        noise: standard deviation of the noise added to imputed pixels, in the unit of the inputs.
        seed: random seed of the noise, which is the same for every image.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs that are imputed and scored per call.

    Returns:
        The changes of the score (B, S) with the most and with the least relevant pixels removed first.
    """
    clean_score = clean_scores(inputs, score, clean, batch_size=batch_size)
    morf, lerf = (
        _changes(values, inputs, score, known=clean_score, shares=shares, noise=noise, seed=seed, batch_size=batch_size)
        for values in (maps, -maps)
    )
    return RoadCurves(torch.tensor(shares, dtype=clean_score.dtype), morf, lerf)


def _changes(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    known: Tensor,
    shares: Sequence[float],
    noise: float,
    seed: int,
    batch_size: int,
) -> Tensor:
    """Return (B, S), the score after removal of each share, the highest map values first, minus the clean score."""
    size, pixels = inputs.shape[2:], math.prod(inputs.shape[2:])
    counts = torch.tensor([round(share * pixels) for share in shares], device=inputs.device)
    if not len(counts) or not ((counts > 0) & (counts < pixels)).all():
        raise SettingError(f"shares {shares} of {pixels} pixels remove none or all of them; give some between 0 and 1")
    rank = ranks(maps.to(inputs.device), size)
    grain = noise * torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(seed)).to(inputs)

    def edit(rows: Tensor, numbers: Tensor) -> Tensor:
        rows, numbers = rows.to(inputs.device), numbers.to(inputs.device)
        removed = (rank[rows] < counts[numbers, None]).view(-1, *size)
        return impute(inputs[rows], removed) + grain * removed[:, None]

    edited_scores = scores(edit, rows=len(inputs), edits=len(counts), score=score, batch_size=batch_size)
    return undefined(edited_scores - known[:, None], unsound(maps))
