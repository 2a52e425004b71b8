import pytest
import torch

from camscope.errors import ModelError, SettingError
from camscope.models.loading import load
from camscope.training.dataset import read_dataset
from camscope.training.init_model import start


@pytest.fixture
def data(class_folders):
    return read_dataset(class_folders(1))


def test_published_weights_out_of_reach_are_said_plainly(data, monkeypatch):
    monkeypatch.setattr("camscope.models.sources.timm.reachable", lambda *_: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    said = []
    begun = start("timm:resnet10t", data, say=said.append)
    assert (begun.learnt, begun.origin) == (False, "random weights")
    assert "out of reach" in said[0]
    assert "training starts from random weights" in said[0]
    assert begun.model.labels == ("cat", "dog")


def test_the_seed_decides_random_weights(data):
    one, same, other = (start("timm:resnet10t", data, weights="none", seed=s).model.digest for s in (0, 0, 1))
    assert one == same != other


def test_a_file_fills_the_backbone_and_leaves_its_own_classifier_out(data, tmp_path):
    old = load("timm:resnet10t", weights="none", classes=7)
    torch.save(old.net.state_dict(), tmp_path / "old.pth")
    with pytest.warns(UserWarning, match="classifier of the file with 7 outputs is left out"):
        begun = start("timm:resnet10t", data, weights=tmp_path / "old.pth")
    assert begun.learnt
    assert begun.origin.startswith("old.pth, sha256 ")
    new = begun.model.net.state_dict()
    assert torch.equal(new["layer4.0.conv1.weight"], old.net.state_dict()["layer4.0.conv1.weight"])
    assert new["fc.weight"].shape == (2, 512)
    with pytest.raises(ModelError, match="does not fit the network"):
        start("timm:convnext_atto", data, weights=tmp_path / "old.pth")


def test_a_bundle_goes_on_with_its_classifier(data, tmp_path):
    bundle = load("timm:resnet10t", weights="none", labels=["cat", "dog"]).save(tmp_path / "bundle")
    begun = start(bundle, data)
    assert begun.learnt
    assert begun.model.digest == load(bundle).digest
    other = load("timm:resnet10t", weights="none", labels=["a", "b", "c"]).save(tmp_path / "other")
    with pytest.raises(SettingError, match="has 3 classes and the data 2"):
        start(other, data)


def test_a_name_that_does_not_exist_is_an_error(data):
    with pytest.raises(ModelError, match="resnet10t"):
        start("timm:resnet10x", data)
