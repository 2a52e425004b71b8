import numpy as np
import pytest
from torch import nn
from torchvision import transforms

import camscope as cs

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
RANDOM = np.random.default_rng(0)


def model_of(**more):
    return cs.Model("mine", NET, preprocess=cs.Preprocess((32, 32), **more))


def uniform(e):
    return [note for note in e.notes if "same value" in note]


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_one_value_is_said_to_be_one(channels, fit, value):
    picture = np.full((40, 60, channels), value, np.uint8)
    assert len(uniform(cs.explain(model_of(fit=fit), picture))) == 1
    picture[0:, 30:] = 255 - value
    assert not uniform(cs.explain(model_of(fit=fit), picture))


def test_only_the_part_that_the_network_sees_counts():
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, :20] = 255
    assert uniform(cs.explain(model_of(fit="crop"), picture))
    assert not uniform(cs.explain(model_of(fit="squash"), picture))


def test_an_input_of_one_value_is_told_from_a_picture_of_one_value():
    dark = transforms.Compose(
        [transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Lambda(lambda x: x.round())]
    )
    picture = RANDOM.integers(0, 50, (40, 60, 3), np.uint8)
    (note,) = uniform(cs.explain(NET, picture, preprocess=dark))
    assert "its preprocessing leaves nothing" in note


def test_more_than_three_channels_are_shown_by_the_first_three():
    net = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pixels = RANDOM.random((40, 60, 6), np.float32)
    e = cs.explain(net, pixels, preprocess=cs.Preprocess((32, 32), (0.5,) * 6, (0.5,) * 6))
    assert any("6 channels, of which the first three are shown" in note for note in e.notes)
    np.testing.assert_array_equal(e.picture.rgb, np.rint(pixels[..., :3] * 255).astype(np.uint8))
    assert e.overlay().size == (60, 40)


@pytest.mark.parametrize(("shift", "dark"), [(0, True), (1, True), (4, False)])
def test_12_bits_in_16_are_said_to_be_nearly_black(shift, dark):
    values = RANDOM.integers(0, 4096, (40, 60)).astype(np.uint16) << shift
    notes = cs.explain(model_of(), values).notes
    assert any("nearly black" in note for note in notes) == dark
