"""Methods that read the activations alone: one forward pass, no backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from camscope.methods.registry import class_agnostic, method
from camscope.trace import Trace


@class_agnostic
@method
def eigencam(trace: Trace) -> Tensor:
    """Eigen-CAM: the activations along their first principal direction, whatever the class.

    With X the cells x channels matrix of an image and v its first right singular vector (not centred, as in the
    paper), L = X v. The sign, which the decomposition leaves open, is chosen so that most of the mass is positive.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Cost: 1 forward.

    Reference:
        Muhammad, Yeasin. Eigen-CAM: Class Activation Map using Principal Components. IJCNN 2020. arXiv:2008.00299
    """
    A = trace.activations
    return first_component(A.flatten(2).transpose(1, 2)).reshape(len(A), *A.shape[2:])


def first_component(X: Tensor) -> Tensor:
    """Project each matrix (B, cells, K) on its first right singular vector, sign fixed: (B, cells).

    Through the smaller of the two Gram matrices, since all that is wanted is one vector.
    """
    if X.shape[1] <= X.shape[2]:
        values, vectors = torch.linalg.eigh(X @ X.transpose(1, 2))
        projected = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(X.transpose(1, 2) @ X)
        projected = (X @ vectors[:, :, -1:]).squeeze(2)
    return torch.where(projected.sum(1, keepdim=True) < 0, -projected, projected)
