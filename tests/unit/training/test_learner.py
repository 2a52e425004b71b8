"""Metrics of the validation set after each epoch."""

import numpy as np
import pytest
import torch

from camscope.training.learner import ValidationMetrics


def figures(probabilities, truth, *, one):
    metrics = ValidationMetrics(one=one)
    for rows in ([0, 1], [2, 3]):
        metrics.update(torch.tensor(probabilities, dtype=torch.float64)[rows], torch.tensor(truth)[rows])
    return {name: round(value.item(), 4) for name, value in metrics.compute().items()}


def test_metrics_of_one_of_several_classes():
    p, truth = [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]], np.eye(3)[[0, 1, 1, 0]]
    # AUC .5 and 1, F1 1/2 and 2/3; no image is of the third class, so that neither is defined.
    assert figures(p, truth, one=True) == {"val_auc": 0.75, "val_f1": 0.5833, "val_accuracy": 0.5}


def test_unknown_truth_is_left_out():
    p, truth = [[0.9, 0.2], [0.4, 0.6], [0.7, 0.9], [0.1, 0.1]], [[1, 0], [1, np.nan], [0, 1], [np.nan, 0]]
    assert figures(p, truth, one=False) == {
        "val_auc": 0.75,
        "val_f1": 0.75,
        "val_accuracy": pytest.approx(4 / 6, abs=1e-4),
    }


def test_rounding_is_no_ranking_and_a_label_without_an_image_has_no_metric():
    p = 0.5 + 1e-8 * np.arange(4)[:, None]
    assert figures(p, [[0.0], [0.0], [1.0], [1.0]], one=False)["val_auc"] == 0.5
    assert figures(p, np.zeros((4, 1)), one=False) == {"val_accuracy": 0.0}
