"""Methods that use only the activations: one forward pass, no backward pass."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from camscope.errors import MethodError, SettingError, nearest
from camscope.methods.noise import content_seeds, uniform
from camscope.methods.registry import MethodFacts, method
from camscope.methods.weights import weighted
from camscope.trace import Trace

_MOST_CELLS = 10_000  # of an image whose kernel matrix is made


@method(
    MethodFacts(
        needs="activations",
        class_agnostic=True,
        passes="1 forward",
        reference=(
            "Muhammad, Yeasin. Eigen-CAM: Class Activation Map using Principal Components. IJCNN 2020. arXiv:2008.00299"
        ),
    )
)
def eigencam(trace: Trace) -> Tensor:
    """Eigen-CAM: projection of the activations on their first principal component; class-agnostic.

    With X the cells x channels matrix of an image and v its first right singular vector (not centred, as in the
    paper), L = X v. The sign, which the decomposition leaves open, is chosen so that most of the mass is positive.

    Args:
        trace: one forward pass recorded at the layer.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: the layer's activations alone.
    """
    A = trace.activations
    return first_component(A.flatten(2).transpose(1, 2)).reshape(len(A), *A.shape[2:])


@method(
    MethodFacts(
        needs="activations",
        class_agnostic=True,
        passes="1 forward; memory for cells^2 numbers per image",
        reference=(
            "Karmani et al. KPCA-CAM: Visual Explainability of Deep Computer Vision Models using Kernel PCA. MMSP "
            "2024. arXiv:2410.00267"
        ),
    )
)
def kpcacam(trace: Trace, *, kernel: str = "sigmoid", gamma: float | None = None) -> Tensor:
    """KPCA-CAM: Eigen-CAM with kernel PCA, whose first component may be nonlinear; class-agnostic.

    The cells of an image are points x_i in K dimensions, centred; L_i is the projection of cell i on the first
    component of kernel PCA with k(x, y): "sigmoid" tanh(gamma x.y + 1), "poly" (gamma x.y + 1)^3, "rbf"
    exp(-gamma |x - y|^2), or "linear" x.y. The sign, which the decomposition leaves open, is chosen so that the value
    largest in size is positive.

    Args:
        trace: one forward pass recorded at the layer.
        kernel: its name; "sigmoid" is the default of the authors' program in pytorch-grad-cam.
        gamma: its scale; 1 / K by default, as in scikit-learn, which that program calls.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Raises:
        SettingError: there is no such kernel.
        MethodError: a grid of more than 10,000 cells, whose kernel matrix would take 400 MB per image or more.

    Needs: the layer's activations alone.
    """
    A = trace.activations
    X = A.flatten(2).transpose(1, 2)
    if X.shape[1] > _MOST_CELLS:
        grid = " x ".join(map(str, A.shape[2:]))
        raise MethodError(
            f"kpcacam needs a matrix of cells by cells: a grid of {grid} has {X.shape[1]:,} cells, and at most "
            f"{_MOST_CELLS:,} are possible; choose a deeper layer"
        )
    gram = _kernel(X - X.mean(1, keepdim=True), kernel, 1 / A.shape[1] if gamma is None else gamma)
    gram = gram - gram.mean(1, keepdim=True) - gram.mean(2, keepdim=True) + gram.mean((1, 2), keepdim=True)
    values, vectors = _eigh(gram)
    projected = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    return peak_positive(projected).reshape(len(A), *A.shape[2:])


@method(
    MethodFacts(
        needs="activations",
        class_agnostic=True,
        passes="1 forward",
        reference=(
            "Fuad, Martin, Giot, Bourqui, Benois-Pineau, Zemmari. Features Understanding in 3D CNNs for Actions "
            "Recognition in Video. IPTA 2020. doi:10.1109/IPTA50016.2020.9286629"
        ),
    )
)
def fem(trace: Trace, *, sigmas: float = 2.0) -> Tensor:
    """FEM (feature explanation method): cells with unusually high activations; class-agnostic.

    L = sum_k mu_k 1[A_k > mu_k + sigmas * sigma_k], mu_k and sigma_k the mean and standard deviation of A_k. As in
    the paper the channel's mean weights its mask; pytorch-grad-cam weights the channel by the share of its mask.

    Args:
        trace: one forward pass recorded at the layer.
        sigmas: how far above the mean counts as strong.

    Returns:
        (B, *grid) map, nowhere negative where the activations are not.

    Needs: the layer's activations alone.
    """
    A = trace.activations.flatten(2)
    mean, spread = A.mean(2, keepdim=True), A.std(2, correction=0, keepdim=True)
    strong = A.gt(mean + sigmas * spread)
    text = f"no cell of any channel lies more than {sigmas:g} standard deviations above the channel's mean"
    trace.note(text, where=~strong.flatten(1).any(1))
    return (mean * strong).sum(1).reshape(len(A), *trace.activations.shape[2:])


@method(
    MethodFacts(
        needs="activations",
        class_agnostic=True,
        passes="1 forward",
        reference=(
            "The method has no paper: Gildenblat and contributors. PyTorch library for CAM methods, software, "
            "2021, github.com/jacobgil/pytorch-grad-cam"
        ),
    )
)
def randomcam(trace: Trace, *, seed: int = 0) -> Tensor:
    """Random CAM: the activations with random channel weights; a trivial baseline.

    L = sum_k w_k A_k with w_k ~ U(-1, 1), the same for the same image and seed.

    Args:
        trace: one forward pass recorded at the layer.
        seed: of the weights, together with the content of the image.

    Returns:
        (B, *grid) signed map, before the final ReLU.

    Needs: the layer's activations alone.
    """
    A = trace.activations
    return weighted(uniform(content_seeds(trace.pictures, seed=seed), A.shape[1:2], like=A), A)


@method(
    MethodFacts(
        needs="activations",
        class_agnostic=True,
        passes="1 forward, 1 factorisation per image",
        reference=(
            "Collins, Achanta, Süsstrunk. Deep Feature Factorization For Concept Discovery. ECCV 2018. arXiv:1806.10206"
        ),
    )
)
def dff(trace: Trace, *, concepts: int = 4, seed: int = 0) -> Tensor:
    """Deep feature factorisation: location of the strongest concept in the activations; class-agnostic.

    Non-negative matrix factorisation R(A) = sum_c f_c L_c finds parts that answer alike: concepts with a feature
    vector f_c (of length 1) and a map L_c. This is the map of the largest sum; `concept_maps` returns all. Each
    image is factorised separately, so that its map does not depend on the batch.

    Args:
        trace: one forward pass recorded at the layer.
        concepts: number of parts to look for; the paper looks at several numbers, 4 as in its figure 1.
        seed: of the factorisation's start.

    Returns:
        (B, *grid) map, nowhere negative.

    Needs: the layer's activations alone; negative ones count as 0.
    """
    return concept_maps(trace, concepts=concepts, seed=seed)[0][:, 0]


def concept_maps(trace: Trace, *, concepts: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return all concepts of a deep feature factorisation (see `dff`), the strongest first.

    Args:
        trace: one forward pass recorded at the layer.
        concepts: number of parts to look for; those that an image does not hold are 0.
        seed: of the factorisation's start.

    Returns:
        Maps (B, concepts, *grid), nowhere negative, and features (B, concepts, K) of length 1, so that the sum over
        the concepts of feature times map is about R(A).

    Raises:
        SettingError: fewer than one concept.
    """
    if concepts < 1:
        raise SettingError(f"concepts={concepts} is not possible; it takes at least 1")
    from sklearn.decomposition import non_negative_factorization

    A = trace.activations.detach()
    maps = torch.zeros(len(A), concepts, A[0, 0].numel(), dtype=A.dtype, device=A.device)
    features = torch.zeros(len(A), concepts, A.shape[1], dtype=A.dtype, device=A.device)
    count = min(concepts, *A.flatten(2).shape[1:])
    for image, positive in enumerate(A.relu().flatten(2)):
        if not positive.any():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It warns if it stops before convergence, which is accurate enough here.
            W, H, _ = non_negative_factorization(
                positive.T.cpu().numpy(), n_components=count, init="nndsvda", random_state=seed
            )
        W, H = torch.from_numpy(W).to(A), torch.from_numpy(H).to(A)
        length = H.norm(dim=1)
        strength, order = (W * length).sum(0).sort(descending=True, stable=True)
        order = order[strength > 0]
        maps[image, : len(order)] = (W * length).T[order]
        features[image, : len(order)] = H[order] / length[order, None]
    return maps.unflatten(2, A.shape[2:]), features


def _kernel(X: Tensor, name: str, gamma: float) -> Tensor:
    """Compute k(x, y) of all pairs of rows: (B, cells, K) -> (B, cells, cells)."""
    if name == "rbf":
        return (-gamma * torch.cdist(X, X).square()).exp()
    products = X @ X.transpose(1, 2)
    if name == "linear":
        return products
    if name == "sigmoid":
        return (gamma * products + 1).tanh()
    if name == "poly":
        return (gamma * products + 1) ** 3
    raise SettingError(nearest("kernel", name, ["sigmoid", "poly", "rbf", "linear"]))


def peak_positive(projected: Tensor) -> Tensor:
    """Turn those of (B, cells) round whose lowest value is larger in size than the highest."""
    return torch.where(-projected.amin(1, keepdim=True) > projected.amax(1, keepdim=True), -projected, projected)


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and vectors of (B, n, n), NaN where a matrix is not finite.

    LAPACK's float32 gives up on some matrices that its float64 can do.
    """
    is_finite = gram.isfinite().flatten(1).all(1)[:, None, None]
    solvable = gram.where(is_finite, 0.0)
    try:
        values, vectors = torch.linalg.eigh(solvable)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = (part.to(gram) for part in torch.linalg.eigh(solvable.double()))
    return values.where(is_finite[:, :, 0], torch.nan), vectors.where(is_finite, torch.nan)


def first_component(X: Tensor, *, along: Tensor | None = None) -> Tensor:
    """Project each matrix (B, cells, K) on its first right singular vector: (B, cells).

    Through the smaller of the two Gram matrices, since all that is wanted is one vector.

    Args:
        X: the matrices.
        along: (B, cells) what the result is turned round to agree with, in the sum of products over the cells; None
            for the same everywhere, so that most of its mass is positive.
    """
    size = X.abs().amax((1, 2), keepdim=True)
    X = X / torch.where(size > 0, size, 1.0)  # LAPACK fails for the squares of small numbers
    if X.shape[1] <= X.shape[2]:
        values, vectors = _eigh(X @ X.transpose(1, 2))
        projected = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    else:
        _, vectors = _eigh(X.transpose(1, 2) @ X)
        projected = (X @ vectors[:, :, -1:]).squeeze(2)
    agreement = (projected if along is None else projected * along).sum(1, keepdim=True)
    return torch.where(agreement < 0, -projected, projected) * size[:, 0]
