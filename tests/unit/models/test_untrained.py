import dataclasses

import numpy as np
import pytest
import timm
import torch

import camscope as cs
from camscope.models.sources import timm as timm_source
from camscope.models.untrained import NEW_HEAD, marked

IMAGE = np.random.default_rng(0).random((64, 64, 3), np.float32)


def test_random_weights_are_told_by_the_model_its_bundle_and_its_explanations(tmp_path):
    model = cs.load("timm:test_resnet", weights="none", labels=["a", "b"])
    assert (model.untrained, model.title) == ("random weights", "timm:test_resnet (random weights)")
    again = cs.load(model.save(tmp_path / "net"))
    assert again.title == "net (random weights)"
    e = cs.explain(again, IMAGE)
    assert any(note.startswith("random weights: ") for note in e.notes)
    assert e.to_dict()["notes"] == list(e.notes)


def test_training_ends_it():
    model = cs.load("timm:test_resnet", weights="none", labels=["a", "b"])
    head = model.net.get_classifier()
    with torch.no_grad():
        head.weight += 0.01
    assert model.untrained == ""
    assert cs.explain(model, IMAGE).notes == cs.explain(dataclasses.replace(model, facts={}), IMAGE).notes


def test_weights_from_a_file_are_not_random(tmp_path):
    model = cs.load("timm:test_resnet", weights="none", classes=2)
    torch.save(model.net.state_dict(), tmp_path / "w.pth")
    assert cs.load("timm:test_resnet", weights=tmp_path / "w.pth", classes=2).untrained == ""


@pytest.mark.parametrize(("classes", "untrained"), [(None, ""), (1000, ""), (3, "random classifier")])
def test_a_new_classifier_on_published_weights(monkeypatch, classes, untrained):
    build = timm_source._build
    monkeypatch.setattr(timm_source, "_require_published", lambda spec, cfg: None)
    monkeypatch.setattr(
        timm_source, "_build", lambda name, keywords, pretrained: build(name, keywords, pretrained=False)
    )
    model = cs.load("timm:test_resnet", classes=classes)
    assert model.untrained == untrained
    assert NEW_HEAD not in model.facts


def test_a_network_without_a_classifier_and_one_without_matrices():
    trunk = cs.load("timm:test_resnet", weights="none", classes=None, options={"global_pool": "avg"})
    assert trunk.untrained
    bare = cs.Model("x", torch.nn.Identity(), preprocess=cs.Preprocess())
    assert marked(bare, weights="none").untrained == ""


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_a_network_of_the_users_own_is_marked_until_its_first_training_step(name):
    net = timm.create_model(name)
    assert cs.load(net).untrained == "random weights"
    net.train()
    net(torch.rand(2, 3, 160, 160)).square().sum().backward()
    torch.optim.SGD(net.parameters(), lr=1e-6).step()
    assert cs.load(net.eval()).untrained == ""


def test_merged_norms_are_no_sign_of_random_weights():
    net = timm.create_model("test_resnet")
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:  # heavy tails, as of learned weights; the norms stay as they were made
                parameter.pow_(3)
    assert cs.load(net).untrained == ""
