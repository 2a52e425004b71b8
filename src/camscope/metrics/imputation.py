"""Linear imputation: replace removed pixels by weighted means of their neighbours, from one linear system."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor

from camscope.array_types import Floats, Mask

_LEAF = 16


def impute(inputs: Tensor, removed: Tensor) -> Tensor:
    """Fill in removed pixels with x_i = sum_j w_j x_j / sum_j w_j over the neighbours j that exist.

    The weight w is 1/6 across and 1/12 diagonally. Neighbours that are removed too are unknowns of the same system.

    Args:
        inputs: (N, C, H, W) images.
        removed: (N, H, W), true where pixels are replaced; at least one pixel of each image must stay.

    Returns:
        (N, C, H, W) images, equal to the inputs at all other pixels.

    Reference:
        Rong, Leemann, Borisov, Kasneci, Kasneci. A Consistent and Efficient Evaluation Strategy for Attribution
        Methods. ICML 2022. arXiv:2202.00449

    >>> impute(torch.tensor([[[[1.0, 9.0, 9.0, 4.0]]]]), torch.tensor([[[False, True, True, False]]]))
    tensor([[[[1., 2., 3., 4.]]]])
    """
    pixels = inputs.detach().flatten(2).cpu().numpy().astype(np.float64)
    for values, gone in zip(pixels, removed.cpu().numpy().astype(bool), strict=True):
        hole = gone.ravel()
        values[:, hole] = imputer(gone, ~gone)(values[:, ~hole])
    return torch.from_numpy(pixels).view(inputs.shape).to(inputs)


Indices = npt.NDArray[np.int64]


def imputer(removed: Mask, known: Mask) -> Callable[[npt.NDArray[np.floating]], Floats]:
    """Return a function that fills in one hole by linear imputation, for any number of channels and images.

    Args:
        removed: (H, W), true where pixels are replaced.
        known: (H, W), true where pixels may be used; pixels that are neither removed nor known take no part.

    Returns:
        Function from known pixels (N, known) to removed pixels (N, removed), both in row-major order.

    >>> imputer(np.array([[False, True, True, False]]), np.array([[True, False, False, True]]))(np.array([[1.0, 4.0]]))
    array([[2., 3.]])
    """
    weights, order = _grid(*removed.shape)
    unknown = order[removed.ravel()[order]]
    rows, rim = weights[unknown], known.ravel()
    sums = rows @ (removed.ravel() | rim).astype(np.float64)
    system = (sparse.diags_array(sums) - rows[:, unknown]).tocsc()
    factors = linalg.splu(system, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    around, by_rows = rows[:, rim], np.argsort(unknown)

    def solve(pixels: npt.NDArray[np.floating]) -> Floats:
        imputed: Floats = factors.solve(around @ pixels.T.astype(np.float64))[by_rows].T
        return imputed

    return solve


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[sparse.csr_array, Indices]:
    """Return every pixel's weights for the others, and the order in which pixels are eliminated.

    [1 2 1]^T [1 2 1] / 12 without its centre is the paper's 1/6 across and 1/12 diagonally.
    """
    rows, columns = (
        sparse.diags_array([1.0, 2.0, 1.0], offsets=[-1, 0, 1], shape=(side, side)) for side in (height, width)
    )
    weights = sparse.csr_array(sparse.kron(rows, columns, format="csr") / 12)
    weights.setdiag(0)
    weights.eliminate_zeros()
    return weights, _dissected(np.arange(height * width).reshape(height, width))


def _dissected(places: Indices) -> Indices:
    """Order the cells of a grid by nested dissection: one half, the other half, then the line between them.

    The factors stay as sparse as with SuperLU's own ordering, without the search for one. Holes of a tenth to nine
    tenths of 224 x 224 pixels take 0.07 s on average, and 0.10 s with SuperLU's ordering. One block-diagonal system
    for all holes takes 0.13 s per hole, and conjugate gradients 0.27 s (benchmarks/quality/imputation.py).

    Reference:
        George. Nested dissection of a regular finite element mesh. SIAM J. Numerical Analysis 1973. doi:10.1137/0710032
    """
    if places.size <= _LEAF:
        return places.ravel()
    places = places if places.shape[0] >= places.shape[1] else places.T
    middle = len(places) // 2
    halves = (_dissected(half) for half in (places[:middle], places[middle + 1 :]))
    return np.concatenate([*halves, places[middle]])
