import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import SettingError
from camscope.evaluation.sanity import Sanity, sanity
from camscope.models.model import Model
from camscope.models.preprocess import Preprocess


@pytest.fixture
def model():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)).eval()
    with torch.no_grad():  # directions beyond those of random weights, as training adds them
        net[0].weight += 0.3 * torch.randn(8, 1, 1, 1) * torch.randn(1, 3, 3, 3)
        net[3].weight += 0.3 * torch.randn(12, 1, 1, 1) * torch.randn(1, 8, 3, 3)
    return Model("tiny", net, preprocess=Preprocess(input_size=(48, 48)), layer="4")


@pytest.fixture
def pictures():
    return list(np.random.default_rng(0).random((4, 48, 48, 3)))


def test_one_line(model, pictures, snapshot):
    before = snapshot(model.net)
    found = cs.sanity(model, pictures, method="gradcam", networks=3)
    assert snapshot(model.net) == before
    assert (found.method, found.layer, found.pictures) == ("gradcam", "4", 4)
    assert len(found.shares) == len(found.spearman) == len(found.ssim) == 5
    assert found.shares[-1] == 1
    assert all(-1 <= r <= 1 for r in (*found.spearman, *found.ssim))
    assert ("passed" if found.passed else "failed") in found.sentence
    assert f"{found.spearman[-1]:.2f} at 100%" in found.sentence
    assert found == cs.sanity(model, pictures, method="gradcam", networks=3)
    assert found != cs.sanity(model, pictures, method="gradcam", networks=3, seed=7)


def test_a_method_that_ignores_the_weights_fails(model, pictures):
    """The brightness of the image is no explanation of a network."""

    def brightness(net, inputs, targets):
        return inputs.sum(1)

    found = sanity(model, pictures, method=brightness)
    assert found.spearman == pytest.approx((1,) * 5)
    assert not found.passed
    assert found.layer == ""


def test_a_method_that_depends_on_the_weights_alone_passes(model, pictures):
    """A map out of the bits of the last layer's weights becomes another with them."""

    def lottery(net, inputs, targets):
        seed = int(net[-1].weight.detach().double().sum().abs() * 1e12) % 2**31
        return torch.rand(len(inputs), 20, 20, generator=torch.Generator().manual_seed(seed))

    found = sanity(model, pictures, method=lottery)
    assert found.passed
    assert max(map(abs, found.spearman[1:])) < 0.2


def test_the_classes_are_those_of_the_trained_network(model, pictures):
    seen = []

    def watching(net, inputs, targets):
        seen.append([int(target(torch.arange(3.0))) for target in targets])
        return inputs.sum(1)

    inputs = torch.stack([model.preprocess(cs.Picture(p.astype(np.float32)))[0] for p in pictures])
    with torch.no_grad():
        top = model.net(inputs).argmax(1).tolist()
    sanity(model, pictures, method=watching)
    assert seen == [top] * (1 + 2 * 5)


def test_what_is_not_possible(model, pictures):
    with pytest.raises(SettingError, match="at least one"):
        sanity(model, [])
    with pytest.raises(SettingError, match="one target"):
        sanity(model, pictures, target="top2")


def test_verdicts_follow_the_rule():
    def found(*curve):
        return Sanity("gradcam", "4", 8, (0.2, 0.4, 0.6, 0.8, 1.0), curve, (0.0,) * 5)

    assert found(1.0, 0.8, 0.4, 0.2, 0.0).passed
    assert not found(1.0, 0.8, 0.6, 0.2, 0.0).passed
    assert "must stay below 0.5" in found(1.0, 0.8, 0.6, 0.2, 0.0).sentence


def test_an_untrained_network_cannot_tell(pictures):
    model = cs.load("timm:test_resnet", weights="none")
    found = cs.sanity(model, pictures, networks=1)
    assert found.untrained
    assert not found.passed
    assert "cannot tell: the network's own weights look random, as before training" in found.sentence
