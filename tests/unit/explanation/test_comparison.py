"""Comparisons of models on one image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import camscope as cs
from camscope.errors import SettingError
from camscope.explanation.comparison import _heading

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)


def network(*bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net[4].bias.data = torch.tensor(bias)
    return cs.load(net, labels=["cat", "dog", "cow"])


MODELS = [network(9.0, 5.0, 0.0), network(9.0, 0.0, 5.0), network(0.0, 9.0, 5.0)]


def test_different_predicted_classes_are_told():
    found = cs.compare([MODELS[0], MODELS[2]], PICTURE, targets="top2")
    (note,) = found.notes
    assert "Sequential, 1: cat; Sequential, 2: dog" in note
    assert found.to_dict()["notes"] == [note]
    assert [_heading(cells) for cells in zip(*found.columns, strict=True)] == [
        "gradcam: class 1 of each model (differs)",
        "gradcam: class 2 of each model (differs)",
    ]


def test_one_class_needs_no_note():
    assert cs.compare(MODELS, PICTURE, targets="cat").notes == ()
    found = cs.compare(MODELS[:2], PICTURE)
    assert found.notes == ()
    assert [_heading(cells) for cells in zip(*found.columns, strict=True)] == ["gradcam: cat"]


def test_a_comparison_is_saved_and_shown(tmp_path):
    found = cs.compare(MODELS, PICTURE)
    for suffix in ("png", "jpg", "pdf"):
        path = found.save(tmp_path / "new" / f"sheet.{suffix}")
        assert path.stat().st_size > 1000
    assert Image.open(tmp_path / "new" / "sheet.png").size == found.sheet().size
    assert found._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(SettingError, match=r"ends in \.png"):
        found.save(tmp_path / "sheet")
