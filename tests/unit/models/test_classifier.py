"""The classifier of a network, and weights that leave it out."""

import re

import pytest
import torch
from torch import nn

from camscope.errors import ModelError
from camscope.models.classifier import classifier_of
from camscope.models.loading import load

# Networks with a classifier under another name, of another kind, and with auxiliary ones.
NETWORKS = {
    "timm:densenet121": "classifier",
    "timm:convnext_atto": "head.fc",
    "torchvision:densenet121": "classifier",
    "torchvision:efficientnet_b0": "classifier.1",
    "torchvision:squeezenet1_1": "classifier.1",
    "torchvision:googlenet": "fc",
}


def _as_published(state):
    """Names of the DenseNets that torchvision published in 2017."""
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key): v for key, v in state.items()}
    return {key: tensor for key, tensor in old.items() if not key.endswith("num_batches_tracked")}


FILES = {
    "plain": lambda state: state,
    "names of 2017": _as_published,
    "DataParallel": lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
    "Lightning": lambda state: {"state_dict": {f"model.{key}": v for key, v in state.items()}, "epoch": 3},
}


@pytest.mark.parametrize(("spec", "name"), NETWORKS.items())
def test_the_classifier_is_found(spec, name):
    assert classifier_of(load(spec, weights="none", classes=3).net, 3) == [name]


def test_a_network_without_classifier_is_refused():
    with pytest.raises(ModelError, match="no layer of Sequential gives 7 scores"):
        classifier_of(nn.Sequential(nn.Linear(2, 3)), 7)


@pytest.mark.parametrize("spec", NETWORKS)
def test_a_file_of_another_number_of_classes_fills_all_but_the_classifier(spec, tmp_path):
    old = load(spec, weights="none", classes=7).net.state_dict()
    for kind, written in FILES.items():
        torch.save(written(old), tmp_path / "old.pth")
        with pytest.warns(UserWarning, match="classifier of the file with 7 outputs is left out"):
            model = load(spec, weights=tmp_path / "old.pth", classes=3, new_classifier=True)
        filled = [key for key, tensor in model.net.state_dict().items() if torch.equal(tensor, old.get(key, tensor))]
        others = {key for key in old if key not in filled}
        assert all(key.startswith((NETWORKS[spec], "aux")) for key in others), (kind, others)
        assert model.untrained == "random classifier"
        with pytest.raises(ModelError, match="does not fit the network"):
            load(spec, weights=tmp_path / "old.pth", classes=3)


@pytest.mark.slow
def test_a_file_without_a_classifier_and_one_with_another_kind_fill_the_rest(tmp_path):
    net = load("torchvision:densenet121", weights="none", classes=7).net
    state = {key: tensor for key, tensor in net.state_dict().items() if not key.startswith("classifier.")}
    for more in ({}, {"classifier.0.weight": torch.zeros(9, 1024), "classifier.2.weight": torch.zeros(7, 9)}):
        torch.save({**state, **more}, tmp_path / "old.pth")
        with pytest.warns(UserWarning, match="new in the network: 'classifier'"):
            model = load("torchvision:densenet121", weights=tmp_path / "old.pth", classes=3, new_classifier=True)
        assert all(torch.equal(model.net.state_dict()[key], tensor) for key, tensor in state.items())


def test_a_classifier_that_fits_is_used(tmp_path):
    old = load("timm:resnet10t", weights="none", classes=3).net.state_dict()
    torch.save(old, tmp_path / "old.pth")
    model = load("timm:resnet10t", weights=tmp_path / "old.pth", classes=3, new_classifier=True)
    assert torch.equal(model.net.state_dict()["fc.weight"], old["fc.weight"])
    assert not model.untrained
