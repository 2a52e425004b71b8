"""KPCA-CAM, FEM, Random CAM and deep feature factorisation, re-derived from their papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import KernelPCA
from torch import nn

import camscope as cs
from camscope.errors import SettingError
from camscope.methods import METHODS, facts_of
from camscope.methods.activation import concept_maps
from camscope.methods.noise import content_seeds, uniform


def setup(dims: int = 2):
    torch.manual_seed(dims)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    net = nn.Sequential(conv(2, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6**dims, 3)).double()
    x = torch.randn(2, 2, *[13] * dims, dtype=torch.float64)
    with torch.no_grad():
        return net, x, net[:2](x).flatten(2)


def ours(method: str, net: nn.Module, x: torch.Tensor, **settings: object) -> torch.Tensor:
    return cs.cam(net, x, method=method, layer="1", targets=0, **settings).flatten(1)


KERNELS = {
    "linear": lambda a, b, gamma: float(a @ b),
    "sigmoid": lambda a, b, gamma: math.tanh(gamma * float(a @ b) + 1),
    "poly": lambda a, b, gamma: (gamma * float(a @ b) + 1) ** 3,
    "rbf": lambda a, b, gamma: math.exp(-gamma * float(((a - b) ** 2).sum())),
}


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("dims", [1, 2])
def test_kpcacam(kernel, dims, close):
    """Kernel PCA of Schoelkopf, Smola and Mueller, with the centring matrix written out."""
    net, x, activations = setup(dims)
    rows = []
    for A in activations:
        X = A.T - A.T.mean(0)
        n = len(X)
        K = torch.tensor([[KERNELS[kernel](a, b, 1 / 6) for b in X] for a in X], dtype=A.dtype)
        one = torch.full((n, n), 1 / n, dtype=A.dtype)
        K = K - one @ K - K @ one + one @ K @ one
        values, vectors = np.linalg.eigh(K.numpy())
        a = vectors[:, -1] / np.sqrt(values[-1])
        row = K.numpy() @ a
        rows.append(torch.from_numpy(row if row.max() >= -row.min() else -row))
    close(ours("kpcacam", net, x, kernel=kernel), torch.stack(rows), to=1e-9, table=("kpcacam", "small head", "paper"))


@pytest.mark.parametrize("kernel", ["rbf", "poly", "linear"])
def test_kpcacam_is_scikit_learns(kernel, close):
    net, x, activations = setup()
    rows = [
        torch.from_numpy(KernelPCA(1, kernel=kernel, gamma=0.2).fit_transform((A.T - A.T.mean(0)).numpy())[:, 0])
        for A in activations
    ]
    close(ours("kpcacam", net, x, kernel=kernel, gamma=0.2).abs(), torch.stack(rows).abs(), to=1e-8)


def test_kpcacam_knows_its_kernels():
    net, x, _ = setup()
    with pytest.raises(SettingError, match="no kernel called 'rfb'; nearest: 'rbf'"):
        ours("kpcacam", net, x, kernel="rfb")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("sigmas", [1.0, 2.0])
def test_fem(dims, sigmas, close):
    net, x, activations = setup(dims)
    rows = []
    for A in activations:
        row = torch.zeros(A.shape[1], dtype=A.dtype)
        for channel in A:
            mean = sum(channel.tolist()) / len(channel)
            deviation = math.sqrt(sum((a - mean) ** 2 for a in channel.tolist()) / len(channel))
            for cell, a in enumerate(channel.tolist()):
                row[cell] += mean if a > mean + sigmas * deviation else 0.0
        rows.append(row)
    if dims == 1 and sigmas == 2.0:  # of 6 cells hardly one lies so far out
        assert torch.equal(ours("fem", net, x, sigmas=sigmas), torch.stack(rows))
    else:
        close(ours("fem", net, x, sigmas=sigmas), torch.stack(rows), to=1e-12, table=("fem", "small head", "paper"))


def test_fem_says_when_nothing_stands_out():
    net, x, _ = setup()
    trace = cs.record(net, x, layers=["1"]).trace("1", [cs.targets.category(0)] * 2)
    assert not cs.METHODS["fem"](trace, sigmas=100.0).any()
    assert "100 standard deviations" in trace.notes[1][0]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_randomcam(dims, close):
    net, x, activations = setup(dims)
    rows = []
    for picture, A in zip(x, activations, strict=True):
        weights = uniform(content_seeds(picture[None], seed=5), (len(A),), like=A)[0]
        rows.append(sum(w * channel for w, channel in zip(weights, A, strict=True)))
    close(ours("randomcam", net, x, seed=5), torch.stack(rows), to=1e-12, table=("randomcam", "small head", "paper"))


def test_randomcam_is_a_random_combination_of_the_channels():
    net, x, activations = setup()
    weights = []
    for seed in range(200):
        row = ours("randomcam", net, x, seed=seed)[0]
        solution = torch.linalg.lstsq(activations[0].T, row[:, None])
        assert torch.allclose(activations[0].T @ solution.solution, row[:, None], atol=1e-9)
        weights.append(solution.solution.flatten())
    values = torch.stack(weights)
    assert values.abs().max() <= 1 + 1e-9
    assert abs(float(values.mean())) < 0.05
    assert float(values.std()) == pytest.approx(1 / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_dff_of_one_concept_is_the_best_approximation_of_rank_1(dims, close):
    """That of a matrix without negative values has none either, and is the first pair of singular vectors."""
    net, x, activations = setup(dims)
    rows = []
    for A in activations:
        U, S, _ = np.linalg.svd(A.T.numpy())
        rows.append(torch.from_numpy(S[0] * np.abs(U[:, 0])))
    close(ours("dff", net, x, concepts=1), torch.stack(rows), to=1e-2, table=("dff", "small head", "paper"))


def test_dff_finds_the_parts_that_were_put_in(close):
    """Activations made of three parts with no cell and no channel in common: the factorisation is unique."""
    torch.manual_seed(0)
    parts = torch.zeros(3, 6, 6, dtype=torch.float64)
    parts[0, :3, :3], parts[1, 3:, 3:], parts[2, 0, 4:] = 3.0, 2.0, 1.0
    parts = parts * torch.rand(3, 6, 6, dtype=torch.float64).add(0.5)
    features = torch.rand(3, 8, dtype=torch.float64) * (torch.arange(8) % 3 == torch.arange(3)[:, None])
    features = features / features.norm(dim=1, keepdim=True)

    class Parts(nn.Module):
        def forward(self, x):
            return torch.einsum("chw,ck->khw", parts, features)[None].expand(len(x), -1, -1, -1) * x.mean()

    net = nn.Sequential(Parts(), nn.Flatten(), nn.Linear(288, 2)).double()
    x = torch.ones(1, 1, 12, 12, dtype=torch.float64)
    trace = cs.record(net, x, layers=["0"]).trace("0", [cs.targets.category(0)])
    maps, found = concept_maps(trace, concepts=3)
    close(maps[0], parts, to=1e-2)
    close(found[0], features, to=1e-2)
    close(cs.cam(net, x, method="dff", layer="0", concepts=3)[0], parts[0], to=1e-2)
    maps, found = concept_maps(trace, concepts=7)
    assert maps.shape == (1, 7, 6, 6)
    assert found.shape == (1, 7, 8)


def test_dff_adds_up_to_the_activations():
    net, x, activations = setup()
    trace = cs.record(net, x, layers=["1"]).trace("1", [cs.targets.category(0)] * 2)
    residuals = []
    for concepts in (1, 3, 6):
        maps, features = concept_maps(trace, concepts=concepts)
        assert (maps >= 0).all()
        assert (features >= 0).all()
        sums = maps.flatten(2).sum(2)
        assert (sums.diff(dim=1) <= 0).all()
        rebuilt = torch.einsum("bcz,bck->bkz", maps.flatten(2), features)
        residuals.append(float((rebuilt - activations).norm() / activations.norm()))
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[2] < 0.02


def test_dff_of_nothing_is_nothing():
    net, x, _ = setup()
    net[0].bias.data -= 100
    assert not ours("dff", net, x).any()
    with pytest.raises(SettingError, match="concepts=0"):
        ours("dff", net, x, concepts=0)


def test_they_are_marked_as_class_agnostic():
    net, x, _ = setup()
    facts = {name: facts_of(function) for name, function in METHODS.items()}
    agnostic = {name for name, of in facts.items() if of.class_agnostic and not of.whole_network}
    for method in sorted(agnostic):
        one, other = (cs.cam(net, x, method=method, layer="1", targets=index) for index in (0, 2))
        assert torch.equal(one, other), method
    assert {"eigencam", "kpcacam", "fem", "randomcam", "dff"} <= agnostic
