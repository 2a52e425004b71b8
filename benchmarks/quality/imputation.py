"""How ROAD's linear systems are best solved: seconds of a processor for holes of an image of 224 x 224.

    OMP_NUM_THREADS=1 python benchmarks/quality/imputation.py

Prints a table; interleaved runs, the fastest of three of each.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg

from camscope.heatmap import upsample
from camscope.metrics.imputation import _grid, impute

SIDE, SHARES = 224, (0.1, 0.3, 0.5, 0.7, 0.9)
OPTIONS = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}


def holes():
    """The most relevant shares of a smooth random map, as a class activation map has them."""
    values = upsample(torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0)), (SIDE, SIDE)).flatten()
    rank = values.argsort(descending=True).argsort()
    return torch.stack([rank < round(share * SIDE**2) for share in SHARES])


def system(gone):
    rows = _grid(SIDE, SIDE)[0][gone]
    return sparse.diags_array(rows.sum(axis=1)) - rows[:, gone], rows[:, ~gone]


def nested(pixels, removed):
    impute(torch.from_numpy(pixels).view(len(pixels), -1, SIDE, SIDE), torch.from_numpy(removed).view(-1, SIDE, SIDE))


def own_order(pixels, removed):
    for values, gone in zip(pixels, removed, strict=True):
        matrix, rim = system(gone)
        factors = linalg.splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", **OPTIONS)
        factors.solve(rim @ values[:, ~gone].T)


def one_block(pixels, removed):
    parts = [system(gone) for gone in removed]
    factors = linalg.splu(sparse.block_diag([m for m, _ in parts], format="csc"), permc_spec="MMD_AT_PLUS_A", **OPTIONS)
    known = zip(parts, pixels, removed, strict=True)
    factors.solve(np.concatenate([rim @ values[:, ~gone].T for (_, rim), values, gone in known]))


def conjugate_gradients(pixels, removed):
    for values, gone in zip(pixels, removed, strict=True):
        matrix, rim = system(gone)
        inverse = sparse.diags_array(1 / matrix.diagonal())
        for channel in (rim @ values[:, ~gone].T).T:
            linalg.cg(matrix.tocsr(), channel, rtol=1e-8, M=inverse)


def main():
    removed = holes().numpy()
    pixels = np.random.default_rng(0).normal(size=(len(SHARES), 3, SIDE**2))
    ways = [nested, own_order, one_block, conjugate_gradients]
    seconds = {way.__name__: [] for way in ways}
    for _ in range(3):
        for way in ways:
            start = time.process_time()
            way(pixels, removed)
            seconds[way.__name__].append(time.process_time() - start)
    for name, values in seconds.items():
        each = min(values) / len(SHARES)
        print(f"{name:20} {each:.3f} s a hole, {min(values) / min(seconds['nested']):.1f} x")


if __name__ == "__main__":
    main()
