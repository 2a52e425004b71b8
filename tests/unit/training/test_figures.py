"""Figures of the training report."""

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from camscope.models.model import Model
from camscope.training import figures
from camscope.training.evaluate import Predictions
from camscope.training.figures import confusion_picture

LONG = ("Enlarged cardiomediastinum, left side, of unknown origin", "Support devices, including every pacemaker")
COUNTS = np.array([[[1, 0], [0, 1]], [[1, 1], [0, 0]]])


def test_titles_of_matrices_do_not_meet_and_an_empty_row_says_so(monkeypatch):
    shown = Predictions(Model("m", nn.Linear(1, 2), labels=LONG, outcome="any"), (), COUNTS, COUNTS, {})
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    confusion_picture(shown, COUNTS, most=2)
    figure = drawn.pop()
    figure.draw_without_rendering()
    titles = [max((ax._left_title, ax.title), key=lambda text: len(text.get_text())) for ax in figure.axes]
    assert titles[0].get_text().replace("\n", " ") == LONG[0]
    assert titles[0].get_window_extent().x1 < titles[1].get_window_extent().x0
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert ["no images" in names for names in texts] == [False, True]
    confusion_picture(shown, COUNTS, most=1)
    assert drawn[0].get_suptitle() == "the first 1 of 2 labels"


def test_a_row_without_images_has_no_rates():
    drawn = figures._confusion("Confusion matrix", np.array([[3, 1], [0, 0]]), ("cat", "dog"), name="c")
    assert drawn.rows == [("cat", "3 (75%)", "1 (25%)"), ("dog", "no images", "no images")]
