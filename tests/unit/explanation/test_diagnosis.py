import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs

PICTURE = np.random.default_rng(0).integers(50, 250, (32, 32, 3), np.uint8)


def explained(net, layer="0", **more):
    preprocess = cs.Preprocess(input_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    return cs.explain(cs.Model("net", net, preprocess=preprocess), PICTURE, layer=layer, **more)


def pooled(weight, *, cells=None, last=None):
    """Conv with positive outputs, global average pooling, and one weight for all channels."""
    conv = nn.Conv2d(3, 4, 3, 2)
    conv.weight.data = torch.rand_like(conv.weight)
    head = nn.Linear(4, 2)
    head.weight.data.fill_(weight)
    parts = [conv, cells, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head, last]
    return nn.Sequential(*[part for part in parts if part is not None])


def test_all_negative():
    torch.manual_seed(0)
    e = explained(pooled(-1.0), target=0)
    assert (e.heatmap == 0).all()
    assert e.notes[0].startswith("the map is empty: no value is positive (-")


class Same(nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True).expand_as(x)


def test_flat():
    e = explained(pooled(1.0, cells=Same()), layer="1", target=0)
    assert e.notes[0].startswith("the map is flat: every cell has the value")


class Poison(nn.Module):
    def forward(self, x):
        return x * torch.where(x > x.mean(), torch.nan, 1.0)


def test_not_a_number_names_the_first_module():
    e = explained(pooled(1.0, cells=Poison()), layer="1", target=0)
    assert "first returned by module '1'" in e.notes[0]
    assert np.isfinite(e.heatmap).all()


class Saturated(nn.Module):
    def forward(self, x):
        return torch.tanh(1e4 * x)


def test_saturated_score():
    e = explained(pooled(1.0, last=Saturated()), target=0)
    assert "saturated" in e.notes[0]


class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = nn.Conv2d(3, 4, 3, 2)

    def forward(self, x):
        self.seen(x)
        return x.mean((2, 3))


def test_target_independent_of_the_layer():
    e = explained(Blind(), layer="seen", target=0)
    assert "does not depend on layer 'seen'" in e.notes[0]


@pytest.mark.parametrize(
    ("last", "said"),
    [(nn.Softmax(1), "before the final softmax"), (nn.LogSoftmax(1), "before the final log-softmax")],
)
def test_a_bypassed_end_is_said(last, said):
    net = pooled(1.0)
    plain, ended = explained(net, target=0), explained(nn.Sequential(*net, last), target=0)
    assert said in ended.notes[0]
    np.testing.assert_array_equal(plain.grid, ended.grid)


def test_class_agnostic_methods_say_so():
    assert any("class-agnostic" in note for note in explained(pooled(1.0), method="eigencam", target=0).notes)


def test_a_good_map_needs_no_notes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 256, 2))
    assert explained(net, layer="1").notes == ()
