"""A network that looks for red, and images with a red square whose place is known."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camscope.models.model import Model
from camscope.models.preprocess import Preprocess

SIDE = 48


def network():
    """Class 1 is redness: the mean of relu(red - green); class 0 is blueness."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
        for channel, (plus, minus) in enumerate([(2, 1), (0, 1), (0, 2), (1, 0)]):
            net[0].weight[channel, plus], net[0].weight[channel, minus] = 1.0, -1.0
        net[5].weight.copy_(torch.tensor([[40.0, 0.0, 0.0, 0.0], [0.0, 40.0, 0.0, 0.0]]))
        net[5].bias.zero_()
    return net


@pytest.fixture
def model():
    size = (SIDE, SIDE)
    return Model(
        "red", network().eval(), preprocess=Preprocess(size, mean=(0.0,) * 3, std=(1.0,) * 3), labels=("blue", "red")
    )


@pytest.fixture
def folder(tmp_path):
    """Six images of four patients in pictures.csv, with boxes and masks."""
    draw = np.random.default_rng(0)
    (tmp_path / "data" / "masks").mkdir(parents=True)
    rows = []
    for k, (top, left) in enumerate([(0, 0), (0, 30), (30, 0), (30, 30), (12, 30), (6, 24)]):
        pixels = draw.integers(90, 110, (SIDE, SIDE, 3), np.uint8)
        pixels[top : top + 18, left : left + 18] = (220, 40, 40)
        Image.fromarray(pixels).save(tmp_path / "data" / f"p{k}.png")
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[top : top + 18, left : left + 18] = 255
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"p{k}.png")
        rows.append(
            {
                "path": f"p{k}.png",
                "patient": f"P{k % 4}",
                "box": f"{left},{top},{left + 18},{top + 18}",
                "mask": f"masks/p{k}.png",
                "truth": "red",
            }
        )
    with (tmp_path / "data" / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "data"
