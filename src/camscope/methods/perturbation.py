"""Methods that edit the image or the layer and compute the score again: many forward passes, or parts of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camscope.errors import SettingError
from camscope.heatmap import normalise, upsample
from camscope.methods.passes import in_chunks
from camscope.methods.registry import MethodFacts, method
from camscope.methods.weights import weighted
from camscope.trace import Trace

_CHUNK_PIXELS = 16 * 224 * 224
_CHUNK_VALUES = 1 << 24


@method(
    MethodFacts(
        needs="activations",
        passes="K + 1 forwards; channels that are flat share one",
        reference=(
            "Wang et al. Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks. CVPRW "
            "2020. arXiv:1910.01279"
        ),
    )
)
def scorecam(trace: Trace, *, chunk: int | None = None) -> Tensor:
    """Score-CAM: each channel weighted by the score of the image masked with it.

    L = sum_k w_k A_k with w = softmax_k(score(X * M_k)) and M_k = s(U(A_k)), the channel upsampled and scaled to
    [0, 1]. Subtracting the score of a baseline image would cancel in the softmax.

    Args:
        trace: one forward pass recorded at the layer.
        chunk: masked images in one forward pass; by default as many as 16 of 224 x 224 pixels hold.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: no gradient.
    """
    A = trace.activations
    return weighted(masked_scores(trace, A, chunk=chunk).softmax(1), A)


@method(
    MethodFacts(
        needs="activations",
        passes="2 forwards, K tails",
        reference=(
            "Desai, Ramaswamy. Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free "
            "Localization. WACV 2020. doi:10.1109/WACV45572.2020.9093360"
        ),
    )
)
def ablationcam(trace: Trace, *, chunk: int | None = None) -> Tensor:
    """Ablation-CAM: each channel weighted by the relative decrease of the score without it.

    L = sum_k w_k A_k with w_k = (y - y_k) / |y|, y_k the score with A_k set to 0; where y is 0, undivided. Only the
    part of the network after the layer runs again.

    Args:
        trace: one forward pass recorded at the layer.
        chunk: channels ablated in one pass; by default as many as fit in 2^24 activations.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: no gradient.
    """
    A = trace.activations
    B, K = A.shape[:2]
    ablated = torch.empty(B, K, dtype=A.dtype, device=A.device)
    for image in range(B):
        for channels in in_chunks(K, chunk or _activations_at_once(A), like=A):

            def ablate(activations: Tensor, channels: Tensor = channels) -> Tensor:
                changed = activations.clone()
                changed[torch.arange(len(channels), device=changed.device), channels] = 0
                return changed

            rows = torch.full((len(channels),), image)
            ablated[image, channels] = trace.again(rows=rows, edit=ablate).scores.detach().to(A.dtype)
    y = trace.scores.detach().to(A.dtype)[:, None]
    return weighted((y - ablated) / torch.where(y == 0, 1.0, y.abs()), A)


@method(
    MethodFacts(
        needs="activations",
        passes="channels + 1 forwards; 11 by default",
        reference=(
            "The method has no paper: Tabayashi. Score-CAM, software, 2020, github.com/tabayashi0117/Score-CAM; "
            "it shortens Wang et al. Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural "
            "Networks. CVPRW 2020. arXiv:1910.01279"
        ),
    )
)
def fasterscorecam(trace: Trace, *, channels: int = 10, chunk: int | None = None) -> Tensor:
    """Faster Score-CAM: Score-CAM with the few channels that vary most over the image.

    L = sum_k w_k A_k over the ``channels`` channels of the largest variance, with Score-CAM's weights: the softmax is
    over these channels alone.

    Args:
        trace: one forward pass recorded at the layer.
        channels: how many; all of them is Score-CAM.
        chunk: masked images in one forward pass; by default as many as 16 of 224 x 224 pixels hold.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: no gradient.
    """
    activations = most_varied(trace.activations, channels)
    return weighted(masked_scores(trace, activations, chunk=chunk).softmax(1), activations)


@method(
    MethodFacts(
        needs="activations",
        passes="2 forwards, Z tails (Z the number of cells)",
        reference=(
            "Byun, Lee. Recipro-CAM: Fast gradient-free visual explanations for convolutional neural networks. "
            "2022. arXiv:2209.14074"
        ),
    )
)
def reciprocam(trace: Trace, *, chunk: int | None = None) -> Tensor:
    """Recipro-CAM: score of the layer with only one cell kept.

    L_ij = score(A with every cell but ij set to 0). No gradients; only the part of the network after the layer runs
    again. Class and other tokens outside the grid are kept.

    Args:
        trace: one forward pass recorded at the layer.
        chunk: cells in one pass; by default as many as fit in 2^24 activations.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: no gradient.
    """
    A = trace.activations
    B, Z = len(A), A[0, 0].numel()
    cell_scores = torch.empty(B, Z, dtype=A.dtype, device=A.device)
    for image in range(B):
        for cells in in_chunks(Z, chunk or _activations_at_once(A), like=A):

            def keep(activations: Tensor, cells: Tensor = cells) -> Tensor:
                mask = torch.ones(len(cells), Z, dtype=torch.bool, device=activations.device)
                mask[torch.arange(len(cells)), cells] = False
                return activations.masked_fill(mask.reshape(len(cells), 1, *activations.shape[2:]), 0)

            rows = torch.full((len(cells),), image)
            cell_scores[image, cells] = trace.again(rows=rows, edit=keep).scores.detach().to(A.dtype)
    return cell_scores.reshape(B, *A.shape[2:])


def most_varied(A: Tensor, channels: int) -> Tensor:
    """Return the channels of each image that vary most over its cells, the first most: (B, channels, *grid).

    Raises:
        SettingError: fewer than one channel.
    """
    if channels < 1:
        raise SettingError(f"channels={channels} is not possible; it takes at least 1")
    strongest = A.flatten(2).var(2, correction=0).topk(min(channels, A.shape[1]), dim=1).indices
    return A[torch.arange(len(A), device=A.device)[:, None], strongest]


def masked_scores(
    trace: Trace,
    masks: Tensor,
    *,
    chunk: int | None = None,
    change: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Score of each image seen through each mask; flat masks, as of dead channels, hide all, and share one pass.

    Args:
        trace: one forward pass.
        masks: (B, M, *grid); upsampled to the image and scaled to [0, 1].
        chunk: masked images in one forward pass.
        change: what to do to n scaled masks (n, *space) of numbers (n,), where mask m of image b has b * M + m.

    Returns:
        (B, M) scores.
    """
    pictures = trace.pictures
    size = pictures.shape[2:]
    B, M = masks.shape[:2]
    flat = masks.flatten(2).amax(2) == masks.flatten(2).amin(2)
    masks = masks.masked_fill(flat.view(B, M, *[1] * (masks.ndim - 2)), 0)
    repeats = flat & (flat.cumsum(1) > 1) if change is None else torch.zeros_like(flat)
    jobs = (~repeats).flatten().nonzero()[:, 0]
    scores = torch.empty(B * M, dtype=masks.dtype, device=masks.device)
    for numbers in in_chunks(len(jobs), chunk or pictures_at_once(trace), like=scores):
        pairs = jobs[numbers]
        rows = pairs // M
        soft_masks = normalise(upsample(masks.flatten(0, 1)[pairs], size), len(size))
        soft_masks = (change(soft_masks, pairs) if change else soft_masks).to(pictures.dtype)
        masked = pictures[rows.to(pictures.device)] * soft_masks[:, None].to(pictures.device)
        scores[pairs] = trace.again(masked, rows=rows).scores.detach().to(scores)
    scores = scores.reshape(B, M)
    first = flat.int().argmax(1, keepdim=True)
    return torch.where(repeats, scores.gather(1, first), scores)


def pictures_at_once(trace: Trace) -> int:
    """Return how many images a forward pass takes by default: as many as 16 of 224 x 224 pixels hold."""
    return max(1, _CHUNK_PIXELS // trace.pictures.shape[2:].numel())


def _activations_at_once(A: Tensor) -> int:
    return max(1, _CHUNK_VALUES // A[0].numel())
