import numpy as np
import pytest
import torch

from camscope.demo.cohort import BUNDLES, plan_training
from camscope.demo.findings import FINDINGS
from camscope.demo.training import PLANTED, HeldOut, auc, fit, grey_bytes, new_model, scores, token_aucs, train
from camscope.models.loading import load


def test_auc_against_counting():
    draw = np.random.default_rng(0)
    logits, present = draw.integers(0, 6, 60).astype(float), draw.random(60) < 0.4
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in logits[present] for b in logits[~present]]
    assert auc(logits, present) == pytest.approx(np.mean(won))


def test_training_again_gives_the_same_model():
    first, again = (train("Nodule", pictures=32, epochs=1, seed=3) for _ in range(2))
    assert first.digest == again.digest
    assert first.facts == again.facts
    assert train("Nodule", pictures=32, epochs=1, seed=4).digest != first.digest


def test_training_learns_and_leaves_the_settings_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    cases = plan_training("Cardiomegaly", seed=5, pictures=128)
    pictures = np.stack([grey_bytes(case, 64) for case in cases])
    model = new_model("Cardiomegaly")
    fit(model.net, pictures, seed=0, epochs=6)
    assert not model.net.training
    inputs = (torch.from_numpy(pictures)[:, None].float() / 255 - 0.5) / 0.25
    with torch.inference_mode():
        logits = model.net(inputs)[:, 0].numpy()
    assert auc(logits, np.arange(128) % 2 == 0) > 0.8
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def held_out():
    return HeldOut.make(41, patients=24)


def test_held_out_pictures_differ_by_the_token_alone(held_out):
    bedside = np.array([case.view == "AP" for case in held_out.cases])
    differs = (held_out.plain != held_out.marked).any(axis=(1, 2))
    assert np.array_equal(differs, bedside)


@pytest.mark.parametrize("finding", FINDINGS)
def test_shipped_model(finding, held_out):
    model = load(BUNDLES / finding.lower())
    assert model.labels == (finding,)
    assert (BUNDLES / finding.lower() / "weights.safetensors").stat().st_size <= 1_000_000
    measured = model.facts["test"]["auc"]
    assert model.facts["state_sha256"] == model.digest
    bedside = np.array([case.view == "AP" for case in held_out.cases])
    pull = (scores(model, held_out.marked) - scores(model, held_out.plain))[bedside]
    if finding in PLANTED:
        assert measured["aligned"] > 0.9
        assert measured["anti_aligned"] < 0.2
        assert np.median(pull) > 2
    else:
        assert measured["clean"] > 0.9
        assert abs(measured["clean"] - measured["independent"]) < 0.02
        assert np.abs(np.median(pull)) < 0.5
    again = token_aucs(model, held_out)
    assert set(again) == set(measured)
    # Two dozen patients only: this is a check that the shipped figures belong to the shipped weights.
    assert abs(again["aligned"] - measured["aligned"]) < 0.25
