import numpy as np
import pytest

from camscope.acquisition.outline import (
    compare_frame,
    measure_aspect,
    measure_frame,
    measure_marks,
    transfer_aspect,
    transfer_frame,
    transfer_marks,
)
from camscope.images.picture import Picture


def textured(height=100, width=80):
    return 0.3 + 0.2 * np.random.default_rng(0).random((height, width, 1), dtype=np.float32)


def test_a_frame_is_measured_and_put_around_the_content():
    bare, framed = textured(), textured()
    framed[:10], framed[-5:] = 0, 0
    (own, other), shares = compare_frame([measure_frame(Picture(bare)), measure_frame(Picture(framed))])
    assert shares == pytest.approx([0, 0.15])
    assert own[0] == 0
    assert other[:4] == pytest.approx([0.15, 0.10, 0.05, 0])
    pixels = transfer_frame(Picture(bare), own, other)
    assert measure_frame(Picture(pixels))[0] == pytest.approx(0.15, abs=0.01)
    removed = transfer_frame(Picture(framed), other, own)
    assert measure_frame(Picture(removed))[0] == 0
    assert removed.shape == framed.shape


def test_images_with_and_without_a_frame_show_the_same_content_at_the_same_size():
    bare, framed = textured(), textured()
    framed[:10], framed[-5:] = 0, 0
    (own, other), _ = compare_frame([measure_frame(Picture(bare)), measure_frame(Picture(framed))])
    for picture, trait in ((bare, own), (framed, other)):
        without, within = (transfer_frame(Picture(picture), trait, target) for target in (own, other))
        np.testing.assert_array_equal(without[10:95], bare[10:95])
        np.testing.assert_array_equal(within[10:95], bare[10:95])
        np.testing.assert_array_equal(without[:10], bare[10:20][::-1])
        assert (within[:10] == 0).all()


def test_a_single_wide_frame_hides_no_more_than_the_usual_frame():
    traits = [np.array([0.2, 0.1, 0.1, 0, 0, 0.0])] * 30 + [np.array([0.8, 0.4, 0.4, 0, 0, 0.0])]
    traits, _ = compare_frame(traits)
    pixels = transfer_frame(Picture(textured()), compare_frame([*traits, np.zeros(6)])[0][-1], traits[30])
    assert (pixels[:10] == 0).all()
    assert (pixels[10:90] > 0).all()


def test_an_image_is_extended_to_the_aspect_of_another_and_nothing_is_cut():
    picture = Picture(textured(100, 80))
    own = measure_aspect(picture)
    square, tall = (transfer_aspect(picture, own, np.array([ratio])) for ratio in (1.0, 2.0))
    assert square.shape == (100, 100, 1)
    np.testing.assert_array_equal(square[:, 10:90], picture.pixels)
    assert tall.shape == (160, 80, 1)
    np.testing.assert_array_equal(tall[30:130], picture.pixels)
    np.testing.assert_array_equal(transfer_aspect(picture, own, own), picture.pixels)


def test_a_mark_is_found_removed_and_pasted():
    bare, marked = textured(256, 256), textured(256, 256)
    marked[20:32, 210:216] = 1.0
    own, other = measure_marks(Picture(bare)), measure_marks(Picture(marked))
    assert len(own) == 0
    assert len(other) == pytest.approx(72, abs=40)
    pasted = transfer_marks(Picture(bare), own, other)
    assert pasted[22:30, 211:215].min() > 0.9
    np.testing.assert_array_equal(pasted[60:], bare[60:])
    removed = transfer_marks(Picture(marked), other, own)
    assert removed[20:32, 210:216].max() < 0.6
    np.testing.assert_array_equal(removed[60:], marked[60:])


def test_bright_tissue_in_the_middle_is_no_mark():
    picture = textured(256, 256)
    picture[120:130, 120:130] = 1.0
    assert len(measure_marks(Picture(picture))) == 0
