"""Methods that see the whole network, through cam(), cams() and explain()."""

import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import MethodError, SettingError


@pytest.fixture
def model(make_net):
    net = make_net("pooled", torch.float32)
    return cs.Model("pooled", net, preprocess=cs.Preprocess(input_size=(32, 32)), labels=tuple("abcde"))


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def test_results_say_what_was_looked_at(model, picture):
    methods = ["gradcam", "fullgrad", "guidedbackprop", "guidedgradcam", "refinecam", "occlusion", "augmented(gradcam)"]
    es = list(cs.explain_all(model, [picture, picture], methods=methods, targets=["b", "d"], batch_size=2))
    assert [e.method for e in es] == [m for m in methods for _ in range(2)] * 2
    looked = {e.method: e.layer for e in es}
    assert looked == {
        "gradcam": "5", "fullgrad": "whole network", "guidedbackprop": "input", "guidedgradcam": "5",
        "refinecam": "whole network", "occlusion": "input", "augmented(gradcam)": "5",
    }  # fmt: skip
    assert all(e.heatmap.shape == (48, 64) for e in es)
    assert {e.method: e.grid.shape for e in es}["occlusion"] == (32, 32)
    scores = {(e.label, round(e.score, 6)) for e in es}
    assert len(scores) == 2
    one = cs.explain(model, picture, method="fullgrad", target="d")
    same = next(e for e in es if e.method == "fullgrad" and e.label == "d")
    np.testing.assert_allclose(one.heatmap, same.heatmap, rtol=1e-5)


def test_layer_and_layers(model, picture):
    assert cs.explain(model, picture, method="guidedgradcam", layer="2").layer == "2"
    assert cs.explain(model, picture, method="refinecam", layers=["2", "5"]).layer == "2, 5"
    assert cs.explain(model, picture, method="fullgrad", layer="2").layer == "whole network"
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(MethodError, match="fullgrad sees the whole network and takes no layer="):
        cs.cam(model.net, x, method="fullgrad", layer="2")
    with pytest.raises(MethodError, match="fullgrad has no differentiable map"):
        cs.cam(model.net, x, method="fullgrad", differentiable=True)


def test_a_function_of_the_whole_network_is_a_method(model, picture, pictures):
    def norms(net, inputs, targets, *, factor=1.0):
        assert len(targets) == len(inputs)
        return factor * inputs.norm(dim=1)

    x = pictures(2, 3, 32, 32, dtype=torch.float32)
    torch.testing.assert_close(cs.cam(model.net, x, method=norms, factor=2.0), 2 * x.norm(dim=1))
    e = cs.explain(model, picture, method=norms, factor=3.0)
    assert (e.method, e.layer) == ("norms", "whole network")
    with pytest.raises(SettingError, match="no setting called 'samples'"):
        cs.explain(model, picture, method=norms, samples=4)


def test_networks_without_a_layer_to_explain_can_still_be_explained_whole(pictures):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    for method in ("fullgrad", "guidedbackprop", "occlusion"):
        assert cs.cam(net, pictures(1, 3, 4, 4), method=method, targets=1).shape == (1, 4, 4)


def test_a_score_without_a_gradient_by_the_picture_is_said(pictures):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                x = self.conv(x).relu()
            return self.fc(x.mean((2, 3)))

    net, x = Cut().double(), pictures(1, 3, 8, 8)
    for method in ("fullgrad", "guidedbackprop"):
        with pytest.raises(MethodError, match="has no gradient by its input"):
            cs.cam(net, x, method=method, targets=1)


def test_empty_maps_and_class_agnostic_methods_are_noted(model, picture, make_net):
    with torch.no_grad():
        model.net[-1].weight.zero_()
    (note,) = cs.explain(model, picture, method="fullgrad", target="b").notes
    assert note.startswith("the map is flat")
    vit = cs.Model("vit", make_net("small vit", torch.float32), preprocess=cs.Preprocess(input_size=(64, 64)))
    for method in ("rollout", "augmented(rollout)"):
        assert any("class-agnostic" in note for note in cs.explain(vit, picture, method=method).notes)
