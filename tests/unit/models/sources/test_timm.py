import warnings

import numpy as np
import pytest
import timm
import torch

import camscope as cs
from camscope.errors import ModelError, SettingError
from camscope.models import pretrained
from camscope.models.loading import load
from camscope.models.sources import NAMES
from camscope.models.sources import timm as source


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No server answers, and no cache holds anything."""
    monkeypatch.setattr(source, "reachable", lambda address: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))


def test_labels_are_imagenets_where_they_fit():
    model = load("timm:test_resnet", weights="none")
    assert len(model.labels) == 1000
    assert model.index("tabby") == 281
    assert load("timm:test_resnet", weights="none", classes=10).labels == ()
    assert len(load("timm:convnext_atto", weights="none", classes=1000).labels) == 1000


def test_a_larger_imagenet_has_its_own_names():
    cfg = timm.get_pretrained_cfg("vit_tiny_patch16_224.augreg_in21k")
    with torch.device("meta"):
        net = timm.create_model("vit_tiny_patch16_224.augreg_in21k")
    assert cfg.num_classes == len(source.labels_of(net)) == 21843


def test_options_reach_the_maker():
    model = load("timm:mobilenetv2_035", weights="none", options={"pad_type": "same", "in_chans": 1})
    assert type(model.net.conv_stem).__name__ == "Conv2dSame"
    assert model.net.conv_stem.in_channels == model.preprocess.channels == 1
    assert model.recipe.options == {"pad_type": "same", "in_chans": 1}


def test_input_size_of_networks_that_fix_it():
    model = load("timm:vit_tiny_patch16_224", weights="none", classes=2, input_size=(96, 64))
    assert model.net(torch.rand(1, 3, 96, 64)).shape == (1, 2)
    assert model.preprocess.input_size == (96, 64)
    assert load("timm:vit_tiny_patch16_224", weights="none", options={"img_size": 96}).preprocess.input_size == (96, 96)


def test_files_in_the_first_authors_layout_are_translated(tmp_path):
    """ConvNeXt's authors named the stages otherwise; timm knows how."""
    model = load("timm:convnext_atto", weights="none", classes=2)
    renamed = {}
    for name, tensor in model.net.state_dict().items():
        name = name.replace("stem.0", "downsample_layers.0.0").replace("stem.1", "downsample_layers.0.1")
        for stage in range(4):
            name = name.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
            name = name.replace(f"stages.{stage}.blocks", f"stages.{stage}")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        name = name.replace("head.fc", "head").replace("head.norm", "norm")
        renamed[name] = tensor.flatten(1) if "pwconv" in name and tensor.ndim == 4 else tensor
    torch.save(renamed, tmp_path / "w.pth")
    assert load("timm:convnext_atto", weights=tmp_path / "w.pth", classes=2).digest == model.digest


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "mixer_s16_224"])
def test_tables_of_positions_set_the_input_size(tmp_path, name):
    """Tables of tokens, of relative positions, and weights between tokens."""
    theirs = timm.create_model(name, num_classes=2, img_size=96, **({} if "mixer" in name else {"depth": 1}))
    options = {} if "mixer" in name else {"depth": 1}
    torch.save({"model": theirs.state_dict()}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="for 96 x 96 pixels, which is used as the input size"):
        model = load(tmp_path / "w.pth", arch=f"timm:{name}", classes=2, options=options)
    assert model.preprocess.input_size == (96, 96)
    x = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(model.net(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)
    again = load(model.save(tmp_path / "bundle"))
    assert (again.digest, again.preprocess, again.notes) == (model.digest, model.preprocess, model.notes)


def test_tables_of_positions_are_interpolated_to_the_callers_size_with_a_note(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=96, depth=1)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    settings = {"arch": "timm:vit_tiny_patch16_224", "classes": 2, "options": {"depth": 1}}
    with pytest.warns(UserWarning, match="for 96 x 96 pixels; 1 tables of positions were interpolated"):
        model = load(tmp_path / "w.pth", input_size=128, **settings)
    assert model.net(torch.rand(1, 3, 128, 128)).shape == (1, 2)
    e = cs.explain(model, torch.rand(64, 64, 3).numpy())
    assert "for 96 x 96 pixels" in e.notes[-1]
    load(tmp_path / "w.pth", input_size=96, **settings)  # fits as it is: a warning would be an error


def test_windows_of_another_size_are_refused(tmp_path):
    small = {"depths": (1, 1), "num_heads": (1, 1), "embed_dim": 16}
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2, img_size=96, window_size=12, **small)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    for size in (None, 96):
        with pytest.raises(ModelError, match=r"relative_position_bias_table is \(529, 1\).*windows or an input size"):
            load(
                tmp_path / "w.pth", arch="timm:swin_tiny_patch4_window7_224", classes=2, options=small, input_size=size
            )
    told = {**small, "window_size": 12}
    load(tmp_path / "w.pth", arch="timm:swin_tiny_patch4_window7_224", classes=2, options=told, input_size=96)


def test_patches_of_another_size_are_refused(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=2, patch_size=32, depth=1)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"patch_embed\.proj\.weight is \(192, 3, 32, 32\), the network's is"):
        load(tmp_path / "w.pth", arch="timm:vit_tiny_patch16_224", classes=2, options={"depth": 1})


def test_unknown_names():
    with pytest.raises(ModelError, match="no timm model called 'resnt18'; nearest: 'resnet18'"):
        load("timm:resnt18")
    with pytest.raises(ModelError, match=r"called 'resnet18\.foo'; nearest: .*'resnet18\.\w+'"):
        load("timm:resnet18.foo")
    assert "resnet18" in NAMES["timm"]()


def test_old_names_still_work():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = load("timm:tv_resnet34", weights="none")
    assert model.preprocess.resize == (256, 256)
    assert len(model.labels) == 1000


def test_impossible_options():
    with pytest.raises(ModelError, match=r"options \{'colour': 1\}: .*unexpected keyword"):
        load("timm:test_resnet", weights="none", options={"colour": 1})
    with pytest.raises(SettingError, match="pretrained_cfg is not for options"):
        load("timm:test_resnet", weights="none", options={"pretrained_cfg": "x"})
    for channels in (0, "RGB", None):
        with pytest.raises(SettingError, match="in_chans must be a number of channels"):
            load("timm:test_resnet", weights="none", options={"in_chans": channels})


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_networks_of_other_numbers_of_channels(channels):
    model = load("timm:test_resnet", weights="none", options={"in_chans": channels})
    pixels = np.random.default_rng(0).random((40, 60, channels), np.float32)
    e = cs.explain(model, pixels)
    assert e.heatmap.shape == (40, 60)
    with torch.no_grad():
        scores = model.net(model.preprocess(cs.Picture(pixels, bits=32))[0][None])
    assert e.score == pytest.approx(float(scores.max()), rel=1e-4)


@pytest.mark.usefixtures("offline")
def test_published_weights_out_of_reach():
    with pytest.raises(ModelError) as error:
        load("timm:resnet18")
    message = str(error.value)
    assert "timm:resnet18" in message
    assert "model.safetensors of timm/resnet18.a1_in1k" in message
    assert "weights=FILE" in message
    assert "://" not in message
    assert "\n" not in message


@pytest.mark.usefixtures("offline")
def test_weights_that_are_not_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_configuration", lambda name: {"url": "https://server.invalid/a/net-1234.pth"})
    with pytest.raises(ModelError) as error:
        load("timm:test_resnet")
    assert f"the file net-1234.pth, put it in {tmp_path / 'checkpoints'} or pass weights=FILE" in str(error.value)
    assert "server.invalid" not in str(error.value)


@pytest.mark.usefixtures("offline")
def test_a_download_that_breaks_off(monkeypatch):
    def broken(*_, **__):
        raise OSError("connection reset")

    monkeypatch.setattr(source, "reachable", lambda address: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("timm.create_model", broken)
    with pytest.raises(ModelError, match="out of reach"):
        load("timm:resnet18")


def test_nothing_published():
    with pytest.raises(ModelError, match="timm publishes no weights for timm:resnet18d_unpublished"):
        source._require_published("timm:resnet18d_unpublished", {"url": "", "hf_hub_id": None})


def test_servers(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert not pretrained.reachable("http://127.0.0.1:9")
    assert not pretrained.reachable("https://server.invalid/file")
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "proxy"})
    assert pretrained.reachable("https://server.invalid/file")
