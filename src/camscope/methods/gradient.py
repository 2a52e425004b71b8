"""Methods that weight the activations by their gradients: one forward pass, one backward pass to the layer.

Letters: A activations (B, K, *grid), g = d score / d A, Z number of cells, S_k the sum of A_k over the cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from camscope.methods.registry import method
from camscope.trace import Trace


@method
def gradcam(trace: Trace) -> Tensor:
    """Grad-CAM: the activations, weighted by their mean gradients.

    L = sum_k a_k A_k with a_k = mean_ij g_kij.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: 1 forward, 1 backward to the layer.

    Reference:
        Selvaraju et al. Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization.
        ICCV 2017, IJCV 2020. arXiv:1610.02391
    """
    return weighted(mean_over_cells(trace.gradients), trace.activations)


@method
def gradcampp(trace: Trace) -> Tensor:
    """Grad-CAM++: weights that count each cell by how much of the class's evidence it holds.

    L = sum_k w_k A_k with w_k = sum_ij al_kij R(g_kij) and al = g^2 / (2 g^2 + S_k g^3), 0 where g = 0. Computed as
    1 / (2 + S_k g), the same algebra without the underflow of g^3. The paper assumes S_k >= 0; where it is not and
    the denominator vanishes (below 1e-6), al is 0.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: 1 forward, 1 backward to the layer.

    Reference:
        Chattopadhay et al. Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional
        Networks. WACV 2018, eq. 19. arXiv:1710.11063
    """
    A, g = trace.activations.flatten(2), trace.gradients.flatten(2)
    denominator = 2 + A.sum(2, keepdim=True) * g
    undefined = (g != 0) & (denominator.abs() < 1e-6)
    trace.note("some Grad-CAM++ weights are undefined here and count as 0", where=undefined.flatten(1).any(1))
    usable = (g != 0) & ~undefined
    al = torch.where(usable, 1 / torch.where(usable, denominator, 1.0), 0.0)
    return weighted((al * g.relu()).sum(2), trace.activations)


@method
def hirescam(trace: Trace) -> Tensor:
    """HiResCAM: gradient times activation, cell by cell; on a net that ends in one linear layer the exact share.

    L = sum_k g_k * A_k.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: 1 forward, 1 backward to the layer.

    Reference:
        Draelos, Carin. Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks.
        2020. arXiv:2011.08891
    """
    return (trace.gradients * trace.activations).sum(1)


@method
def layercam(trace: Trace) -> Tensor:
    """LayerCAM: positive gradients as weights, cell by cell; sharp also at early layers.

    L = sum_k R(g_k) * A_k.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: 1 forward, 1 backward to the layer.

    Reference:
        Jiang et al. LayerCAM: Exploring Hierarchical Class Activation Maps for Localization. IEEE TIP 2021.
        doi:10.1109/TIP.2021.3089943
    """
    return (trace.gradients.relu() * trace.activations).sum(1)


@method
def xgradcam(trace: Trace) -> Tensor:
    """XGrad-CAM: gradients averaged with the activations as weights.

    L = sum_k w_k A_k with w_k = sum_ij g_kij A_kij / S_k. Where S_k cancels to rounding error, as signed activations
    may (ConvNeXt), the mean gradient stands in.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: 1 forward, 1 backward to the layer.

    Reference:
        Fu et al. Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs. BMVC 2020.
        arXiv:2008.02312
    """
    A, g = trace.activations.flatten(2), trace.gradients.flatten(2)
    total = A.sum(2)
    cancelled = total.abs() <= torch.finfo(A.dtype).eps ** 0.5 * A.abs().sum(2)
    weights = torch.where(cancelled, g.mean(2), (g * A).sum(2) / torch.where(cancelled, 1.0, total))
    return weighted(weights, trace.activations)


def mean_over_cells(values: Tensor) -> Tensor:
    """(B, K, *grid) -> (B, K)."""
    return values.flatten(2).mean(2)


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """sum_k w_k A_k: (B, K) and (B, K, *grid) -> (B, *grid)."""
    return torch.einsum("bk,bk...->b...", weights, activations)
