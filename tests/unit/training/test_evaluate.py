import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camscope.cohort.case import Case
from camscope.errors import OutputError, SettingError
from camscope.models.model import Model
from camscope.models.preprocess import Preprocess
from camscope.page.words import interval
from camscope.training import report
from camscope.training.dataset import read_dataset
from camscope.training.evaluate import Predictions, calibration, confusion, judge, predict, write_predictions
from camscope.training.failures import ExplainedFailure, find_failures, worst


def predictions(probabilities, truth, *, outcome="one", patients=None):
    truth = np.array(truth, float)
    names = [f"{n}.png" for n in range(len(truth))]
    patients = patients or names
    cases = tuple(Case(i, 0, n, n, p) for i, (n, p) in enumerate(zip(names, patients, strict=True)))
    labels = ("a", "b", "c")[: truth.shape[1]]
    model = Model("hand-made", nn.Linear(1, truth.shape[1]), labels=labels, outcome=outcome)
    return Predictions(model, cases, np.array(probabilities, float), truth, {})


ONE = predictions(
    [[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]],
    [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]],
)
ANY = predictions([[0.9, 0.2], [0.4, 0.6], [0.7, 0.9]], [[1, 0], [1, np.nan], [0, 1]], outcome="any")


def test_figures_of_one_of_several_classes_by_hand():
    found = judge(ONE)
    assert found["accuracy"]["estimate"] == 0.5
    assert confusion(ONE).tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert found["labels"]["b"]["sensitivity"]["estimate"] == pytest.approx(1 / 3)
    assert found["labels"]["b"]["f1"]["estimate"] == pytest.approx(0.5)
    assert found["labels"]["a"]["auc"]["estimate"] == 1
    assert found["labels"]["c"]["auc"]["estimate"] is None
    assert found["f1"]["estimate"] == pytest.approx((2 / 3 + 0.5) / 2)  # no image has c


def test_figures_of_any_number_of_labels_leave_the_unknown_out():
    found = judge(ANY)
    assert found["labels"]["b"]["present"] + found["labels"]["b"]["absent"] == 2
    assert confusion(ANY).tolist() == [[[0, 1], [1, 1]], [[1, 0], [0, 1]]]
    assert found["accuracy"]["estimate"] == pytest.approx((1 + 0 + 0.5) / 3)


def test_an_interval_counts_patients_and_not_pictures():
    rows = [[0.9, 0.1], [0.1, 0.9]] * 40
    right = [[1, 0], [0, 1]] * 20 + [[1, 0], [1, 0]] * 20
    alone = judge(predictions(rows, right))["accuracy"]
    shared = judge(predictions(rows, right, patients=[f"P{n // 10}" for n in range(80)]))["accuracy"]
    assert alone["estimate"] == shared["estimate"]
    assert shared["high"] - shared["low"] > 1.2 * (alone["high"] - alone["low"])


def test_perfection_on_few_patients_is_no_certainty():
    perfect = judge(predictions([[0.9, 0.1], [0.1, 0.9]] * 3, [[1, 0], [0, 1]] * 3))
    assert perfect["accuracy"]["low"] == pytest.approx(0.541, abs=1e-3)
    assert perfect["f1"] == {"low": None, "high": None, "estimate": 1.0, "reason": "resampling cannot change 1"}


def test_a_label_without_an_image_is_not_defined_and_left_out_of_the_mean():
    found = judge(predictions([[0.9, 0.2], [0.4, 0.6], [0.7, 0.1]], [[1, 0], [1, 0], [0, 0]], outcome="any"))
    undefined = {"low": None, "high": None, "estimate": None, "reason": "no image with the label"}
    b = found["labels"]["b"]
    assert [b[name] for name in ("auc", "f1", "sensitivity")] == [undefined] * 3
    assert b["specificity"]["estimate"] == pytest.approx(2 / 3)
    assert found["f1"]["estimate"] == found["labels"]["a"]["f1"]["estimate"] == 0.5
    assert found["notes"] == ["No image has b: F1 and AUC are not defined, and macro F1 is the mean of 1 of 2 labels."]
    assert interval(b["f1"]) == "undefined (no image with the label)"


@pytest.mark.parametrize("outcome", ["one", "any"])
def test_a_model_that_cannot_tell_images_apart_has_no_ranking(class_folders, tmp_path, outcome):
    """Outputs that differ by rounding alone are ties in the metrics and in the table."""

    class Constant(nn.Module):
        def forward(self, x):
            order = torch.arange(2) * 2e-7 + 0.2
            return order + 3e-7 * x.mean((1, 2, 3))[:, None].sign() * torch.tensor([1, -1])

    model = Model("tiny", Constant(), labels=("cat", "dog"), outcome=outcome, preprocess=Preprocess(input_size=(8, 8)))
    data = read_dataset(class_folders(3)).for_model(model)
    for n, case in enumerate(data.cases):
        Image.new("L", (8, 8), 255 * (n < 3)).save(case.source)
    found = predict(model, data.cases)
    assert judge(found)["labels"]["cat"]["auc"]["estimate"] == 0.5
    assert judge(found)["notes"] == ["The outputs are the same for all images."]
    rows = csv.DictReader(write_predictions(found, tmp_path).open(encoding="utf-8"))
    assert len({row["p:cat"] for row in rows}) == 1


def test_predictions_keep_the_order_of_certain_answers(tmp_path):
    certain = predictions([[1 - 1e-9, 1e-9], [1 - 1e-12, 1e-12]], [[1, 0], [0, 1]])
    rows = csv.DictReader(write_predictions(certain, tmp_path).open(encoding="utf-8"))
    assert [float(row["p:b"]) for row in rows] == [1e-9, 1e-12]


def test_calibration_bins_by_hand():
    bins = calibration(ONE)
    assert [(b.pictures, b.said, b.found) for b in bins] == [(1, 0.6, 0), (1, 0.7, 1), (1, 0.8, 0), (1, 0.9, 1)]
    assert judge(ONE)["ece"] == pytest.approx((0.6 + 0.3 + 0.8 + 0.1) / 4)


def test_failures_are_ordered_by_certainty_with_both_sides_named():
    found = [(f.number, f.kind, f.label, f.said, f.true, f.certainty) for f in find_failures(ONE)]
    assert found == [
        (3, "false negative", "b", "c", "b", 0.8),
        (3, "false positive", "c", "c", "b", 0.8),
        (2, "false positive", "a", "a", "b", 0.6),
        (2, "false negative", "b", "a", "b", 0.6),
    ]
    any_ = [(f.number, f.kind, f.label, f.said, f.true) for f in find_failures(ANY)]
    assert any_ == [(2, "false positive", "a", "a", "no a"), (1, "false negative", "a", "no a", "a")]
    assert [f.number for f in worst(find_failures(ONE), ONE.model, most=1)] == [2, 3, 3]


def test_the_worst_failure_is_drawn_with_the_method_of_the_report(monkeypatch, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    failure = find_failures(ONE)[0]
    answer = SimpleNamespace(index=2, source=str(tmp_path / "0.png"))
    methods = []

    def drawn(*_, method, **__):
        methods.append(method)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(report, "layers", drawn)
    report._worst_sheet(ONE, [ExplainedFailure(failure, answer, answer)], method="layercam")
    assert methods == ["layercam"]


def test_every_picture_is_predicted_or_says_why(class_folders, tmp_path):
    folder = class_folders(2)
    (folder / "cat/1.png").write_bytes(b"damaged")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model = Model("tiny", net, labels=("cat", "dog"), preprocess=Preprocess(input_size=(8, 8), mean=(0.5,), std=(1.0,)))
    data = read_dataset(folder).for_model(model)
    found = predict(model, data.cases, batch_size=2)
    assert (len(found.cases), list(found.failed)) == (3, ["cat/1.png"])
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    with write_predictions(found, Path(tmp_path)).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert "cat/1.png" in rows[-1]["problem"]


def test_a_model_without_a_score_per_class_cannot_be_judged(class_folders):
    net, preprocess = nn.Conv2d(1, 2, 1), Preprocess(input_size=(8, 8), mean=(0.5,), std=(1.0,))
    for outcome in ("one", "boxes"):
        model = Model("tiny", net, labels=("cat", "dog"), outcome=outcome, preprocess=preprocess)
        with pytest.raises(OutputError, match="one score per class is needed"):
            predict(model, read_dataset(class_folders(1)).cases)


def test_a_model_of_values_cannot_be_judged():
    model = Model("values", nn.Linear(1, 1), outcome="value")
    with pytest.raises(SettingError, match="gives values"):
        predict(model, [])
