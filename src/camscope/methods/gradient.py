"""Methods that weight activations by gradients: one forward pass, one backward pass to the layer.

Letters: A activations (B, K, *grid), g = d score / d A, Z number of cells, S_k the sum of A_k over the cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from camscope.errors import MethodError, SettingError
from camscope.methods.activation import first_component, peak_positive
from camscope.methods.heads import slope
from camscope.methods.registry import MethodFacts, method
from camscope.methods.weights import mean_over_cells, weighted
from camscope.trace import Trace


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Selvaraju et al. Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization. "
            "ICCV 2017, IJCV 2020. arXiv:1610.02391"
        ),
    )
)
def gradcam(trace: Trace) -> Tensor:
    """Grad-CAM: the activations, weighted by their mean gradients.

    L = sum_k a_k A_k with a_k = mean_ij g_kij.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer.
    """
    return weighted(mean_over_cells(trace.gradients), trace.activations)


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Chattopadhay et al. Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep "
            "Convolutional Networks. WACV 2018, eq. 19. arXiv:1710.11063"
        ),
    )
)
def gradcampp(trace: Trace) -> Tensor:
    """Grad-CAM++: gradients weighted per cell by the cell's share of the evidence for the class.

    L = sum_k w_k A_k with w_k = sum_ij al_kij R(g_kij) and al = g^2 / (2 g^2 + S_k g^3), 0 where g = 0. Computed as
    1 / (2 + S_k g), the same algebra without the underflow of g^3. The paper assumes S_k >= 0; where it is not and
    the denominator vanishes (below 1e-6), al is 0.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer.
    """
    A, g = trace.activations.flatten(2), trace.gradients.flatten(2)
    denominator = 2 + A.sum(2, keepdim=True) * g
    undefined = (g != 0) & (denominator.abs() < 1e-6)
    trace.note("some Grad-CAM++ weights are undefined here and count as 0", where=undefined.flatten(1).any(1))
    usable = (g != 0) & ~undefined
    al = torch.where(usable, 1 / torch.where(usable, denominator, 1.0), 0.0)
    return weighted((al * g.relu()).sum(2), trace.activations)


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Draelos, Carin. Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural "
            "networks. 2020. arXiv:2011.08891"
        ),
    )
)
def hirescam(trace: Trace) -> Tensor:
    """HiResCAM: gradient times activation per cell; exact contributions if one linear layer follows.

    L = sum_k g_k * A_k.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer.
    """
    return (trace.gradients * trace.activations).sum(1)


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Jiang et al. LayerCAM: Exploring Hierarchical Class Activation Maps for Localization. IEEE TIP 2021. "
            "doi:10.1109/TIP.2021.3089943"
        ),
    )
)
def layercam(trace: Trace) -> Tensor:
    """LayerCAM: positive gradients as weights per cell; sharp at early layers too.

    L = sum_k R(g_k) * A_k.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer.
    """
    return (trace.gradients.relu() * trace.activations).sum(1)


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Fu et al. Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs. BMVC 2020. "
            "arXiv:2008.02312"
        ),
    )
)
def xgradcam(trace: Trace) -> Tensor:
    """XGrad-CAM: gradients averaged with the activations as weights.

    L = sum_k w_k A_k with w_k = sum_ij g_kij A_kij / S_k. Where S_k cancels to rounding error, as signed activations
    may (ConvNeXt), the mean gradient stands in.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer.
    """
    A, g = trace.activations.flatten(2), trace.gradients.flatten(2)
    total = A.sum(2)
    cancelled = total.abs() <= torch.finfo(A.dtype).eps ** 0.5 * A.abs().sum(2)
    weights = torch.where(cancelled, g.mean(2), (g * A).sum(2) / torch.where(cancelled, 1.0, total))
    return weighted(weights, trace.activations)


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "The method has no paper of its own: Gildenblat and contributors. PyTorch library for CAM methods, "
            "software, 2021, github.com/jacobgil/pytorch-grad-cam; it rectifies HiResCAM (arXiv:2011.08891) "
            "channel by channel."
        ),
    )
)
def gradcamelementwise(trace: Trace) -> Tensor:
    """Grad-CAM element-wise: positive part of gradient times activation.

    L = sum_k R(g_k * A_k).

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) map, nowhere negative.

    Needs: a score with a gradient by the layer.
    """
    return (trace.gradients * trace.activations).relu().sum(1)


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Muhammad, Yeasin. Eigen-CAM: Class Activation Map using Principal Components. IJCNN 2020. "
            "arXiv:2008.00299; on g * A as in Gildenblat and contributors. PyTorch library for CAM methods, "
            "software, 2021."
        ),
    )
)
def eigengradcam(trace: Trace) -> Tensor:
    """EigenGrad-CAM: projection of gradient times activation on its first principal component.

    With X the cells x channels matrix of g * A and v its first right singular vector (not centred), L = X v. The
    sign, which the decomposition leaves open, is chosen so that the map agrees with gradient times activation:
    sum_i L_i sum_k X_ik > 0, so that it is high where there is evidence for the class and not against it.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer.
    """
    X = (trace.gradients * trace.activations).flatten(2).transpose(1, 2)
    return first_component(X, along=X.sum(2)).reshape(len(X), *trace.activations.shape[2:])


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Chung, Ying. Seg-Eigen-CAM: Eigen-Value-Based Visual Explanations for Semantic Segmentation Models. "
            "Applied Sciences 15(13), 2025. doi:10.3390/app15137562"
        ),
    )
)
def segeigencam(trace: Trace) -> Tensor:
    """Seg-Eigen-CAM: Eigen-CAM of the activations times absolute gradients, for segmentation.

    With X the cells x channels matrix of |g| * A and v its first right singular vector (not centred), L = X v,
    turned round where the lowest value is larger in size than the highest.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a gradient by the layer.
    """
    X = (trace.gradients.abs() * trace.activations).flatten(2).transpose(1, 2)
    return peak_positive(first_component(X)).reshape(len(X), *trace.activations.shape[2:])


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 1 backward to the layer",
        reference=(
            "Zhang et al. Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation. CVPR "
            "2025. arXiv:2501.11309"
        ),
    )
)
def finercam(trace: Trace, *, alpha: float = 1.0, comparisons: int = 3) -> Tensor:
    """Finer-CAM: Grad-CAM of the difference between the class score and those of the most similar classes.

    Grad-CAM on y_c - alpha sum_d w_d y_d over the ``comparisons`` classes d whose scores are nearest to y_c, w being
    the softmax of their scores, held constant. Needs a class index as target and at least two classes.

    Args:
        trace: one forward pass recorded at the layer.
        alpha: strength of the comparison, 1 as in the authors' program; with 0 it is Grad-CAM.
        comparisons: how many classes to compare with, 3 as in the authors' program; at most all others.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Raises:
        MethodError: the target is not the score of one class among several.

    Needs: a score with a gradient by the layer, a class index as target, two classes or more.
    """
    if comparisons < 1:
        raise SettingError(f"comparisons={comparisons} is not possible; it takes at least 1")
    finer = []
    for image, output in enumerate(trace.outputs.detach()):
        index = _explained_class(trace, image)
        distance = (output - output[index]).abs().index_fill(0, torch.tensor([index], device=output.device), torch.inf)
        rivals = distance.topk(min(comparisons, len(output) - 1), largest=False).indices
        finer.append(_difference(index, rivals, alpha * output[rivals].softmax(0)))
        text = f"class {index} is compared with {', '.join(map(str, rivals.tolist()))}"
        trace.note(text, where=torch.arange(len(trace.targets)) == image)
    return gradcam(trace.toward(finer))


@method(
    MethodFacts(
        needs="gradients",
        passes="1 forward, 2 backwards to the layer; with fused attention 1 tail more",
        reference="Cai. CAMs as Shapley Value-based Explainers. The Visual Computer 2025. arXiv:2501.06261",
    )
)
def shapleycam(trace: Trace) -> Tensor:
    """Shapley-CAM: Grad-CAM with weights that include second-order interactions of channels.

    L = sum_k w_k A_k with w_k = mean_ij (g - H A / 2)_kij, H the second derivative of the score by the layer's output
    (of token layers the class token included). H A is one Hessian-vector product; it is 0, and the map Grad-CAM's,
    where the rest of the network is piecewise linear. Attention is computed again without its fused kernels, which
    have no second derivative.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: a score with a first and a second derivative by the layer.
    """
    return weighted(mean_over_cells(trace.gradients - _curvature(trace) / 2), trace.activations)


def _curvature(trace: Trace) -> Tensor:
    """Compute H A, (B, K, *grid)."""
    try:
        return _hessian_product(trace)
    except RuntimeError:
        if trace.forward.differentiable:
            raise
    with sdpa_kernel(SDPBackend.MATH):
        return _hessian_product(trace.again())


def _hessian_product(trace: Trace) -> Tensor:
    layer = trace.leaf
    product = None
    if trace.scores.requires_grad:
        ones = torch.ones_like(trace.scores)
        (g,) = torch.autograd.grad(trace.scores, layer, ones, create_graph=True, retain_graph=True, allow_unused=True)
        if g is not None and g.requires_grad:
            keep = trace.forward.differentiable
            (product,) = torch.autograd.grad(
                g, layer, layer if keep else layer.detach(), retain_graph=True, create_graph=keep, allow_unused=True
            )
    return trace.read(torch.zeros_like(layer) if product is None else product).to(trace.activations.dtype)


def _explained_class(trace: Trace, image: int) -> int:
    """Return the class whose score a target is, by its derivative with respect to the output.

    Raises:
        MethodError: it is not the score of one class among several.
    """
    derivative, output = slope(trace, image), trace.outputs[image]
    if (
        derivative is None
        or output.ndim != 1
        or len(output) < 2
        or derivative.count_nonzero() != 1
        or float(derivative.sum()) != 1
    ):
        raise MethodError(
            "Finer-CAM compares a class with those nearest to it, and what is explained here is not the score of one "
            "class among several; give a class index as target, or use gradcam"
        )
    return int(derivative.argmax())


def _difference(index: int, rivals: Tensor, weights: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: output[index] - (weights * output[rivals]).sum()
