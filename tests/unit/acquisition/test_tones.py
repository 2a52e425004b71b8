import numpy as np
import pytest

from camscope.acquisition.tones import (
    compare_inversion,
    measure_brightness,
    measure_contrast,
    measure_inversion,
    transfer_brightness,
    transfer_contrast,
)
from camscope.images.picture import Picture


def ramp(low, high):
    return Picture(np.linspace(low, high, 100, dtype=np.float32).reshape(10, 10, 1))


def test_brightness_is_a_power_that_moves_the_median():
    picture = ramp(0.1, 0.7)
    brighter = Picture(transfer_brightness(picture, measure_brightness(picture), np.array([0.6])))
    assert measure_brightness(brighter)[0] == pytest.approx(0.6, abs=1e-3)
    assert (np.diff(brighter.pixels.ravel()) > 0).all()
    assert brighter.pixels.max() < 1


def test_contrast_scales_the_distances_from_the_median():
    picture = ramp(0.3, 0.7)
    own = measure_contrast(picture)
    flatter = transfer_contrast(picture, own, own / 2)
    np.testing.assert_allclose(flatter.std(), picture.pixels.std() / 2, rtol=1e-4)
    np.testing.assert_allclose(np.median(flatter), np.median(picture.pixels), atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.45])
def test_negatives_are_found_among_their_positives(share):
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40] / 40 - 0.5
    inverted = np.arange(40) < share * 40
    traits = []
    for is_negative in inverted:
        values = 0.7 - rows**2 - columns**2 + 0.05 * draw.standard_normal(rows.shape)
        traits.append(measure_inversion(Picture((1 - values if is_negative else values)[..., None].astype(np.float32))))
    np.testing.assert_array_equal(compare_inversion(traits)[1].astype(bool), inverted)


def test_pictures_with_nothing_in_common_are_not_called_inverted():
    draw = np.random.default_rng(0)
    traits = [measure_inversion(Picture(draw.random((40, 40, 1), dtype=np.float32))) for _ in range(60)]
    assert compare_inversion(traits)[1].mean() < 0.2


def test_mirrored_views_are_not_called_inverted():
    """Breasts of the left and of the right side: bright on one half, and as many of each."""
    draw = np.random.default_rng(0)
    side = np.linspace(1, 0, 64)[None] * np.sin(np.linspace(0, np.pi, 64))[:, None]
    traits = []
    for number in range(40):
        values = (side if number % 2 else side[:, ::-1]) * 0.8 + 0.05 * draw.random((64, 64))
        traits.append(measure_inversion(Picture(values[..., None].astype(np.float32))))
    assert compare_inversion(traits)[1].sum() == 0
