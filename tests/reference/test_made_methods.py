"""Methods made from methods, and metrics made from parts, derived again in NumPy."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from camscope.explanation import cam
from camscope.methods import META, METHODS
from camscope.metrics import METRICS


@pytest.mark.parametrize("name", [*METHODS, *META, *METRICS])
def test_each_method_and_metric_is_derived_again_in_this_folder(name):
    texts = (path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert any(re.search(rf"""["'(\[]{name}\b""", text) for text in texts)


def network():
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 5, 3, 2), nn.Tanh(), nn.Conv2d(5, 7, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(7 * 25, 4)).double().eval()


def gradcam_parts(net, x, index):
    """(B, K, h, w) channels of the sum that Grad-CAM is, by the chain rule of the last linear layer."""
    with torch.no_grad():
        activations = net[:4](x).numpy()
    gradients = net[5].weight[index].detach().numpy().reshape(activations.shape[1:])
    return activations * gradients.mean((1, 2))[None, :, None, None]


def test_augmented():
    net, x = network(), torch.randn(3, 2, 15, 15, dtype=torch.float64)
    views = []
    for scale in (0.9, 1.0, 1.1):
        views.append(gradcam_parts(net, x * scale, 2).sum(1))
        views.append(gradcam_parts(net, x.flip(-1) * scale, 2).sum(1)[..., ::-1])
    ours = cam(net, x, method="augmented(gradcam)", layer="3", targets=2)
    np.testing.assert_allclose(ours.numpy(), np.mean(views, 0), rtol=1e-10, atol=1e-12)


def test_eigensmoothed():
    net, x = network(), torch.randn(3, 2, 15, 15, dtype=torch.float64)
    parts = gradcam_parts(net, x, 2)
    expected = []
    for one in parts:
        cells = one.reshape(len(one), -1).T
        values, vectors = np.linalg.eigh(cells.T @ cells)
        projection = cells @ vectors[:, values.argmax()]
        projection *= np.sign(projection @ cells.sum(1))
        expected.append(projection.reshape(one.shape[1:]))
    ours = cam(net, x, method="eigensmoothed(gradcam)", layer="3", targets=2)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_image_swap():
    rng = np.random.default_rng(0)
    maps, others = rng.normal(size=(2, 4, 5, 6))
    maps[0, :2] = 0.5  # ties
    expected = [scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, others, strict=True)]
    ours = METRICS["image_swap"](torch.from_numpy(maps), torch.from_numpy(others))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_adcc():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3, 2, 8, 8))
    weights = rng.normal(size=(2, 8, 8))

    def explain(x):
        return (x * torch.from_numpy(weights)).sum(1)

    def score(x, rows):
        return (x * torch.from_numpy(weights)).sum((1, 2, 3)).sigmoid()

    expected = []
    for image in inputs:
        heat = np.maximum((image * weights).sum(0), 0)
        scaled = (heat - heat.min()) / (heat.max() - heat.min())
        kept = image * scaled
        again = np.maximum((kept * weights).sum(0), 0)
        coherency = (1 + np.corrcoef(heat.ravel(), again.ravel())[0, 1]) / 2
        before, after = (1 / (1 + np.exp(-(one * weights).sum())) for one in (image, kept))
        drop = max(0.0, before - after) / before
        expected.append(3 / (1 / coherency + 1 / (1 - scaled.mean()) + 1 / (1 - drop)))
    ours = METRICS["adcc"](explain, torch.from_numpy(inputs), score)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)
