import numpy as np
import pytest
import torch
import torch.nn.functional as F
from held_out_phantoms import HeldOut, pointing, token_aucs
from sklearn.metrics import roc_auc_score
from train_phantom_models import fit, new_model, share_outside, train

from camscope import cam
from camscope.models.loading import load
from camscope.phantoms.cohort import BUNDLES, pictures_and_masks, plan_training


def as_input(pictures):
    return (torch.from_numpy(pictures)[:, None].float() / 255 - 0.5) / 0.25


@pytest.mark.parametrize("finding", ["Nodule", "Effusion"])
def test_training_again_gives_the_same_model(finding):
    first, again = (train(finding, pictures=32, epochs=1, seed=3) for _ in range(2))
    assert first.digest == again.digest
    assert first.facts == again.facts
    assert first.facts["training"]["masks_shown"] == (finding == "Effusion")
    assert train(finding, pictures=32, epochs=1, seed=4).digest != first.digest


def test_masks_alternate_with_empty_ones():
    cases = plan_training("Effusion", seed=5, pictures=8)
    pictures, masks = pictures_and_masks(cases, "Effusion", side=64)
    assert pictures.shape == masks.shape == (8, 64, 64)
    assert masks[::2].any(axis=(1, 2)).all()
    assert not masks[1::2].any()
    assert np.array_equal(masks[2], cases[2].phantom((64, 64)).masks["Effusion"])


def test_share_outside_is_that_of_the_map():
    net = new_model("Effusion").net
    torch.manual_seed(0)
    x, masks = torch.randn(6, 1, 64, 64), torch.rand(6, 64, 64) > 0.7
    features = net.forward_features(x)
    share = share_outside(features, net.forward_head(features)[:, 0], masks=masks)
    for number, heat in enumerate(cam(net, x, targets=0).relu()):
        large = F.interpolate(heat[None, None], (64, 64), mode="bilinear")[0, 0]
        expected = large[~masks[number]].sum() / large.sum() if heat.any() else torch.tensor(1.0)
        assert share[number].item() == pytest.approx(expected.item(), abs=1e-3)
    share.sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in net.stages.parameters())


def test_training_learns_and_leaves_the_settings_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    pictures, masks = pictures_and_masks(plan_training("Cardiomegaly", seed=5, pictures=128), "Cardiomegaly", side=64)
    shares = []
    for guide in (None, masks):
        net = new_model("Cardiomegaly").net
        fit(net, pictures, seed=0, epochs=6, guide=guide)
        assert not net.training
        features = net.forward_features(as_input(pictures))
        logits = net.forward_head(features)[:, 0]
        assert roc_auc_score(np.arange(128) % 2 == 0, logits.detach()) > 0.8
        shares.append(share_outside(features, logits, masks=torch.from_numpy(masks))[::2].mean().item())
    assert shares[1] < shares[0] - 0.2
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize("finding", ["Effusion", "Pneumothorax"])
def test_training_again_gives_the_shipped_model(finding):
    """Bit by bit on a processor of the same kind; elsewhere sums are rounded otherwise, and the figures must agree."""
    shipped, again, tests = load(BUNDLES / finding.lower()), train(finding), HeldOut.make(0)
    assert again.facts["training"] == shipped.facts["training"]
    assert token_aucs(again, tests) == pytest.approx(shipped.facts["test"]["auc"], abs=0.02)
    assert pointing(again, tests) == pytest.approx(shipped.facts["test"]["pointing"], abs=0.1)
