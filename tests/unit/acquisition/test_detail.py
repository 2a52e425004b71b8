import io

import numpy as np
import pytest
from PIL import Image

from camscope.acquisition.detail import (
    measure_jpeg,
    measure_noise,
    measure_resolution,
    measure_sharpness,
    transfer_jpeg,
    transfer_noise,
    transfer_resolution,
)
from camscope.images.picture import Picture
from camscope.phantoms.radiograph import phantom


@pytest.fixture(scope="module")
def radiograph():
    return phantom(3, view="PA", findings=(), token=False, shot=0, size=(256, 256)).picture


@pytest.mark.parametrize("quality", [8, 10, 12, 37, 50, 63, 75, 88, 90])
def test_the_quality_of_a_jpeg_is_found_in_its_pixels(radiograph, quality):
    file = io.BytesIO()
    Image.fromarray(np.rint(radiograph.pixels[..., 0] * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    decoded = Picture(np.asarray(Image.open(file), np.float32)[..., None] / 255)
    assert measure_jpeg(decoded)[0] == pytest.approx(quality, abs=1)
    assert measure_jpeg(radiograph)[0] == 100
    np.testing.assert_array_equal(transfer_jpeg(decoded, np.array([30.0]), np.array([90.0])), decoded.pixels)


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1])
def test_the_standard_deviation_of_noise_is_measured(sigma):
    rows = np.linspace(0.3, 0.7, 200)[:, None, None] * np.ones((1, 200, 1))
    noise = sigma * np.random.default_rng(0).standard_normal((200, 200, 1))
    picture = Picture((rows + noise).astype(np.float32))
    assert measure_noise(picture)[0] == pytest.approx(sigma, rel=0.05)
    less = transfer_noise(picture, measure_noise(picture), np.array([sigma / 3]))
    assert measure_noise(Picture(less))[0] == pytest.approx(sigma / 3, rel=0.25)


def test_noise_differs_from_picture_to_picture_and_not_from_call_to_call():
    pictures = [Picture(np.full((40, 40, 1), value, np.float32)) for value in (0.4, 0.5)]
    first, second = (transfer_noise(p, np.array([0.0]), np.array([0.1])) - p.pixels for p in pictures)
    again = transfer_noise(pictures[0], np.array([0.0]), np.array([0.1])) - pictures[0].pixels
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def test_resolution_is_lowered_and_never_raised(radiograph):
    own = measure_resolution(radiograph)
    assert own[0] == 256
    assert transfer_resolution(radiograph, own, own / 4).shape == (64, 64, 1)
    assert transfer_resolution(radiograph, own, own * 2).shape == (256, 256, 1)


def test_the_spectrum_of_a_wave_has_its_peak_at_its_frequency():
    wave = 0.5 + 0.2 * np.sin(2 * np.pi * 40 * np.arange(256) / 256)
    picture = Picture(np.tile(wave[None, :, None], (256, 1, 1)).astype(np.float32))
    assert int(np.argmax(measure_sharpness(picture))) + 1 == 40
