"""Sheets of training images."""

import numpy as np
import pytest
import torch

from camscope.images import Picture
from camscope.models.preprocess import Preprocess
from camscope.render import Cell
from camscope.training import samples
from camscope.training.dataset import read_dataset
from camscope.training.samples import as_image, sample_sheet


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_an_input_is_shown_as_the_image_that_it_was_made_of(order):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.float32) / 255
    preprocess = Preprocess(input_size=(8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.1, 0.3), order=order, fit="squash")
    x, _ = preprocess(Picture(pixels))
    assert np.abs(np.asarray(as_image(x, preprocess)) / 255 - pixels).max() < 0.003


def test_an_input_of_many_channels_is_shown_as_their_mean():
    preprocess = Preprocess(mean=(0.0,) * 5, std=(1.0,) * 5)
    x = torch.arange(5.0).view(5, 1, 1).expand(5, 4, 4) / 4
    assert np.unique(np.asarray(as_image(x, preprocess))).tolist() == [128]


def test_a_label_without_a_training_image_has_a_row_that_says_so(table, monkeypatch):
    rows = [{"patient": n, "Mass": 1, "Hernia": int(n == 3), "split": ("train", "test")[n == 3]} for n in range(4)]
    drawn = {}

    def sheet(rows, *, row_headings, title, **_):
        drawn.update(rows=rows, headings=row_headings, title=title)

    monkeypatch.setattr(samples, "sheet", sheet)
    sample_sheet(read_dataset(table(rows)))
    assert list(drawn["headings"]) == ["Mass", "Hernia"]
    assert [len(cells) for cells in drawn["rows"]] == [3, 1]
    assert drawn["rows"][1] == [Cell(None, "no training image")]
    monkeypatch.setattr(samples, "MOST_LABELS", 1)
    sample_sheet(read_dataset(table(rows)))
    assert drawn["title"] == "the first 1 of 2 labels"
