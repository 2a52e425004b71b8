"""Methods that average over noisy or faded copies of the image: many forward passes.

Random numbers are seeded by the image, so that a map does not depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camscope.errors import SettingError
from camscope.methods.noise import content_seeds, normal
from camscope.methods.passes import in_chunks
from camscope.methods.perturbation import masked_scores, most_varied, pictures_at_once
from camscope.methods.registry import MethodFacts, method
from camscope.methods.weights import weighted
from camscope.trace import Trace


@method(
    MethodFacts(
        needs="activations",
        passes="samples * K + 1 forwards; 35 K + 1 by default",
        reference=(
            "Wang, Naidu, Michael, Kundu. SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization. "
            "2020. arXiv:2006.14255"
        ),
    )
)
def sscam(
    trace: Trace,
    *,
    samples: int = 35,
    noise: float = 2.0,
    channels: int | None = None,
    seed: int = 0,
    chunk: int | None = None,
) -> Tensor:
    """SS-CAM: Score-CAM with weights averaged over noisy masks.

    L = sum_k w_k A_k with w = softmax_k(mean_n score(X * (M_k + d_n))), M_k = s(U(A_k)) as in Score-CAM and
    d_n ~ N(0, noise^2) in each pixel. This is the paper's variant (1), noise on the feature maps.

    Args:
        trace: one forward pass recorded at the layer.
        samples: noisy masks a channel; 35 as in torch-cam.
        noise: standard deviation of the noise, the paper's 2; the masks themselves lie in [0, 1].
        channels: to save passes, only so many channels, those that vary most over the image; all by default.
        seed: of the noise, together with the content of the image.
        chunk: masked images in one forward pass; by default as many as 16 of 224 x 224 pixels hold.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: no gradient.
    """
    A = trace.activations if channels is None else most_varied(trace.activations, channels)
    seeds, K = content_seeds(trace.pictures, seed=seed), A.shape[1]

    def score(sample: int) -> Tensor:
        def shake(masks: Tensor, pairs: Tensor) -> Tensor:
            mask_seeds = [seeds[pair // K] + sample * K + pair % K for pair in pairs.tolist()]
            return masks + noise * normal(mask_seeds, masks.shape[1:], like=masks)

        return masked_scores(trace, A, chunk=chunk, change=shake)

    return weighted(_mean(score, samples).softmax(1), A)


@method(
    MethodFacts(
        needs="activations",
        passes="samples * K + 1 forwards; 10 K + 1 by default",
        reference=(
            "Naidu, Ghosh, Maurya, Nayak, Kundu. IS-CAM: Integrated Score-CAM for axiomatic-based explanations. "
            "2020. arXiv:2010.03023"
        ),
    )
)
def iscam(trace: Trace, *, samples: int = 10, channels: int | None = None, chunk: int | None = None) -> Tensor:
    """IS-CAM: Score-CAM with weights integrated while the mask fades in.

    L = sum_k w_k A_k with w = softmax_k(mean_i score(X * (i/N) M_k)), i = 1 ... N = ``samples`` and M_k = s(U(A_k))
    as in Score-CAM.

    Args:
        trace: one forward pass recorded at the layer.
        samples: steps of the integration; 10 as in torch-cam.
        channels: to save passes, only so many channels, those that vary most over the image; all by default.
        chunk: masked images in one forward pass; by default as many as 16 of 224 x 224 pixels hold.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: no gradient.
    """
    A = trace.activations if channels is None else most_varied(trace.activations, channels)

    def score(sample: int) -> Tensor:
        return masked_scores(trace, A, chunk=chunk, change=lambda masks, _: masks * ((sample + 1) / samples))

    return weighted(_mean(score, samples).softmax(1), A)


@method(
    MethodFacts(
        needs="gradients",
        passes="samples + 1 forwards and backwards to the layer; 5 by default",
        reference=(
            "Omeiza, Speakman, Cintas, Weldemariam. Smooth Grad-CAM++: An Enhanced Inference Level Visualization "
            "Technique for Deep Convolutional Neural Network Models. IntelliSys 2019. arXiv:1908.01224"
        ),
    )
)
def smoothgradcampp(
    trace: Trace, *, samples: int = 4, noise: float = 0.3, seed: int = 0, chunk: int | None = None
) -> Tensor:
    """Smooth Grad-CAM++: Grad-CAM++ with derivatives averaged over noisy copies of the image.

    L = sum_k w_k A_k with w_k = sum_ij al_kij R(D1_kij) and al = D2 / (2 D2 + S_k D3), where Dp is the mean of g^p
    over the noisy copies, and A and S_k are those of the clean image; al is 0 where D2 is, or where the
    denominator vanishes (below 1e-6 of D2).

    Args:
        trace: one forward pass recorded at the layer.
        samples: noisy copies of the image; 4 as in torch-cam.
        noise: standard deviation of the noise, in the unit of the network's normalised input; 0.3 as in torch-cam.
        seed: of the noise, together with the content of the image.
        chunk: images in one forward pass; by default as many as 16 of 224 x 224 pixels hold.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer; room for some forward passes.
    """
    A = trace.activations.flatten(2)
    # Gradients are scaled to unit size: powers of small ones would underflow.
    largest = trace.gradients.flatten(1).abs().amax(1)
    size = torch.where(largest > 0, largest, 1.0)[:, None, None]
    D1, D2, D3 = _mean_powers(trace, size, samples=samples, noise=noise, seed=seed, chunk=chunk)
    denominator = 2 + A.sum(2, keepdim=True) * size * D3 / torch.where(D2 > 0, D2, 1.0)
    undefined = (D2 > 0) & (denominator.abs() < 1e-6)
    trace.note("some Smooth Grad-CAM++ weights are undefined here and count as 0", where=undefined.flatten(1).any(1))
    usable = (D2 > 0) & ~undefined
    al = torch.where(usable, 1 / torch.where(usable, denominator, 1.0), 0.0)
    return weighted((al * (size * D1).relu()).sum(2), trace.activations)


def _mean(score: Callable[[int], Tensor], samples: int) -> Tensor:
    """Compute the mean of ``score(sample)`` over the samples, without storing them."""
    if samples < 1:
        raise SettingError(f"samples={samples} is not possible; it takes at least 1")
    total = score(0)
    for sample in range(1, samples):
        total = total + score(sample)
    return total / samples


def _mean_powers(
    trace: Trace, size: Tensor, *, samples: int, noise: float, seed: int, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute means of (g / size)^p, p = 1, 2, 3, over noisy copies of each image: (B, K, Z) each."""
    if samples < 1:
        raise SettingError(f"samples={samples} is not possible; it takes at least 1")
    clean, seeds = trace.pictures.detach(), content_seeds(trace.pictures, seed=seed)
    sums = [torch.zeros_like(trace.gradients.flatten(2)) for _ in range(3)]
    for pairs in in_chunks(len(clean) * samples, chunk or pictures_at_once(trace), like=clean):
        rows = pairs // samples
        copy_seeds = [seeds[pair // samples] + pair % samples for pair in pairs.tolist()]
        noisy = clean[rows.to(clean.device)] + noise * normal(copy_seeds, clean.shape[1:], like=clean)
        g = trace.again(noisy, rows=rows).gradients.flatten(2)
        rows = rows.to(g.device)
        for power, total in enumerate(sums, 1):
            total.index_add_(0, rows, (g / size[rows]) ** power / samples)
    return sums[0], sums[1], sums[2]
