"""Metrics against Quantus, whose numbers were computed once and stored (benchmarks/quality/quantus_numbers.py)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from camscope.metrics import METRICS, cascade, deletion_curve, independent, road_curves, spearman, ssim
from camscope.metrics.imputation import impute

HERE = Path(__file__).parent
STORED = json.loads((HERE / "quantus.json").read_text(encoding="utf-8"))
TO = 1e-6


def script():
    path = HERE.parents[1] / "benchmarks/quality/quantus_numbers.py"
    spec = importlib.util.spec_from_file_location("quantus_numbers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = script()
LAYERS = SCRIPT.given()["layers"]
GIVEN = {name: torch.from_numpy(values) for name, values in SCRIPT.given().items() if name != "layers"}


def score(inputs, rows):
    net = SCRIPT.network(GIVEN["weights"].numpy())
    return net(inputs).gather(1, GIVEN["classes"][rows, None])[:, 0]


def test_the_numbers_belong_to_these_inputs():
    assert STORED["seed"] == SCRIPT.SEED
    assert STORED["versions"]["quantus"] == "0.6.0"


@pytest.mark.parametrize(
    ("name", "maps"), [("pointing", "signed"), ("mass_accuracy", "heat"), ("rank_accuracy", "signed")]
)
def test_localisation(name, maps, close):
    close(METRICS[name](GIVEN[maps], GIVEN["masks"]), STORED["numbers"][name], to=TO)


@pytest.mark.parametrize("name", ["gini", "entropy"])
def test_complexity(name, close):
    """Quantus adds 1e-7 to each value for Gini's index, and 1e-12 inside the logarithm."""
    close(METRICS[name](GIVEN["heat"]), STORED["numbers"][name], to=TO)


def test_deletion_is_pixel_flipping_to_zero(close):
    curve = deletion_curve(GIVEN["signed"], GIVEN["inputs"], score, steps=SCRIPT.SIDE)
    close(curve.scores[:, 1:], STORED["numbers"]["deletion"], to=TO)


def test_max_sensitivity(close):
    noises = iter(GIVEN["noise"])

    def explain(inputs):
        moved = (GIVEN["inputs"] + next(noises)).numpy()
        return torch.from_numpy(SCRIPT.explained(moved, GIVEN["weights"].numpy(), GIVEN["classes"].numpy()))[:, 0]

    maps = SCRIPT.explained(*(GIVEN[name].numpy() for name in ("inputs", "weights", "classes")))[:, 0]
    ours = METRICS["max_sensitivity"](explain, GIVEN["inputs"], samples=5, maps=torch.from_numpy(maps))
    close(ours, STORED["numbers"]["max_sensitivity"], to=TO)


@pytest.mark.parametrize(("name", "function"), [("spearman", spearman), ("ssim", ssim)])
def test_comparison(name, function, close):
    close(function(GIVEN["signed"], GIVEN["others"]), STORED["numbers"][name], to=TO)


def test_imputation(close):
    removed = ~GIVEN["masks"][:2]
    close(impute(GIVEN["inputs"][:2], removed), STORED["numbers"]["imputation"], to=TO)


def test_deliberate_difference_road_is_the_mean_score_and_not_how_often_the_class_stays(close):
    """Of a score that is 1 where the class stays, ours is the accuracy of the paper and of Quantus, less 1."""
    net = SCRIPT.network(GIVEN["weights"].numpy())
    predicted = net(GIVEN["inputs"]).argmax(1)

    def stays(inputs, rows):
        return (net(inputs).argmax(1) == predicted[rows]).double()

    shares = [percentage / 100 for percentage in SCRIPT.PERCENTAGES]
    curves = road_curves(GIVEN["signed"], GIVEN["inputs"], stays, shares=shares, noise=0)
    assert len(set(STORED["numbers"]["road"])) == len(shares), "nothing to compare"
    close(1 + curves.morf.mean(0), STORED["numbers"]["road"], to=TO)


def test_logit_randomisation(close):
    """Of two classes, so that it is known which other class Quantus draws."""
    inputs, weights, classes = (GIVEN[name].numpy() for name in ("inputs", "weights", "classes"))
    maps, others = (
        torch.from_numpy(SCRIPT.explained(inputs, weights, index)[:, 0]) for index in (classes % 2, 1 - classes % 2)
    )
    close(METRICS["logit_randomisation"](maps, others), STORED["numbers"]["logit_randomisation"], to=TO)


def test_randomisation(close):
    """Its model parameter randomisation test, top down and of one layer at a time; it begins with the first layer."""

    def explain(net):
        return torch.from_numpy(SCRIPT.gradients(net, GIVEN["inputs"], GIVEN["classes"]))[:, 0]

    net, stored = SCRIPT.deep(LAYERS), STORED["numbers"]
    close(cascade(explain, net, steps=3).spearman, stored["cascade"], to=TO)
    close(METRICS["cascading_randomisation"](explain, net, steps=3), stored["cascade"][-1], to=TO)
    close(independent(explain, net, steps=3).spearman, stored["independent"][::-1], to=TO)
    close(METRICS["independent_randomisation"](explain, net, steps=3), np.mean(stored["independent"], 0), to=TO)


def test_deliberate_difference_signed_values_are_not_summed():
    """Quantus' share of a signed map leaves [0, 1]; ours is that of the heat, R(L)."""
    theirs = np.array(STORED["numbers"]["mass_accuracy of signed maps"])
    ours = METRICS["mass_accuracy"](GIVEN["signed"], GIVEN["masks"]).numpy()
    assert theirs.min() < 0
    assert theirs.max() > 1
    assert ((ours >= 0) & (ours <= 1)).all()
    heat = GIVEN["signed"].clamp_min(0)
    assert np.allclose(ours, ((heat * GIVEN["masks"]).sum((1, 2)) / heat.sum((1, 2))).numpy())
