import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from camscope.audit.null_maps import MapRecipe, nulls
from camscope.audit.nulls import random_cam
from camscope.audit.selftest import self_test
from camscope.models.model import Model


def model(head=()):
    torch.manual_seed(0)
    net = nn.Sequential(
        *[nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Linear(8, 2)],
    ).eval()
    return Model("tiny", net, layer="4")


def test_random_cam_is_a_random_sum_of_channels():
    A = torch.randn(3, 5, 4, 4)
    found = random_cam(A, seed=0)
    weights = torch.linalg.lstsq(A.flatten(2).mT.double(), found.flatten(1)[:, :, None].double()).solution
    assert (weights.abs() <= 1).all()
    assert weights.std() > 0.1
    assert torch.equal(found, random_cam(A, seed=0))


def test_nulls_of_regions(subjects):
    sample = [s for s in subjects if s.truth and "cue:token" in s.masks]
    one = model()
    found, maps, forwards = nulls(
        one,
        MapRecipe(1, "4", "gradcam", {}),
        sample,
        grids=torch.rand(len(sample), 6, 6).double().numpy(),
        regions=("border:0.25", "cue:token"),
        seeds=2,
        seed=0,
    )
    assert forwards == len(sample) * (2 + 1 + 1)
    assert set(maps) == {"random weights", "random CAM"}
    assert all(m.shape == (6, 6) and abs(m.mean() - 1) < 1e-6 for m in maps.values())
    ring, cue = found["border:0.25"], found["cue:token"]
    assert len(ring.random_weights) == len(ring.random_cam) == 2
    assert ring.mean_map != ring.mean_map, "a ring is the same on every picture: other patients' maps are no null"
    assert 0 < cue.mean_map < 3
    assert ring.frame > 0
    assert ring.content > 0
    assert cue.frame != cue.frame


def test_self_tests_of_heads():
    x = torch.randn(4, 1, 24, 24)
    pooled = self_test(model(), 1, x)
    assert pooled.grid == (6, 6)
    assert pooled.gradcam_is_hirescam < 1e-5
    assert pooled.completeness < 1e-4
    assert pooled.level_lost != pooled.level_lost
    assert len(pooled.cascade) == 5
    assert all(-1 <= r <= 1 for r in pooled.cascade)
    assert pooled.forwards == 4 * 6
    normed = self_test(model([nn.LayerNorm(8)]), 1, x)
    assert normed.level_lost < 1e-3
    assert normed.completeness != normed.completeness
    assert "only differences between positions" in normed.sentence


def test_maps_of_the_logit_and_of_the_log_odds_are_compared():
    x = torch.randn(4, 1, 24, 24)
    softmax = self_test(model(), 1, x)
    assert -1 <= softmax.log_odds_map <= 1
    assert "the log-odds, the score of the audit" in softmax.sentence
    sigmoids = self_test(dataclasses.replace(model(), outcome="any"), 1, x)
    assert math.isnan(sigmoids.log_odds_map)
    assert "log-odds" not in sigmoids.sentence
    net = copy.deepcopy(model().net)
    with torch.no_grad():  # an opposite logit for the other class: the log-odds are twice the logit
        net[-1].weight[0], net[-1].bias[0] = -net[-1].weight[1], -net[-1].bias[1]
    assert self_test(dataclasses.replace(model(), net=net), 1, x).log_odds_map == pytest.approx(1)
