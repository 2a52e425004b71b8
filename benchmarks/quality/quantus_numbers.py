"""What Quantus says of given maps, stored for the tests: it brings an OpenCV of its own, so it is run apart, once.

    uv venv quantus-env && uv pip install --python quantus-env/bin/python quantus==0.6.0 torch
    quantus-env/bin/python benchmarks/quality/quantus_numbers.py tests/reference/quantus.json

`given` makes the same maps, masks and inputs here and in the test, from one seed.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

SEED, COUNT, SIDE, CLASSES = 11, 6, 16, 4


def given():
    """Maps (B, h, w) >= 0 and signed, masks, inputs (B, 1, h, w), noise (S, 1, h, w), classes, weights of a network."""
    draw = np.random.default_rng(SEED)
    signed = draw.normal(size=(COUNT, SIDE, SIDE))
    masks = np.zeros((COUNT, SIDE, SIDE), bool)
    for mask in masks:
        top, left, height, width = draw.integers(2, 7, 4)
        mask[top : top + height, left : left + width] = True
    inputs = draw.normal(size=(COUNT, 1, SIDE, SIDE)).astype(np.float32).astype(np.float64)
    noise = draw.uniform(-0.02, 0.02, size=(5, 1, SIDE, SIDE))
    weights = draw.normal(size=(CLASSES, SIDE * SIDE)) / SIDE
    return {
        "signed": signed,
        "heat": signed.clip(0) + 1e-3,
        "others": signed + draw.normal(size=signed.shape),
        "masks": masks,
        "inputs": inputs,
        "noise": noise,
        "classes": draw.integers(0, CLASSES, COUNT),
        "weights": weights,
    }


def network(weights):
    """Class scores of pictures: softmax of a linear layer of tanh."""
    import torch
    from torch import nn

    linear = nn.Linear(SIDE * SIDE, CLASSES, bias=False)
    linear.weight.data = torch.from_numpy(weights)

    class Double(nn.Module):
        """Quantus makes inputs float32."""

        def forward(self, x):
            return x.double()

    return nn.Sequential(Double(), nn.Tanh(), nn.Flatten(), linear, nn.Softmax(1)).eval()


def explained(inputs, weights, classes):
    """The maps (B, 1, h, w) of that network, tanh(x) * w, which `max_sensitivity` disturbs."""
    return np.tanh(inputs) * weights[classes].reshape(-1, 1, SIDE, SIDE)


def numbers():
    import quantus
    from quantus.functions.similarity_func import correlation_spearman, ssim

    known = given()
    net, heat, signed = network(known["weights"]), known["heat"][:, None], known["signed"][:, None]
    batch = {"x_batch": known["inputs"], "y_batch": known["classes"], "s_batch": known["masks"][:, None]}
    plain = {"abs": False, "normalise": False, "disable_warnings": True}

    def ask(metric, maps, **more):
        return np.asarray(metric(model=net, a_batch=maps.copy(), device="cpu", **batch, **more), float).tolist()

    noises = iter(np.concatenate([known["noise"]] * 2))
    sensitivity = quantus.MaxSensitivity(
        nr_samples=len(known["noise"]),
        perturb_func=lambda arr, indices, **_: arr + next(noises).reshape(1, -1),
        **plain,
    )
    return {
        "pointing": ask(quantus.PointingGame(**plain), signed),
        "mass_accuracy": ask(quantus.RelevanceMassAccuracy(**plain), heat),
        "mass_accuracy of signed maps": ask(quantus.RelevanceMassAccuracy(**plain), signed),
        "rank_accuracy": ask(quantus.RelevanceRankAccuracy(**plain), signed),
        "gini": ask(quantus.Sparseness(**plain), heat),
        "entropy": ask(quantus.Complexity(**plain), heat),
        "deletion": ask(quantus.PixelFlipping(features_in_step=SIDE, perturb_baseline=0.0, **plain), signed),
        "max_sensitivity": ask(
            sensitivity,
            explained(known["inputs"], known["weights"], known["classes"]),
            explain_func=lambda model, inputs, targets, **_: explained(inputs, known["weights"], targets),
        ),
        "spearman": [
            correlation_spearman(a.ravel(), b.ravel()) for a, b in zip(known["signed"], known["others"], strict=True)
        ],
        "ssim": [ssim(_unit(a), _unit(b)) for a, b in zip(known["signed"], known["others"], strict=True)],
    }


def _unit(values):
    return (values - values.min()) / (values.max() - values.min())


def main():
    found = {
        "versions": {name: version(name) for name in ("quantus", "numpy", "scipy", "scikit-image", "torch")},
        "seed": SEED,
        "numbers": numbers(),
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
