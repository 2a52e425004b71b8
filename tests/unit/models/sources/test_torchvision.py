import os
import re

import numpy as np
import pytest
import torch
from torchvision import models

from camscope import explain, explain_all
from camscope.errors import ModelError, SettingError
from camscope.images import Picture
from camscope.models.loading import load
from camscope.models.sources import NAMES
from camscope.models.sources import torchvision as source
from camscope.models.volume_preprocess import VolumePreprocess
from camscope.targets import region


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
    monkeypatch.setattr(source, "file_sha256", lambda path: path.stem.rpartition("-")[2])
    return file


def test_published_weights_out_of_the_cache(tmp_path, monkeypatch):
    made = load("torchvision:squeezenet1_1", weights="none")
    cached(tmp_path, monkeypatch, "squeezenet1_1", made.net.state_dict())
    assert load("torchvision:squeezenet1_1").digest == made.digest
    fresh = load("torchvision:squeezenet1_1", classes=4).net.state_dict()
    for name, tensor in made.net.state_dict().items():
        assert torch.equal(fresh[name], tensor) == (not name.startswith("classifier.1")), name
    assert load("torchvision:squeezenet1_1", classes=4).untrained == "random classifier"
    assert load("torchvision:squeezenet1_1").untrained == ""


def test_a_file_in_the_cache_must_have_the_hash_of_its_name(tmp_path, monkeypatch):
    made = load("torchvision:squeezenet1_1", weights="none")
    hashed = source.file_sha256
    file = cached(tmp_path, monkeypatch, "squeezenet1_1", made.net.state_dict())
    monkeypatch.setattr(source, "file_sha256", hashed)
    with pytest.raises(ModelError, match=f"{file} are damaged or not the published file: remove it"):
        load("torchvision:squeezenet1_1")


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap-went-off",)


def test_code_in_a_cached_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = load("torchvision:squeezenet1_1", weights="none")
    cached(tmp_path, monkeypatch, "squeezenet1_1", {**made.net.state_dict(), "trap": Trap()})
    with pytest.raises(ModelError, match="damaged or not the published file"):
        load("torchvision:squeezenet1_1")
    assert not (tmp_path / "trap-went-off").exists()


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
    with pytest.raises(ModelError, match="no torchvision model called 'raft_large'"):
        load("torchvision:raft_large")
    assert {"vgg16", "lraspp_mobilenet_v3_large", "fcos_resnet50_fpn"} <= {*NAMES["torchvision"]()}


def test_impossible_options():
    with pytest.raises(ModelError, match=r"cannot build squeezenet1_1 with options \{'colour': 1\}"):
        load("torchvision:squeezenet1_1", weights="none", options={"colour": 1})
    with pytest.raises(SettingError, match="weights is not for options"):
        load("torchvision:squeezenet1_1", weights="none", options={"weights": "DEFAULT"})


def smooth_picture():
    rows, columns = np.mgrid[0:96, 0:160]
    waves = [np.sin(rows / 9), np.cos(columns / 14), np.sin((rows + columns) / 21)]
    return Picture(((np.stack(waves, 2) + 1) / 2).astype(np.float32), "waves", bits=32)


def test_a_segmentation_network_explains_the_region_that_it_predicts(tmp_path, monkeypatch):
    spec = "torchvision:lraspp_mobilenet_v3_large"
    model = load(spec, weights="none", input_size=128)
    assert (model.labels[0], len(model.labels), model.outcome) == ("__background__", 21, "one")
    assert (model.preprocess.fit, load(spec, weights="none").preprocess.input_size) == ("pad", (520, 520))
    e = explain(model, smooth_picture())
    x = model.preprocess(smooth_picture())[0][None]
    with torch.no_grad():
        output = model.net(x)["out"][0]
    areas = torch.bincount(output.argmax(0).flatten(), minlength=21)
    areas[0] = 0
    assert e.index == int(areas.argmax())
    assert e.score == pytest.approx(float(region(e.index)(output)), rel=1e-3)
    assert e.heatmap.shape == (96, 160)
    absent = int(areas[1:].argmin()) + 1
    assert areas[absent] == 0
    none = explain(model, smooth_picture(), target=absent)
    assert none.notes[0].startswith(f"no place is predicted to be {model.label(absent)!r}")
    assert not none.heatmap.any()
    cached(tmp_path, monkeypatch, "lraspp_mobilenet_v3_large", model.net.state_dict())
    assert load(spec, input_size=128).digest == model.digest
    own = load(spec, labels=["tissue", "lesion"])
    assert own.net.classifier.low_classifier.out_channels == 2


def test_the_second_head_of_published_segmentation_weights_is_left_out(tmp_path, monkeypatch):
    name = "deeplabv3_mobilenet_v3_large"
    theirs = models.get_model(name, weights=None, weights_backbone=None, aux_loss=True)
    cached(tmp_path, monkeypatch, name, theirs.state_dict())
    model = load(f"torchvision:{name}")
    assert torch.equal(model.net.classifier[4].weight, theirs.classifier[4].weight)
    assert not any(key.startswith("aux") for key in model.net.state_dict())


def _fpn(levels):
    return " + ".join(f"net.backbone.fpn.layer_blocks.{i}" for i in range(levels))


DETECTORS = {
    "ssdlite320_mobilenet_v3_large": ("score_thresh", "net.backbone.features.0"),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("box_score_thresh", _fpn(2)),
    "retinanet_resnet50_fpn": ("score_thresh", _fpn(3)),
    "retinanet_resnet50_fpn_v2": ("score_thresh", f"{_fpn(3)} + net.backbone.fpn.extra_blocks.p6"),
    "fcos_resnet50_fpn": ("score_thresh", _fpn(3)),
    "maskrcnn_resnet50_fpn": ("box_score_thresh", _fpn(4)),
    "ssd300_vgg16": ("score_thresh", "net.backbone.features"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n.startswith("ssdlite") else pytest.mark.slow, id=n) for n in DETECTORS]
)
def test_a_detector_explains_a_box(name):
    threshold, layer = DETECTORS[name]
    torch.manual_seed(0)
    model = load(f"torchvision:{name}", weights="none", input_size=320, options={threshold: 0.0})
    assert (model.outcome, model.layer, model.recipe.classes) == ("boxes", layer, 91)
    x = model.preprocess(smooth_picture())[0][None]
    with torch.no_grad():
        ours, theirs = model.net(x)[0], model.net.net([x[0]])[0]
    best = theirs["scores"].argmax()
    torch.testing.assert_close(ours[0, :4], theirs["boxes"][best])
    assert int(ours[0, 5]) == int(theirs["labels"][best])
    assert ours[0, 4].sigmoid().clamp(1e-6).item() == pytest.approx(max(1e-6, float(theirs["scores"][best])), rel=1e-3)
    first, second = explain_all(model, [smooth_picture()], targets="top2")
    assert first.index == int(ours[0, 5])
    assert first.probability == pytest.approx(float(ours[0, 4].sigmoid()), rel=1e-2)
    assert first.label != second.label
    assert np.isfinite(first.grid).all()
    assert first.grid.any() or name.startswith("fcos")  # its scores are below 1e-6 without training


def test_a_detector_that_finds_nothing():
    model = load("torchvision:ssdlite320_mobilenet_v3_large", weights="none", options={"score_thresh": 0.9})
    e = explain(model, smooth_picture())
    assert (e.label, e.index, e.heatmap.any()) == ("no box", None, np.False_)
    assert e.notes[0] == "no box was found"
    named = explain(model, smooth_picture(), target="dog")
    assert (named.label, named.notes[0]) == ("dog", "no box of 'dog' was found")


def test_a_detectors_bundle(tmp_path):
    model = load("torchvision:ssdlite320_mobilenet_v3_large", weights="none", labels=["ground", "ship"])
    again = load(model.save(tmp_path))
    assert (again.digest, again.outcome, again.layer) == (model.digest, "boxes", model.layer)
    assert again.labels == ("ground", "ship")


def test_chexnets_file_fills_a_densenet(tmp_path):
    """Its module is called densenet121, its classifier is a Sequential, and its names are from before PyTorch 0.4."""
    made = load("torchvision:densenet121", weights="none", classes=14)
    old = {re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", k): v for k, v in made.net.state_dict().items()}
    theirs = {
        f"module.densenet121.{k}".replace("classifier.", "classifier.0."): v
        for k, v in old.items()
        if not k.endswith("num_batches_tracked")
    }
    torch.save({"epoch": 1, "state_dict": theirs, "best_loss": 0.1}, tmp_path / "model.pth.tar")
    with pytest.warns(UserWarning, match=r"'densenet121\.classifier\.0' of the file fills 'classifier'"):
        model = load(tmp_path / "model.pth.tar", arch="torchvision:densenet121", classes=14, outcome="any")
    assert model.digest == made.digest
    assert model.outcome == "any"
    with pytest.raises(ModelError, match=r"'classifier', and those .* left over 'classifier\.0' .*pass classes=14"):
        load(tmp_path / "model.pth.tar", arch="torchvision:densenet121")


@pytest.mark.slow
def test_positions_of_another_input_size(tmp_path):
    """The file is for 64 pixels; the smallest of torchvision's transformers has 224."""
    theirs = models.get_model("vit_b_32", num_classes=3, image_size=64).state_dict()
    path = tmp_path / "vit.pth"
    torch.save({f"model.{k}": v for k, v in theirs.items()}, path)
    with pytest.warns(UserWarning, match="for 64 x 64 pixels, which is used as the input size"):
        model = load(path, arch="torchvision:vit_b_32", classes=3)
    assert model.net.image_size == 64
    assert model.preprocess.input_size == (64, 64)
    assert torch.equal(model.net.encoder.pos_embedding, theirs["encoder.pos_embedding"])
    with pytest.warns(UserWarning, match="for 64 x 64 pixels; the table of positions was interpolated"):
        larger = load(path, arch="torchvision:vit_b_32", classes=3, input_size=96)
    assert larger.net(torch.rand(1, 3, 96, 96)).shape == (1, 3)
    assert larger.preprocess.input_size == (96, 96)
    with pytest.raises(SettingError, match="takes square inputs, not 96 x 64"):
        load(path, arch="torchvision:vit_b_32", classes=3, input_size=(96, 64))


def test_a_transformer_has_the_size_of_its_weights():
    model = load("torchvision:vit_b_32", weights="none", options={"image_size": 64})
    assert model.net.image_size == 64
    model = load("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1", weights="none")
    assert model.net.image_size == model.preprocess.input_size[0] == 384


def test_video_networks_take_volumes_whose_slices_are_frames(tmp_path):
    with pytest.warns(UserWarning, match="slices are taken for frames"):
        model = load("torchvision:mc3_18", weights="none", labels=["a", "b"])
    assert model.preprocess.input_size == (16, 112, 112)
    assert (model.preprocess.orientation, model.preprocess.fit, model.preprocess.channels) == ("SPL", "squash", 3)
    preprocess = VolumePreprocess((4, 16, 16), mean=(0.0,) * 3, std=(1.0,) * 3, value_range=(-160, 240))
    model = load("torchvision:mc3_18", weights="none", labels=["a", "b"], preprocess=preprocess)
    assert model.facts.get("assumed") is None
    assert model.net(torch.zeros(1, 3, *preprocess.input_size)).shape == (1, 2)
    again = load(model.save(tmp_path))
    assert again.preprocess == preprocess
    assert again.digest == model.digest
