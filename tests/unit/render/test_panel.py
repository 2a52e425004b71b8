"""A page that is readable whatever is put on it."""

import numpy as np
import pytest
from PIL import ImageDraw

from camscope.errors import SettingError
from camscope.images import Picture, Window
from camscope.render import colour_bar, colourise, panel
from camscope.render.panel import _labels

FACTS = {"score": "12.3", "probability": "98 %", "model": "timm:resnet18", "method": "gradcam", "layer": "layer4"}
SIZES = [(1, 1), (32, 32), (224, 300), (3000, 2000), (40, 1000), (1000, 40)]


def page(size, **options):
    height, width = size
    values = np.linspace(0, 1, height * width).reshape(size)
    picture = Picture(np.full((*size, 3), (1, 0, 1), np.float32))  # a colour that is in no map and no text
    return panel(picture, values, limits=(0, 2), title="tabby cat", facts=FACTS, **options)


def boxes(image, colour):
    """Rows and columns that hold a colour."""
    hits = (np.asarray(image) == colour).all(-1)
    return np.flatnonzero(hits.any(1)), np.flatnonzero(hits.any(0))


@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_a_page_of_readable_size(size):
    image = page(size)
    assert image.mode == "RGB"
    assert 640 <= image.width <= 1900
    assert 150 <= image.height <= 1900
    rows, columns = boxes(image, (255, 0, 255))
    shown = len(rows), len(columns)
    assert 240 < max(shown) <= 960
    assert shown[0] / shown[1] == pytest.approx(size[0] / size[1], rel=0.05)


@pytest.mark.parametrize("size", SIZES)
def test_the_border_is_empty_so_nothing_is_cut_off(size):
    image = np.asarray(page(size, notes=["word " * 500, "x" * 5000], window=None))
    for edge in (image[:6], image[-6:], image[:, :6], image[:, -6:]):
        assert (edge == 255).all()


def test_long_texts_do_not_cover_the_pictures():
    options = {"title": "a long label " * 50, "facts": {"layer": "x" * 900, "model": "m " * 900}}
    size = 64, 64
    picture = Picture(np.full((*size, 3), (1, 0, 1), np.float32))
    image = np.asarray(panel(picture, np.zeros(size), limits=(0, 0), notes=["n " * 900] * 3, **options))
    assert (image == (255, 0, 255)).all(-1).sum() == 448**2
    for edge in (image[:6], image[-6:], image[:, :6], image[:, -6:]):
        assert (edge == 255).all()


def test_the_words_of_a_page(monkeypatch):
    drawn = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *a, **k: drawn.append(a[2]) or text(*a, **k))
    page((64, 64), notes=["The score is saturated."])
    for word in ("tabby cat", *FACTS, *FACTS.values(), "original", "heatmap", "overlay", "The score is saturated."):
        assert drawn.count(word) == 1, word
    assert {"0", "0.5", "1", "1.5", "2"} <= set(drawn)


def test_what_was_not_seen_is_uncoloured_on_both_maps():
    size = 100, 100
    picture = Picture(np.full((*size, 3), (1, 0, 1), np.float32))
    whole = panel(picture, np.ones(size), limits=(0, 1))
    half = panel(picture, np.ones(size), limits=(0, 1), window=Window(size, (0, 0), (100, 50)))
    rest = panel(picture, np.ones(size), limits=(0, 1), window=Window(size, (0, 50), (100, 50)))
    magenta = [(np.asarray(image) == (255, 0, 255)).all(-1).sum() for image in (whole, half)]
    assert magenta == [400**2, 400**2 * 1.5]
    red = tuple(colourise(np.ones((1, 1)))[0, 0])
    filled = [(np.asarray(image) == red).all(-1) for image in (whole, half, rest)]
    assert filled[1].sum() == pytest.approx(filled[0].sum() / 2, rel=0.02)
    np.testing.assert_array_equal(filled[1] | filled[2], filled[0])


def test_scripts_without_glyphs_do_not_crash():
    size = 32, 32
    texts = "肺炎 العربية 😀 \udc80 \x00"
    panel(Picture(np.zeros((*size, 1), np.float32)), np.zeros(size), limits=(0, 1), title=texts, facts={"layer": texts})


def test_a_map_of_another_size_is_refused():
    with pytest.raises(SettingError, match="does not fit"):
        panel(Picture(np.zeros((32, 32, 1), np.float32)), np.zeros((7, 7)), limits=(0, 1))


# The colour bar


def test_the_bar_runs_from_the_lowest_colour_below_to_the_highest_above():
    bar = np.asarray(colour_bar((0, 1), cmap="viridis", height=300))
    np.testing.assert_array_equal(bar[0, 0], colourise(np.ones((1, 1)), "viridis")[0, 0])
    np.testing.assert_array_equal(bar[-1, 0], colourise(np.zeros((1, 1)), "viridis")[0, 0])
    assert bar.shape[0] == 300


def test_the_bar_of_an_empty_map_has_one_colour():
    bar = np.asarray(colour_bar((0, 0), height=100))
    assert (bar[:, 0] == colourise(np.zeros((1, 1)))[0, 0]).all()


@pytest.mark.parametrize("height", [1, 40, 100, 1000])
@pytest.mark.parametrize("limits", [(0, 1), (-1e-12, 3e-7), (-123456.7, 1e6), (0, 0)])
def test_labels_never_overlap(limits, height):
    bar = np.asarray(colour_bar(limits, height=height, font_size=16))
    words = bar[:, -1 - bar.shape[1] // 3 :]
    inked = (words < 128).any((1, 2)).astype(int)
    blocks = (np.diff(np.concatenate([[0], inked])) == 1).sum()
    assert 1 <= blocks <= 5
    assert height < 40 or (bar.shape[0] == max(height, 46))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 0.25, 0.5], ["0", "0.25", "0.5"]),
        ([2.5e-9, 0.00928, 0.01855, 0.02783, 0.0371], ["0", "0.00928", "0.0186", "0.0278", "0.0371"]),
        ([-0.3, 5.5e-17, 0.3], ["−0.3", "0", "0.3"]),
        ([1000.001, 1000.002], ["1000.001", "1000.002"]),
        ([0, 1.37e-6, 2.74e-6], ["0", "1.37e−6", "2.74e−6"]),
        ([0, 1.5e12], ["0", "1.5e12"]),
        ([7.123456], ["7.12"]),
    ],
)
def test_labels_are_real_values_that_differ(values, labels):
    assert _labels(np.array(values, float)) == labels
