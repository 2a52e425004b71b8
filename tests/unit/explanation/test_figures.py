"""Sheets of one map: its layers and its steps."""

import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import LayerError, MethodError, PictureError
from camscope.explanation import figures
from camscope.methods import METHODS
from camscope.methods.weights import channel_weights
from camscope.trace import record

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("name", ["gradcam", "fasterscorecam", "finercam"])
def test_the_weights_of_the_steps_make_the_map(net, name):
    trace = record(net, torch.rand(1, 3, 20, 20), layers=["2"]).trace("2", [lambda scores: scores[1]])
    raw, weights = channel_weights(METHODS[name], trace)
    assert weights.shape == (16,)
    torch.testing.assert_close(torch.einsum("k,khw->hw", weights, trace.activations[0]), raw[0])


@pytest.mark.parametrize("name", ["augmented(gradcam)", "eigensmoothed(gradcam)", "fused(gradcam)", "rise"])
def test_a_map_that_is_no_sum_of_channels_has_no_steps(net, name):
    with pytest.raises(MethodError, match=r"the map of .* is not a weighted sum of a layer's channels"):
        cs.steps(net, PICTURE, method=name)


def test_the_steps_of_a_joint_map_need_one_layer():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (
                nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
                for _ in "ab"
            )

        def forward(self, x):
            return self.a(x) + self.b(x)

    with pytest.raises(LayerError, match="name one of them"):
        cs.steps(Two(), PICTURE)
    assert cs.steps(Two(), PICTURE, layer="a.1").width > 800


def test_a_setting_of_the_method_reaches_the_steps(net):
    e, _ = figures.steps_of_map(cs.load(net), PICTURE, method="finercam", alpha=0.5)
    assert (e.method, e.repeat["settings"]) == ("finercam", {"alpha": 0.5})


def test_empty_maps_of_the_layers_sheet_say_why(net):
    with torch.no_grad():
        quiet = nn.Sequential(*net, nn.Linear(3, 3))
        quiet[6].weight.zero_()
    maps = figures.layer_maps(cs.load(quiet), PICTURE, layers=["0", "2"], method="gradcam")
    assert all(e.why_empty.startswith("the map is") for e in maps)
    captions = []
    drawn = figures.sheet
    try:
        figures.sheet = lambda rows, **more: captions.extend(cell.caption for row in rows for cell in row)
        figures.layer_sheet(maps, title="net")
    finally:
        figures.sheet = drawn
    assert all(e.why_empty in caption for e, caption in zip(maps, captions[1:], strict=True))


def test_a_setting_is_recorded_by_the_methods_that_have_it(net):
    first, second = cs.explain_all(net, [PICTURE], methods=["gradcam", "finercam"], alpha=0.5)
    assert (first.repeat["settings"], second.repeat["settings"]) == ({}, {"alpha": 0.5})


@pytest.mark.parametrize("function", [cs.explain, cs.layers, lambda net, several: cs.compare([net], several)])
def test_several_images_are_for_explain_all(net, function):
    with pytest.raises(PictureError, match=r"several images to explain_all\(\)"):
        function(net, [PICTURE, PICTURE])
