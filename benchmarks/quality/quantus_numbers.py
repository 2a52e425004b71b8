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
HIDDEN = 8  # units of the network whose weights become random
PERCENTAGES = (12.5, 25, 50, 75)


def given():
    """Maps (B, h, w) >= 0 and signed, masks, inputs (B, 1, h, w), noise (S, 1, h, w), classes, weights of networks."""
    draw = np.random.default_rng(SEED)
    signed = draw.normal(size=(COUNT, SIDE, SIDE))
    masks = np.zeros((COUNT, SIDE, SIDE), bool)
    for mask in masks:
        top, left, height, width = draw.integers(2, 7, 4)
        mask[top : top + height, left : left + width] = True
    inputs = draw.normal(size=(COUNT, 1, SIDE, SIDE)).astype(np.float32).astype(np.float64)
    noise = draw.uniform(-0.02, 0.02, size=(5, 1, SIDE, SIDE))
    weights = draw.normal(size=(CLASSES, SIDE * SIDE)) / SIDE
    sizes = [(HIDDEN, SIDE * SIDE), (HIDDEN, HIDDEN), (CLASSES, HIDDEN)]
    others = signed + draw.normal(size=signed.shape)
    classes = draw.integers(0, CLASSES, COUNT)
    layers = [draw.normal(size=(2, *size)) / size[1] ** 0.5 for size in sizes]
    return {
        "signed": signed,
        "heat": signed.clip(0) + 1e-3,
        "others": others,
        "masks": masks,
        "inputs": inputs,
        "noise": noise,
        "classes": classes,
        "weights": weights,
        "layers": layers,
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


def deep(layers):
    """Three layers; each starts anew with weights that are given as well, so that chance has no part in it."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, trained, anew):
            super().__init__()
            self.weight, self.anew = nn.Parameter(torch.from_numpy(trained)), torch.from_numpy(anew)

        def reset_parameters(self):
            self.weight.data = self.anew.clone()

        def forward(self, x):
            return x.double().flatten(1) @ self.weight.T

    first, second, third = (Layer(*pair) for pair in layers)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), third).eval()


def gradients(net, inputs, classes):
    """The maps (B, 1, h, w) of a network: input times gradient."""
    import torch

    x = torch.as_tensor(inputs, dtype=torch.float64).requires_grad_()
    score = net(x).gather(1, torch.as_tensor(classes)[:, None]).sum()
    return (x * torch.autograd.grad(score, x)[0]).detach().numpy()


def explained(inputs, weights, classes):
    """The maps (B, 1, h, w) of that network, tanh(x) * w, which `max_sensitivity` disturbs."""
    return np.tanh(inputs) * weights[classes].reshape(-1, 1, SIDE, SIDE)


def numbers():
    import quantus
    import torch
    from quantus.functions.perturb_func import noisy_linear_imputation
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
    with torch.no_grad():
        predicted = net(torch.from_numpy(known["inputs"])).argmax(1).numpy()
    unmasked = [np.flatnonzero(~mask) for mask in known["masks"][:2]]
    remove = quantus.ROAD(percentages=list(PERCENTAGES), noise=0.0, perturb_func_kwargs={"noise": 0.0}, **plain)
    of_two = known["classes"] % 2
    more = {"model": deep(known["layers"]), "x_batch": known["inputs"], "y_batch": known["classes"], "device": "cpu"}
    anew = gradients(more["model"], known["inputs"], known["classes"])

    def randomised(order):
        test = quantus.MPRT(similarity_func=correlation_spearman, layer_order=order, **plain)
        found = test(
            **more, a_batch=anew, explain_func=lambda model, inputs, targets, **_: gradients(model, inputs, targets)
        )
        return [values for layer, values in found.items() if layer != "original"]

    return {
        "imputation": [
            noisy_linear_imputation(x, hole, noise=0.0).tolist()
            for x, hole in zip(known["inputs"][:2], unmasked, strict=True)
        ],
        "road": list(
            remove(model=net, x_batch=known["inputs"], y_batch=predicted, a_batch=signed, device="cpu").values()
        ),
        "logit_randomisation": np.asarray(
            quantus.RandomLogit(similarity_func=correlation_spearman, num_classes=2, **plain)(
                model=net,
                x_batch=known["inputs"],
                y_batch=of_two,
                a_batch=explained(known["inputs"], known["weights"], of_two),
                explain_func=lambda model, inputs, targets, **_: explained(inputs, known["weights"], targets),
                device="cpu",
            )
        ).tolist(),
        "cascade": randomised("top_down"),
        "independent": randomised("independent"),
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
