import numpy as np
import pytest
import torch

from camscope import explain
from camscope.errors import ModelError, SettingError
from camscope.images import Picture
from camscope.models.loading import load
from camscope.models.sources import NAMES
from camscope.models.sources import torchxrayvision as source

xrv = pytest.importorskip("torchxrayvision")
RSNA = "torchxrayvision:densenet121-res224-rsna"


def grey(*size):
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)


def test_the_names_are_those_that_are_published():
    published = {name for name in xrv.models.model_urls if name.startswith(("densenet", "resnet"))}
    assert set(NAMES["torchxrayvision"]()) == published
    with pytest.raises(ModelError, match="no torchxrayvision model called 'densenet121-res224-nhi'; nearest: "):
        load("torchxrayvision:densenet121-res224-nhi")


def test_the_input_is_on_their_scale():
    pixels = grey(224, 224)
    made, window = load(RSNA, weights="none").preprocess(Picture((pixels / 255).astype(np.float32)[:, :, None]))
    assert torch.equal(made[0], torch.from_numpy(xrv.utils.normalize(pixels, 255)).float())
    assert window.extent == (224, 224)
    _, window = load(RSNA, weights="none").preprocess(Picture(np.zeros((300, 420, 1), np.float32)))
    assert window.start == pytest.approx((0, 60), abs=1)
    assert window.extent == pytest.approx((300, 300), abs=1)


def test_outputs_are_the_logits_that_op_norm_starts_from():
    model = load(RSNA, weights="none")
    assert model.labels == ("Pneumonia", "Lung Opacity")
    assert model.outcome == "any"
    points = torch.tensor(model.facts["operating_points"])
    with torch.device("meta"):
        theirs = xrv.models.DenseNet(num_classes=2)
    theirs.load_state_dict(model.net.state_dict(), assign=True)
    theirs.op_threshs = points
    x = model.preprocess(Picture((grey(224, 224) / 255).astype(np.float32)[:, :, None]))[0][None]
    with torch.no_grad():
        model.net.classifier.weight.zero_()  # both logits 0, far from saturation
        logits = model.net(x)
        wanted = xrv.models.op_norm(model.probability(logits), points[None])
        torch.testing.assert_close(theirs.eval()(x), wanted)
    assert (wanted - model.probability(logits)).abs().max() > 0.01


def test_grey_pictures_are_explained_after_the_last_relu():
    e = explain(load(RSNA, weights="none"), Picture((grey(300, 420) / 255).astype(np.float32)[:, :, None]))
    assert (e.layer, e.grid.shape, e.heatmap.shape) == ("relu()", (7, 7), (300, 420))
    assert (e.heatmap[:, :58] == 0).all()
    assert e.heatmap.any()


def test_files_bundles_and_other_classes(tmp_path):
    model = load(RSNA, weights="none")
    assert load(model.save(tmp_path / "bundle")).digest == model.digest
    whole = xrv.models.DenseNet()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    taken = load(RSNA, weights=tmp_path / "w.pth").net.classifier
    assert torch.equal(taken.weight, whole.classifier.weight[[8, 16]])
    own = load(RSNA, weights="none", labels=["TB"])
    assert (own.labels, own.net.classifier.out_features, own.assumptions) == (("TB",), 1, ())
    with pytest.raises(SettingError, match="op_threshs is not for options"):
        load(RSNA, weights="none", options={"op_threshs": None})


def test_the_published_resnet():
    model = load("torchxrayvision:resnet50-res512-all", weights="none")
    assert model.preprocess.input_size == (512, 512)
    assert model.net.conv1.weight.shape[1] == 1
    assert len(model.labels) == 18
    assert model.facts["operating_points"].count(None) == 2


def test_published_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "reachable", lambda address: False)
    monkeypatch.setattr(xrv.utils, "get_cache_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=r"bring the file kaggle-densenet121.*\.pt, put it in .* weights=FILE"):
        load(RSNA, trust=True)
    theirs = xrv.models.DenseNet()
    torch.save(theirs, tmp_path / "kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt")
    with pytest.raises(ModelError, match=r"kaggle-densenet121.*can run code .* pass trust=True"):
        load(RSNA)
    model = load(RSNA, trust=True)
    assert torch.equal(model.net.classifier.weight, theirs.classifier.weight[[8, 16]])
    assert torch.equal(model.net.features.conv0.weight, theirs.features.conv0.weight)
