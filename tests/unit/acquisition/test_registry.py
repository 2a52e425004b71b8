import numpy as np
import pytest
from scipy import ndimage

from camscope.acquisition import PROPERTIES
from camscope.images.picture import Picture


def make_picture(seed, *, size=(120, 90), channels=1, bits=8, **changes):
    """A smooth field with fine structure in [0.2, 0.8], or whatever one of the changes makes of it."""
    draw = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(draw.standard_normal(size), 9)
    field = 0.5 + 0.1 * field / field.std() + 0.02 * draw.standard_normal(size)
    field = changes.get("make", lambda values: values)(field)
    pixels = np.repeat(field.clip(0, 1)[..., None], channels, axis=2).astype(np.float32)
    return Picture(np.rint(pixels * 255).astype(np.float32) / np.float32(255), bits=bits)


def framed(values):
    inner = values.copy()
    inner[:12], inner[-12:], inner[:, :9], inner[:, -9:] = 0, 0, 0, 0
    return inner


def marked(values):
    inner = 0.5 * values
    inner[6:14, 6:10] = 1
    return inner


OTHERS = {
    "brightness": make_picture(1, make=lambda v: v + 0.15),
    "contrast": make_picture(1, make=lambda v: 0.5 + (v - 0.5) * 0.4),
    "inversion": make_picture(0, make=lambda v: 1 - v),
    "sharpness": make_picture(1, make=lambda v: ndimage.gaussian_filter(v, 2)),
    "noise": make_picture(1, make=lambda v: v + 0.08 * np.random.default_rng(5).standard_normal(v.shape)),
    "jpeg": PROPERTIES["jpeg"].set(make_picture(1), np.array([100.0]), np.array([20.0])),
    "resolution": make_picture(1, size=(60, 45)),
    "aspect": make_picture(1, size=(90, 90)),
    "frame": make_picture(1, make=framed),
    "marks": make_picture(1, make=marked),
    "style": make_picture(1, make=lambda v: v + np.linspace(-0.15, 0.15, v.shape[1])),
}


def test_every_property_has_a_picture_that_differs():
    assert set(OTHERS) == set(PROPERTIES)


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_setting_a_property_moves_its_value_to_that_of_the_other_picture(name, channels):
    item, picture = PROPERTIES[name], make_picture(0, channels=channels)
    traits = [item.measure(picture), item.measure(OTHERS[name])]
    (own, other), values = item.compare(traits)
    changed = item.set(picture, own, other)
    reached = item.compare([*traits, item.measure(changed)])[1]
    assert values[0] != values[1]
    assert abs(reached[2] - reached[1]) < 0.35 * abs(reached[0] - reached[1])
    assert changed.channels == channels
    assert changed.pixels.min() >= 0
    assert changed.pixels.max() <= 1
    np.testing.assert_allclose(changed.pixels * 255, np.rint(changed.pixels * 255), atol=1e-3)


@pytest.mark.parametrize("name", PROPERTIES)
def test_its_own_property_leaves_a_picture_as_it_is(name):
    item = PROPERTIES[name]
    for picture in (make_picture(0), make_picture(0, channels=3), OTHERS[name], make_picture(2, bits=16)):
        own = item.compare([item.measure(picture)])[0][0]
        np.testing.assert_allclose(item.set(picture, own, own).pixels, picture.pixels, atol=0.5 / 255)


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 31)])
def test_pictures_without_structure_are_measured_and_set(name, value, size):
    item, picture = PROPERTIES[name], Picture(np.full((*size, 1), value, np.float32))
    traits = [item.measure(picture), item.measure(OTHERS[name])]
    (own, other), values = item.compare(traits)
    assert np.isfinite(values).all()
    for changed in (item.set(picture, own, other), item.set(OTHERS[name], other, own)):
        assert np.isfinite(changed.pixels).all()
        assert changed.pixels.size
