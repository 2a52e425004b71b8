import re

import pytest
import torch
from torchvision import models

from camscope.errors import ModelError, SettingError
from camscope.models.loading import load
from camscope.models.sources import NAMES
from camscope.models.sources import torchvision as source


def test_labels_and_preprocessing_of_the_published_weights():
    model = load("torchvision:mobilenet_v2", weights="none")
    assert model.labels == tuple(models.MobileNet_V2_Weights.IMAGENET1K_V2.meta["categories"])
    assert model.preprocess.resize == (232, 232)
    assert load("torchvision:mobilenet_v2.IMAGENET1K_V1", weights="none").preprocess.resize == (256, 256)
    assert load("torchvision:mobilenet_v2", weights="none", classes=5).labels == ()
    assert load("torchvision:mobilenet_v2", weights="none", input_size=112).preprocess.resize == (116, 116)


def cached(tmp_path, monkeypatch, name, state):
    """Put weights where a download would have left them."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    entry = models.get_model_weights(name).DEFAULT
    file = tmp_path / "checkpoints" / entry.url.rsplit("/", 1)[1]
    file.parent.mkdir()
    torch.save(state, file)
    return file


def test_published_weights_out_of_the_cache(tmp_path, monkeypatch):
    made = load("torchvision:squeezenet1_1", weights="none")
    cached(tmp_path, monkeypatch, "squeezenet1_1", made.net.state_dict())
    assert load("torchvision:squeezenet1_1").digest == made.digest
    fresh = load("torchvision:squeezenet1_1", classes=4).net.state_dict()
    for name, tensor in made.net.state_dict().items():
        assert torch.equal(fresh[name], tensor) == (not name.startswith("classifier.1")), name


def test_densenets_published_names(tmp_path, monkeypatch):
    made = load("torchvision:densenet121", weights="none")
    old = {re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", k): v for k, v in made.net.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    cached(tmp_path, monkeypatch, "densenet121", old)
    assert load("torchvision:densenet121").digest == made.digest
    torch.save(old, tmp_path / "brought.pth")
    assert load("torchvision:densenet121", weights=tmp_path / "brought.pth").digest == made.digest


def test_published_weights_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(source, "reachable", lambda address: False)
    with pytest.raises(ModelError) as error:
        load("torchvision:squeezenet1_1")
    file = models.SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[1]
    assert f"bring the file {file}, put it in {tmp_path / 'checkpoints'} or pass weights=FILE" in str(error.value)
    assert "://" not in str(error.value)


def test_the_two_that_normalise_inside():
    assert load("torchvision:googlenet", weights="none").net.transform_input
    own = load("torchvision:googlenet", weights="none", options={"transform_input": False})
    assert not own.net.transform_input


def test_unknown_names():
    with pytest.raises(ModelError, match="no torchvision model called 'resnt18'; nearest: 'resnet18'"):
        load("torchvision:resnt18")
    with pytest.raises(ModelError, match=r"called 'resnet18\.V1'; nearest: 'resnet18\.IMAGENET1K_V1'"):
        load("torchvision:resnet18.V1")
    with pytest.raises(ModelError, match="no torchvision model called 'fcn_resnet50'"):
        load("torchvision:fcn_resnet50")
    assert "vgg16" in NAMES["torchvision"]()


def test_impossible_options():
    with pytest.raises(ModelError, match=r"cannot build squeezenet1_1 with options \{'colour': 1\}"):
        load("torchvision:squeezenet1_1", weights="none", options={"colour": 1})
    with pytest.raises(SettingError, match="weights is not for options"):
        load("torchvision:squeezenet1_1", weights="none", options={"weights": "DEFAULT"})
