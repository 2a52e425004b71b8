"""The test of a region: changes equal to those of the audit's functions, and a sentence that they allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camscope.app.region_effect import sentence
from camscope.cohort.fill_ins import FILL_INS
from camscope.cohort.regions import at_input
from camscope.images import decode

MASK = {"height": 6, "width": 8, "runs": [10, 2, 18, 2]}


def filled(effect, elsewhere, words="a blur"):
    return {"words": words, "change": effect, "elsewhere": elsewhere}


def log_odds(model, x):
    with torch.inference_mode():
        return float(model.log_odds(model.net(torch.from_numpy(x)[None]).double(), 0)[0])


def test_the_change_is_that_of_the_fill_in(client, key, models, content):
    body = {"model": "effusion", "picture": key, "mask": MASK, "fill_ins": ["impute", "blur", "mean"], "places": 5}
    answer = client.post("/api/region", json=body).json()
    model = models["effusion"]
    tensor, window = model.preprocess(decode(content, "a.png"))
    mask = np.zeros((6, 8), bool)
    mask[1, 2:4] = mask[2, 2:4] = True
    region, x = at_input(mask, window.resized((6, 8)), (128, 128)), tensor.numpy()
    assert answer["before"] == pytest.approx(log_odds(model, x), abs=1e-4)
    assert answer["share"] == pytest.approx(4 / 48, abs=0.01)
    for one in answer["fill_ins"]:
        edited = FILL_INS[one["fill_in"]](x, region, seed=0, mean=x.mean(axis=(1, 2)))
        assert one["after"] == pytest.approx(log_odds(model, edited), abs=1e-4)
        assert one["change"] == pytest.approx(one["after"] - answer["before"])
        assert len(one["elsewhere"]) == 5
    assert answer["label"] == "Effusion"


def test_patches_elsewhere_are_different_and_repeat_with_the_seed(client, key):
    body = {"model": "effusion", "picture": key, "mask": MASK, "fill_ins": ["mean"]}
    first, again = (client.post("/api/region", json=body).json()["fill_ins"][0]["elsewhere"] for _ in range(2))
    assert first == again
    assert len(first) == 20
    assert len(set(first)) > 15
    assert client.post("/api/region", json=body | {"seed": 9}).json()["fill_ins"][0]["elsewhere"] != first


@pytest.mark.parametrize(
    ("runs", "words"),
    [([], "must cover some"), ([0, 48], "leave some"), ([1], "odd"), ([47, 2], "beyond"), ([100, 1], "beyond")],
)
def test_regions_that_cannot_be_tested(client, key, runs, words):
    body = {"model": "effusion", "picture": key, "mask": MASK | {"runs": runs}}
    answer = client.post("/api/region", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_a_region_without_room_elsewhere_says_so(client, key):
    body = {"model": "effusion", "picture": key, "mask": MASK | {"runs": [0, 40]}}
    answer = client.post("/api/region", json=body).json()
    assert answer["fill_ins"][0]["elsewhere"] == []
    assert "no other place" in answer["sentence"]


def test_the_sentence_claims_only_what_the_ranks_allow():
    calm, wild = [0.1, -0.1] * 10, [3.0, -3.0] * 10
    assert "depends on this region more" in sentence("Effusion, left", [filled(-2.0, calm), filled(-1.5, calm)])
    assert "does not show" in sentence("Effusion", [filled(-2.0, wild), filled(-2.0, wild)])
    assert "do not agree" in sentence("Effusion", [filled(-2.0, calm), filled(-2.0, wild)])
    assert "do not agree" in sentence("Effusion", [filled(-2.0, calm), filled(2.0, calm)])
    assert "too few" in sentence("Effusion", [filled(-2.0, calm[:5])])
    assert "only 1 patch " in sentence("Effusion", [filled(-2.0, calm[:1])])
    one_as_large = [*calm[:19], -2.5]
    assert "1 of 20" in sentence("Effusion", [filled(-2.0, one_as_large)])
    assert "does not show" in sentence("Effusion", [filled(-2.0, one_as_large)])
