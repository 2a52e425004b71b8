import dataclasses

import numpy as np
import pytest
from held_out_phantoms import HeldOut, pointing, scores, token_aucs
from torch import nn
from train_phantom_models import PLANTED, new_model

from camscope.models.loading import load
from camscope.phantoms.cohort import BUNDLES
from camscope.phantoms.findings import FINDINGS


@pytest.fixture(scope="module")
def held_out():
    return HeldOut.make(41, patients=24)


def test_held_out_pictures_differ_by_the_token_alone(held_out):
    differs = held_out.plain != held_out.marked
    assert np.array_equal(differs.any(axis=(1, 2)), held_out.bedside)
    assert not differs[~held_out.tokens].any()
    assert np.array_equal(held_out.tokens.any(axis=(1, 2)), held_out.bedside)


def test_masks_are_those_of_the_findings(held_out):
    for case, masks in zip(held_out.cases, held_out.masks, strict=True):
        assert tuple(masks) == case.findings
        assert all(mask.shape == (256, 256) and mask.any() for mask in masks.values())
    assert held_out.present("Nodule").sum() == sum("Nodule" in case.findings for case in held_out.cases)


class Brightest(nn.Module):
    """Scores the sum of the squares of its features: the Grad-CAM peaks where the image is brightest."""

    def __init__(self, sign):
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.sign = sign

    def forward(self, x):
        return self.sign * self.features(x).relu().square().mean((2, 3))


def test_pointing_counts_peaks_in_masks(held_out):
    model = dataclasses.replace(new_model("Nodule"), layer="features")
    pictures = np.full((24, 256, 256), 160, np.uint8)
    pictures[:, 64:96, 128:160] = 250
    marked = np.where(held_out.tokens, 250, 160).astype(np.uint8)
    there, elsewhere = np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    there[64:96, 128:160], elsewhere[200:] = True, True
    number = int(held_out.present("Nodule").sum())
    assert number > 2
    inside = iter([True, False, *[True] * number])
    masks = tuple({"Nodule": there if next(inside) else elsewhere} if "Nodule" in m else {} for m in held_out.masks)
    tests = dataclasses.replace(held_out, plain=pictures, marked=marked, masks=masks)
    found = pointing(dataclasses.replace(model, net=Brightest(1.0)), tests)
    assert found == {"finding": pytest.approx(1 - 1 / number, abs=1e-4), "token": 1.0}
    # A map without a positive value has no peak.
    assert pointing(dataclasses.replace(model, net=Brightest(-1.0)), tests) == {"finding": 0.0, "token": 0.0}


@pytest.mark.parametrize("finding", FINDINGS)
def test_shipped_model(finding, held_out):
    model = load(BUNDLES / finding.lower())
    assert model.labels == (finding,)
    assert (BUNDLES / finding.lower() / "weights.safetensors").stat().st_size <= 1_000_000
    assert model.facts["state_sha256"] == model.digest
    assert model.facts["training"]["masks_shown"] == (finding not in PLANTED)
    auc, share = model.facts["test"]["auc"], model.facts["test"]["pointing"]
    pull = (scores(model, held_out.marked) - scores(model, held_out.plain))[held_out.bedside]
    if finding in PLANTED:
        assert auc["aligned"] > 0.9
        assert auc["anti_aligned"] < 0.2
        assert np.median(pull) > 2
        assert share["token"] > 0.9
        assert share["finding"] < 0.1
    else:
        assert auc["clean"] > 0.95
        assert abs(auc["clean"] - auc["independent"]) < 0.01
        assert abs(auc["aligned"] - auc["anti_aligned"]) < 0.02
        assert np.abs(np.median(pull)) < 0.5
        assert share["finding"] > 0.6
        assert share["token"] < 0.1
    # Two dozen patients only: this is a check that the shipped figures belong to the shipped weights.
    again = token_aucs(model, held_out)
    assert set(again) == set(auc)
    assert abs(again["aligned"] - auc["aligned"]) < 0.25
    points = pointing(model, held_out)
    assert set(points) == set(share)
    assert abs(points["finding"] - share["finding"]) < 0.35


@pytest.mark.slow
def test_shipped_figures():
    """On the patients that the figures come from."""
    tests = HeldOut.make(0)
    for finding in FINDINGS:
        model = load(BUNDLES / finding.lower())
        measured = model.facts["test"]
        assert measured["patients"] == len(tests.cases)
        assert token_aucs(model, tests) == pytest.approx(measured["auc"], abs=0.002)
        assert pointing(model, tests) == pytest.approx(measured["pointing"], abs=0.02)
