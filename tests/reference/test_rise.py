"""RISE, from its paper: with masks drawn here, and on scores whose map can be told beforehand."""

import math

import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import SettingError


class Linear(nn.Module):
    """Scores <w, x> and the same with 100 added."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        score = (x * self.weights).flatten(1).sum(1)
        return torch.stack([score, score + 100], 1)


def masks_of_the_paper(count, *, size, cells, kept):
    """Cells seen with a probability, resized to a cell more than the image, cut out at a random place."""
    side = math.ceil(size / cells)
    grids = (torch.rand(count, 1, cells, cells) < kept).double()
    large = nn.functional.interpolate(grids, size=[(cells + 1) * side] * 2, mode="bilinear")[:, 0]
    starts = torch.randint(side, (count, 2)).tolist()
    return torch.stack([m[top : top + size, left : left + size] for m, (top, left) in zip(large, starts, strict=True)])


@pytest.mark.parametrize("kept", [0.3, 0.5])
def test_the_map_of_a_linear_score_is_the_covariance_of_the_masks(kept):
    torch.manual_seed(0)
    net, x = Linear(torch.randn(1, 12, 12).double()), torch.randn(1, 1, 12, 12).double()
    shares = (net.weights * x[0]).detach()[0].flatten()
    masks = masks_of_the_paper(20_000, size=12, cells=4, kept=kept).flatten(1)
    expected = (shares @ torch.cov(masks.T)) / kept
    actual = cs.cam(net, x, method="rise", targets=0, masks=20_000, cells=4, kept=kept, chunk=4000)[0].flatten()
    assert torch.corrcoef(torch.stack([expected, actual]))[0, 1] > 0.99
    assert float((actual - expected).abs().mean() / expected.abs().mean()) < 0.1


def test_a_constant_of_the_score_changes_nothing():
    torch.manual_seed(0)
    net, x = Linear(torch.randn(1, 12, 12).double()), torch.randn(1, 1, 12, 12).double()
    one, other = cs.cams(net, x, method="rise", targets=[[0, 1]], masks=200, cells=4)[0]
    torch.testing.assert_close(one, other)


def test_the_same_in_a_batch_alone_and_in_chunks_and_other_masks_with_another_seed(make_net, pictures):
    net, x = make_net("plain"), pictures(3, 2, 12, 12)
    together = cs.cam(net, x, method="rise", targets=1, masks=60, cells=3)
    alone = cs.cam(net, x[1:2], method="rise", targets=1, masks=60, cells=3, chunk=7)
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.allclose(cs.cam(net, x, method="rise", targets=1, masks=60, cells=3, seed=1), together)


@pytest.mark.parametrize("space", [(9, 20), (6, 9, 12)])
def test_it_finds_a_patch_in_pictures_that_are_not_square_and_in_volumes(space):
    weights = torch.zeros(1, *space).double()
    weights[(..., *(slice(0, n // 3) for n in space))] = 1
    heat = cs.cam(Linear(weights), torch.ones(1, 1, *space).double(), method="rise", targets=0, masks=800, cells=3)[0]
    inside = weights[0] > 0
    assert heat.shape == space
    assert heat[inside].mean() > 3 * heat[~inside].abs().mean()


@pytest.mark.parametrize("settings", [{"masks": 1}, {"cells": 13}, {"cells": 0}, {"kept": 0.0}, {"kept": 1.0}])
def test_settings_that_make_no_masks_are_refused(settings):
    with pytest.raises(SettingError, match="is not possible: it takes 2 masks or more, 1 to 12 cells"):
        cs.cam(Linear(torch.ones(1, 12, 12)), torch.ones(1, 1, 12, 12), method="rise", targets=0, **settings)
