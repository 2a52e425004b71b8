import re

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


def test_an_empty_product_of_layers_says_why():
    torch.manual_seed(0)
    net = pooled(-1.0, cells=nn.ReLU())
    e = explained(net, layer=None, method="refinecam", target=0, layers=["0", "1"], base="gradcam")
    assert not e.heatmap.any()
    assert e.notes[0].startswith("the map is empty: no place is positive in the maps of all layers")


def test_class_agnostic_methods_say_so():
    assert any("class-agnostic" in note for note in explained(pooled(1.0), method="eigencam", target=0).notes)


def test_a_good_map_needs_no_notes():
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(8 * 256, 9), nn.Tanh(), nn.Linear(9, 2)]
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU(), *head)
    assert explained(net, layer="1", method="hirescam").notes == ()


COMPLETE = re.compile(r"completeness residual (.+): .* adds up to (\S+), and the score minus the bias is (\S+)$")


@pytest.mark.parametrize("head", ["pooled", "flattened"])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "augmented(gradcam)"])
def test_the_completeness_residual_of_one_linear_layer(head, method):
    torch.manual_seed(0)
    pool = [nn.AdaptiveAvgPool2d(1)] if head == "pooled" else []
    last = nn.Linear(8 if pool else 8 * 256, 3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU(), *pool, nn.Flatten(), last)
    e = explained(net, layer="1", method=method, target=2)
    (found,) = filter(None, map(COMPLETE.fullmatch, e.notes))
    assert found[1] == "below 1e-05"
    total, level = float(found[2]), float(found[3])
    assert level == pytest.approx(e.score - float(last.bias[2]), rel=1e-3)
    assert total == pytest.approx(level, rel=1e-3)
    if method == "hirescam":
        assert total == pytest.approx(float(e.grid.sum()), rel=1e-3)


def test_a_residual_that_is_no_rounding_is_given_as_it_is():
    """The gradient is the last layer's row, but a step that autograd does not see shifts the score."""

    class Step(nn.Module):
        def forward(self, x):
            return x + 0.5 * (x > 0).float()

    torch.manual_seed(0)
    net = pooled(1.0)
    net.insert(3, Step())
    e = explained(net, target=0)
    (found,) = filter(None, map(COMPLETE.fullmatch, e.notes))
    residual, total, level = map(float, found.groups())
    assert level - total == pytest.approx(4 * 0.5, rel=1e-3)
    assert residual == pytest.approx((level - total) / level, rel=0.1)


def test_there_is_no_residual_where_the_head_bends():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 9), nn.ReLU(), nn.Linear(9, 2))
    for method in ("hirescam", "eigencam"):
        assert not any("completeness" in note for note in explained(net, layer="1", method=method).notes)


def normed():
    torch.manual_seed(0)
    norm = nn.LayerNorm(8)
    nn.init.normal_(norm.weight)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.Linear(8, 3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), nn.GELU(), *head)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
def test_a_layer_norm_after_the_pooling_makes_a_contrast_map(method):
    net = normed()
    e = explained(net, layer="1", method=method, target=2)
    (note,) = (note for note in e.notes if "contrast without a level" in note)
    own, frozen = map(float, re.search(r"adds up to (\S+), nearly .* frozennormcam's to (\S+)$", note).groups())
    assert own == pytest.approx(float(e.grid.sum()), rel=0.1)
    assert abs(own) < 0.01 * float(np.abs(e.grid).sum())
    sums = float(explained(net, layer="1", method="frozennormcam", target=2).grid.sum())
    assert frozen == pytest.approx(sums, rel=1e-3)
    assert abs(frozen) > 100 * abs(own)


def test_maps_that_are_not_grad_cams_are_no_contrast():
    for method in ("layercam", "frozennormcam", "eigencam"):
        assert not any("contrast" in note for note in explained(normed(), layer="1", method=method, target=2).notes)


class NoDerivative(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, __):
        raise RuntimeError("there is no derivative")


class Opaque(nn.Module):
    def forward(self, x):
        return NoDerivative.apply(x)


def test_a_network_without_a_derivative_can_be_explained_by_what_needs_none():
    e = explained(pooled(1.0, cells=Opaque()), method="eigencam", target=0)
    assert e.heatmap.any()
    assert not any("completeness" in note for note in e.notes)


def test_notes_are_each_pictures_own_and_no_pass_more(pictures):
    torch.manual_seed(0)
    net = pooled(1.0)
    nn.init.uniform_(net[3].weight)
    passes = []
    net.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    preprocess = cs.Preprocess(input_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = cs.Model("net", net, preprocess=preprocess)
    both = list(cs.explain_all(model, [PICTURE, PICTURE // 2], layer="0", targets=[0, 1]))
    assert passes == [2]
    alone = list(cs.explain_all(model, [PICTURE // 2], layer="0", targets=[0, 1]))
    assert [e.notes for e in both[2:]] == [e.notes for e in alone]
    assert len({e.notes for e in both}) == len(both)
