"""Segmentation networks of segmentation_models_pytorch, with planted marks."""

import numpy as np
import pytest
import torch
from torch import nn

from camscope import explain
from camscope.errors import ModelError, SettingError
from camscope.models.loading import load


def unet(**options):
    return load("smp:unet/resnet18", **{"weights": "none", "input_size": 64, **options})


@pytest.fixture(scope="module")
def image():
    pixels = (100 + 30 * np.random.default_rng(0).random((64, 64, 3))).astype(np.uint8)
    pixels[8:24, 40:56] = (250, 20, 20)
    return pixels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file of weights of a U-Net that finds red squares."""
    torch.manual_seed(0)
    model = unet()
    optimiser = torch.optim.AdamW(model.net.parameters(), 2e-3)
    model.net.train()
    for _ in range(60):
        x, masks = 0.3 * torch.randn(8, 3, 64, 64), torch.zeros(8, 64, 64)
        for i, (top, left) in enumerate(torch.randint(48, (8, 2)).tolist()):
            x[i, 0, top : top + 16, left : left + 16] += 3
            masks[i, top : top + 16, left : left + 16] = 1
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model.net(x)[:, 1], masks).backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("smp") / "unet.pth"
    torch.save(model.net.model.state_dict(), path)
    return path


@pytest.mark.slow
def test_maps_of_a_unet_find_a_planted_mark(trained, image):
    model = load("smp:unet/resnet18", weights=trained, input_size=64, mean=[0.45], std=[0.2])
    assert model.labels == ("background", "foreground")
    e = explain(model, image, layer="model.decoder")
    inside = np.zeros((64, 64), bool)
    inside[8:24, 40:56] = True
    assert e.label == "foreground"
    assert e.heatmap[inside].mean() > 3 * e.heatmap[~inside].mean()
    at = explain(model, image, target="foreground@36,4,60,28", method="occlusion", window=16)
    assert at.heatmap[inside].mean() > 3 * at.heatmap[~inside].mean()


def test_what_is_assumed_is_said(tmp_path):
    torch.save(unet().net.model.state_dict(), tmp_path / "unet.pth")
    with pytest.warns(UserWarning, match="do not say how images were normalised in training"):
        load("smp:unet/resnet18", weights=tmp_path / "unet.pth")


def test_classes_labels_channels_and_options(image):
    model = unet(labels=["rest", "liver", "spleen"])
    assert (model.labels, model.recipe.classes, model.outcome) == (("rest", "liver", "spleen"), 3, "one")
    assert model.net(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    assert unet(classes=1, labels=["rest", "tumour"]).labels == ("rest", "tumour")
    grey = unet(options={"in_channels": 1, "decoder_channels": [32, 16, 16, 8, 8]})
    assert grey.preprocess.channels == 1
    assert explain(grey, image, target=1, method="occlusion", window=32).grid.shape == (64, 64)
    assert load("smp:fpn/mobilenet_v2", weights="none").preprocess.input_size == (512, 512)


def test_one_class_is_two_maps():
    maps = unet().net(torch.randn(2, 3, 64, 64))
    assert maps.shape == (2, 2, 64, 64)
    assert torch.equal(maps[:, 0], -maps[:, 1])


def test_a_bundle(tmp_path):
    for model in (unet(), unet(labels=["a", "b"])):
        again = load(model.save(tmp_path / f"{len(model.labels)}{model.recipe.classes}"))
        assert (again.digest, again.labels) == (model.digest, model.labels)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("smp:unet/resnet18", {"weights": "default"}, "has no published weights: pass weights=FILE"),
        ("smp:unett/resnet18", {}, "no architecture of smp called 'unett'; nearest: 'unet'"),
        ("smp:unet", {}, "expected ARCHITECTURE/ENCODER"),
        ("smp:unet/resnet19", {}, "no encoder of smp called 'resnet19'; nearest: 'resnet18'"),
        ("smp:unet/resnet18", {"options": {"decoder_chanels": [1]}}, "no option of unet called 'decoder_chanels'"),
        ("smp:unet/resnet18", {"options": {"encoder_weights": "imagenet"}}, "encoder_weights is not for options"),
        ("smp:unet/resnet18", {"labels": ["tumour"]}, "give two labels, the background first"),
    ],
)
def test_what_cannot_be_made_is_said(spec, options, message):
    with pytest.raises((ModelError, SettingError), match=message):
        load(spec, **{"weights": "none", **options})
