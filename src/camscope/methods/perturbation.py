"""Methods that change something and look at the score again: many forward passes, or tails of them."""

from __future__ import annotations

import torch
from torch import Tensor

from camscope.heatmap import normalise, upsample
from camscope.methods.gradient import weighted
from camscope.methods.registry import method
from camscope.trace import Trace

_CHUNK_PIXELS = 32 * 224 * 224
_CHUNK_VALUES = 1 << 24


@method
def scorecam(trace: Trace, *, chunk: int | None = None) -> Tensor:
    """Score-CAM: each channel weighted by the score of the picture seen through it.

    L = sum_k w_k A_k with w = softmax_k(score(X * M_k)) and M_k = s(U(A_k)), the channel upsampled and scaled to
    [0, 1]. Subtracting the score of a baseline picture would cancel in the softmax.

    Args:
        trace: one forward pass recorded at the layer.
        chunk: masked pictures in one forward pass; by default as many as 32 of 224 x 224 pixels hold.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: K + 1 forwards.

    Reference:
        Wang et al. Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks. CVPRW 2020.
        arXiv:1910.01279
    """
    A = trace.activations
    return weighted(masked_scores(trace, A, chunk=chunk).softmax(1), A)


@method
def ablationcam(trace: Trace, *, chunk: int | None = None) -> Tensor:
    """Ablation-CAM: each channel weighted by the share of the score that is lost without it.

    L = sum_k w_k A_k with w_k = (y - y_k) / |y|, y_k the score with A_k set to 0; where y is 0, undivided. Only the
    part of the network after the layer runs again.

    Args:
        trace: one forward pass recorded at the layer.
        chunk: channels ablated in one pass; by default as many as fit in 2^24 activations.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: 2 forwards, K tails.

    Reference:
        Desai, Ramaswamy. Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
        Localization. WACV 2020. doi:10.1109/WACV45572.2020.9093360
    """
    A = trace.activations
    B, K = A.shape[:2]
    chunk = chunk or max(1, _CHUNK_VALUES // A[0].numel())
    ablated = torch.empty(B, K, dtype=A.dtype, device=A.device)
    for image in range(B):
        for channels in torch.arange(K, device=A.device).split(chunk):

            def ablate(activations: Tensor, channels: Tensor = channels) -> Tensor:
                changed = activations.clone()
                changed[torch.arange(len(channels), device=changed.device), channels] = 0
                return changed

            rows = torch.full((len(channels),), image)
            ablated[image, channels] = trace.again(rows=rows, edit=ablate).scores.detach().to(A.dtype)
    y = trace.scores.detach().to(A.dtype)[:, None]
    return weighted((y - ablated) / torch.where(y == 0, 1.0, y.abs()), A)


def masked_scores(trace: Trace, masks: Tensor, *, chunk: int | None = None) -> Tensor:
    """Score of each picture seen through each mask.

    Args:
        trace: one forward pass.
        masks: (B, M, *grid); upsampled to the picture and scaled to [0, 1].
        chunk: masked pictures in one forward pass.

    Returns:
        (B, M) scores.
    """
    pictures = trace.pictures
    size = pictures.shape[2:]
    chunk = chunk or max(1, _CHUNK_PIXELS // size.numel())
    B, M = masks.shape[:2]
    scores = torch.empty(B * M, dtype=masks.dtype, device=masks.device)
    for pairs in torch.arange(B * M).split(chunk):
        rows = pairs // M
        seen = normalise(upsample(masks.flatten(0, 1)[pairs.to(masks.device)], size), len(size)).to(pictures.dtype)
        masked = pictures[rows.to(pictures.device)] * seen[:, None].to(pictures.device)
        scores[pairs] = trace.again(masked, rows=rows).scores.detach().to(scores)
    return scores.reshape(B, M)
