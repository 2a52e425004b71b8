"""Faithfulness metrics: edit images by their maps, and measure the change of the score."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from camscope.errors import SettingError
from camscope.metrics.edits import Substrate, clean_scores, ranks, scores, substitute
from camscope.metrics.fitting import at_size, undefined, unit, unsound
from camscope.metrics.registry import Facts, Score, metric


class Curve(NamedTuple):
    """Scores of images while a growing share of their pixels is edited.

    Attributes:
        shares: (S,) share of the pixels that is edited, from 0 to 1.
        scores: (B, S) scores at these shares.
    """

    shares: Tensor
    scores: Tensor

    @property
    def area(self) -> Tensor:
        """Return the area (B,) under the curve, by trapezoids."""
        return torch.trapezoid(self.scores, self.shares, dim=1)


def deletion_curve(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    substrate: Substrate = "zero",
    steps: int = 32,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Curve:
    """Compute the scores while the most relevant pixels are replaced first, the same number per step.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        substrate: replaces the pixels: "zero", "mean" (the image's mean colour), "blur", or a tensor that broadcasts.
        steps: number of steps of ceil(pixels / steps) pixels; the last may be smaller. RISE takes one row per step.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        The scores from the unedited image (share 0) to its substrate (share 1).
    """
    return _curve(maps, inputs, score, substrate, backwards=False, steps=steps, clean=clean, batch_size=batch_size)


def insertion_curve(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    substrate: Substrate = "blur",
    steps: int = 32,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Curve:
    """Compute the scores while the most relevant pixels are put back first into the image's substrate.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W).
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        substrate: the start: "zero", "mean" (the image's mean colour), "blur", or a tensor that broadcasts.
        steps: number of steps of ceil(pixels / steps) pixels; the last may be smaller. RISE takes one row per step.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        The scores from the substrate (share 0) to the unedited image (share 1).
    """
    return _curve(maps, inputs, score, substrate, backwards=True, steps=steps, clean=clean, batch_size=batch_size)


def _curve(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    substrate: Substrate,
    *,
    backwards: bool,
    steps: int,
    clean: Tensor | None,
    batch_size: int,
) -> Curve:
    size, pixels = inputs.shape[2:], math.prod(inputs.shape[2:])
    if not 1 <= steps <= pixels:
        raise SettingError(f"{steps} steps are not possible on {pixels} pixels; give 1 to {pixels}")
    rank, baseline = ranks(maps.to(inputs.device), size), substitute(inputs, substrate)
    width = -(-pixels // steps)
    counts = torch.tensor([*range(0, pixels, width), pixels], device=inputs.device)
    edited = counts[:-1] if backwards else counts[1:]
    start, end = (baseline, inputs) if backwards else (inputs, baseline)

    def edit(rows: Tensor, numbers: Tensor) -> Tensor:
        rows, numbers = rows.to(inputs.device), numbers.to(inputs.device)
        mask = (rank[rows] < edited[numbers, None]).view(-1, 1, *size)
        return torch.where(mask, end[rows], start[rows])

    clean_score = clean_scores(inputs, score, clean, batch_size=batch_size)[:, None]
    edited_scores = scores(edit, rows=len(inputs), edits=len(edited), score=score, batch_size=batch_size)
    whole = torch.cat([edited_scores, clean_score] if backwards else [clean_score, edited_scores], 1)
    return Curve(counts.to(edited_scores) / pixels, undefined(whole, unsound(maps)))


@metric(Facts("low", score="probability"))
def deletion(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    substrate: Substrate = "zero",
    steps: int = 32,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute the area under the deletion curve: low where the score falls as soon as the map's peak is removed.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W); pixels with the highest values are replaced first.
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        substrate: replaces the pixels: "zero", "mean" (the image's mean colour), "blur", or a tensor that broadcasts.
        steps: number of steps of ceil(pixels / steps) pixels; the last may be smaller. RISE takes one row per step.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) in the unit of the score; NaN for a map with NaN.

    Reference:
        Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC 2018.
        arXiv:1806.07421

    >>> x = torch.tensor([[[[4.0, 0.0, 0.0, 0.0]]]])
    >>> total = lambda inputs, rows: inputs.sum((1, 2, 3)) / 4
    >>> deletion(x[0], x, total, steps=4), deletion(-x[0], x, total, steps=4)
    (tensor([0.1250], dtype=torch.float64), tensor([0.8750], dtype=torch.float64))
    """
    curve = deletion_curve(maps, inputs, score, substrate=substrate, steps=steps, clean=clean, batch_size=batch_size)
    return curve.area


@metric(Facts("high", score="probability"))
def insertion(
    maps: Tensor,
    inputs: Tensor,
    score: Score,
    *,
    substrate: Substrate = "blur",
    steps: int = 32,
    clean: Tensor | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Compute the area under the insertion curve: high where the map's peak alone restores the score.

    Args:
        maps: (B, h, w) signed maps, resized to (H, W); pixels with the highest values are put back first.
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) scores, best probabilities; row i is an edit of image rows[i].
        substrate: the start: "zero", "mean" (the image's mean colour), "blur", or a tensor that broadcasts.
        steps: number of steps of ceil(pixels / steps) pixels; the last may be smaller. RISE takes one row per step.
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) in the unit of the score; NaN for a map with NaN.

    Reference:
        Petsiuk, Das, Saenko. RISE. BMVC 2018. arXiv:1806.07421

    >>> x = torch.tensor([[[[4.0, 0.0, 0.0, 0.0]]]])
    >>> insertion(x[0], x, lambda inputs, rows: inputs.sum((1, 2, 3)) / 4, steps=4, substrate="zero")
    tensor([0.8750], dtype=torch.float64)
    """
    curve = insertion_curve(maps, inputs, score, substrate=substrate, steps=steps, clean=clean, batch_size=batch_size)
    return curve.area


class Kept(NamedTuple):
    """Scores p of images, and scores o of the images multiplied by their heat maps.

    Attributes:
        clean: (B,) p, the scores of the unedited images.
        kept: (B,) o, the scores of x * s(R(U(L))): each pixel times its heat map value, scaled to [0, 1].
    """

    clean: Tensor
    kept: Tensor

    @property
    def drop(self) -> Tensor:
        """Return the relative drop (B,): R(p - o) / p."""
        return (self.clean - self.kept).relu() / self.clean

    @property
    def increase(self) -> Tensor:
        """Return (B,) 1 where o > p, else 0; NaN where o is NaN."""
        return undefined((self.kept > self.clean).double(), self.kept.isnan())

    @property
    def gain(self) -> Tensor:
        """Return the relative gain (B,): R(o - p) / (1 - p)."""
        return (self.kept - self.clean).relu() / (1 - self.clean)


def kept(maps: Tensor, inputs: Tensor, score: Score, *, clean: Tensor | None = None, batch_size: int = 32) -> Kept:
    """Compute the scores of images and of images multiplied by their heat maps, for drop, increase and gain at once.

    Args:
        maps: (B, h, w) signed maps; resized to (H, W), rectified and scaled to [0, 1].
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) probabilities; row i is an edit of image rows[i].
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        The scores; ``drop``, ``increase`` and ``gain`` are computed from them.
    """
    heat = unit(at_size(maps.to(inputs.device), inputs.shape[2:])).to(inputs.dtype)[:, None]
    clean_score = clean_scores(inputs, score, clean, batch_size=batch_size)
    masked_score = scores(
        lambda rows, _: inputs[rows] * heat[rows], rows=len(inputs), edits=1, score=score, batch_size=batch_size
    )
    return Kept(clean_score, masked_score[:, 0])


@metric(Facts("low", score="probability"))
def average_drop(
    maps: Tensor, inputs: Tensor, score: Score, *, clean: Tensor | None = None, batch_size: int = 32
) -> Tensor:
    """Compute the share of the score that is lost when the image is multiplied by its heat map: R(p - o) / p.

    p is the score of the image, and o that of the image times its heat map. A map of ones loses nothing: read this
    metric together with `complexity`, or use `adcc`. The paper gives the mean in percent; pytorch-grad-cam's drop is
    R(p - o), not divided by p.

    Args:
        maps: (B, h, w) signed maps; resized to (H, W), rectified and scaled to [0, 1].
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) probabilities; row i is an edit of image rows[i].
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) in [0, 1], whose mean is the average drop; NaN where p is 0.

    Reference:
        Chattopadhay, Sarkar, Howlader, Balasubramanian. Grad-CAM++. WACV 2018. arXiv:1710.11063

    >>> x = torch.tensor([[[[0.6, 0.2]]]])
    >>> average_drop(torch.tensor([[[1.0, 0.0]]]), x, lambda inputs, rows: inputs.sum((1, 2, 3)))
    tensor([0.2500], dtype=torch.float64)
    """
    return kept(maps, inputs, score, clean=clean, batch_size=batch_size).drop


@metric(Facts("high", score="probability"))
def increase(
    maps: Tensor, inputs: Tensor, score: Score, *, clean: Tensor | None = None, batch_size: int = 32
) -> Tensor:
    """Test whether the score rises when the image is multiplied by its heat map: increase in confidence, o > p.

    p is the score of the image, and o that of the image times its heat map.

    Args:
        maps: (B, h, w) signed maps; resized to (H, W), rectified and scaled to [0, 1].
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) probabilities; row i is an edit of image rows[i].
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) 1 or 0, whose mean is the rate of increase.

    Reference:
        Chattopadhay et al. Grad-CAM++. WACV 2018. arXiv:1710.11063

    >>> x = torch.tensor([[[[0.6, -0.2]]]])
    >>> increase(torch.tensor([[[1.0, 0.0]]]), x, lambda inputs, rows: inputs.sum((1, 2, 3)))
    tensor([1.], dtype=torch.float64)
    """
    return kept(maps, inputs, score, clean=clean, batch_size=batch_size).increase


@metric(Facts("high", score="probability"))
def average_gain(
    maps: Tensor, inputs: Tensor, score: Score, *, clean: Tensor | None = None, batch_size: int = 32
) -> Tensor:
    """Compute the share of the distance to 1 gained when the image is multiplied by its heat map: R(o - p) / (1 - p).

    p is the score of the image, and o that of the image times its heat map.

    Args:
        maps: (B, h, w) signed maps; resized to (H, W), rectified and scaled to [0, 1].
        inputs: (B, C, H, W) images as the network takes them.
        score: (inputs (N, C, H, W), rows (N,)) -> (N,) probabilities; row i is an edit of image rows[i].
        clean: (B,) scores of the unedited inputs; None to compute them.
        batch_size: inputs per call of ``score``.

    Returns:
        (B,) in [0, 1], whose mean is the average gain; NaN where p is 1.

    Reference:
        Zhang, Torres, Sicre, Avrithis, Ayache. Opti-CAM: Optimizing saliency maps for interpretability. CVIU 2024.
        arXiv:2301.07002

    >>> x = torch.tensor([[[[0.6, -0.2]]]])
    >>> average_gain(torch.tensor([[[1.0, 0.0]]]), x, lambda inputs, rows: inputs.sum((1, 2, 3)))
    tensor([0.3333], dtype=torch.float64)
    """
    return kept(maps, inputs, score, clean=clean, batch_size=batch_size).gain
