"""Small networks of Hugging Face families, made from configurations and saved as their users save them."""

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from camscope import explain
from camscope.errors import ModelError, SettingError
from camscope.images import Picture
from camscope.models.loading import load
from camscope.models.sources import hf as source
from camscope.models.transform import Transform

VIT = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
PYRAMID = {**STAGES, "num_attention_heads": [1, 2, 4, 4], "mlp_ratios": [2, 2, 2, 2], "image_size": 64}
SWIN = {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 2, 4], "window_size": 4}
DINO = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 70, "patch_size": 14}
WHOLE = {"size": {"height": 64, "width": 64}}
CUT = {"size": {"shortest_edge": 108}, "crop_size": {"height": 96, "width": 96}}

# Family: its configuration, its processor, the grid of the layer that is found.
FAMILIES = {
    "vit": (hf.ViTConfig, {**VIT, "image_size": 64, "patch_size": 8}, hf.ViTImageProcessor(**WHOLE), (8, 8)),
    "mobilevit": (
        hf.MobileViTConfig,
        {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [16, 16, 24, 32, 40, 48, 80], "image_size": 96},
        hf.MobileViTImageProcessor(**CUT),
        (3, 3),
    ),
    "convnextv2": (
        hf.ConvNextV2Config,
        {**STAGES, "image_size": 96},
        hf.ConvNextImageProcessor(size={"shortest_edge": 96}),
        (3, 3),
    ),
    "swin": (hf.SwinConfig, SWIN, hf.ViTImageProcessor(**WHOLE), (4, 4)),
    "deit": (
        hf.DeiTConfig,
        {**VIT, "image_size": 64, "patch_size": 8},
        hf.DeiTImageProcessor(size={"height": 72, "width": 72}, crop_size={"height": 64, "width": 64}),
        (8, 8),
    ),
    "beit": (hf.BeitConfig, {**VIT, "image_size": 64, "patch_size": 8}, hf.BeitImageProcessor(**WHOLE), (8, 8)),
    "swinv2": (hf.Swinv2Config, SWIN, hf.ViTImageProcessor(**WHOLE), (4, 4)),
    "dinov2": (
        hf.Dinov2Config,
        {**DINO, "mlp_ratio": 2},
        hf.BitImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 70, "width": 70}),
        (5, 5),
    ),
    "dinov2 with registers": (
        hf.Dinov2WithRegistersConfig,
        {**DINO, "mlp_ratio": 2},
        hf.BitImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 70, "width": 70}),
        (5, 5),
    ),
    "resnet": (
        hf.ResNetConfig,
        {**STAGES, "embedding_size": 16, "layer_type": "basic"},
        hf.ConvNextImageProcessor(size={"shortest_edge": 96}),
        (3, 3),
    ),
    "regnet": (
        hf.RegNetConfig,
        {**STAGES, "embedding_size": 16, "groups_width": 8},
        hf.ConvNextImageProcessor(size={"shortest_edge": 96}),
        (3, 3),
    ),
    "mobilevitv2": (
        hf.MobileViTV2Config,
        {"image_size": 96, "width_multiplier": 0.25},
        hf.MobileViTImageProcessor(**CUT),
        (3, 3),
    ),
    "pvt": (hf.PvtConfig, PYRAMID, hf.PvtImageProcessor(**WHOLE), (2, 2)),
    "pvtv2": (hf.PvtV2Config, PYRAMID, hf.PvtImageProcessor(**WHOLE), (2, 2)),
    "cvt": (
        hf.CvtConfig,
        {"embed_dim": [16, 24, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
        hf.ConvNextImageProcessor(size={"shortest_edge": 96}),
        (6, 6),
    ),
    "levit": (
        hf.LevitConfig,
        {
            "image_size": 128,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8] * 3,
        },
        hf.LevitImageProcessor(size={"shortest_edge": 112}, crop_size={"height": 128, "width": 128}),
        None,
    ),
    "efficientnet": (
        hf.EfficientNetConfig,
        {"image_size": 96, "width_coefficient": 0.3, "depth_coefficient": 0.3, "hidden_dim": 384},
        hf.EfficientNetImageProcessor(size={"height": 96, "width": 96}, resample=0),
        (3, 3),
    ),
    "mobilenetv2": (
        hf.MobileNetV2Config,
        {"depth_multiplier": 0.35, "image_size": 96},
        hf.MobileNetV2ImageProcessor(**CUT),
        (3, 3),
    ),
    "bit": (
        hf.BitConfig,
        {**STAGES, "hidden_sizes": [16, 32, 32, 64], "embedding_size": 16, "num_groups": 8},
        hf.BitImageProcessor(**CUT),
        (3, 3),
    ),
    "focalnet": (
        hf.FocalNetConfig,
        {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 2, 1], "hidden_sizes": [24, 48, 96, 192]},
        hf.BitImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}),
        (2, 2),
    ),
    "poolformer": (
        hf.PoolFormerConfig,
        STAGES,
        hf.PoolFormerImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
        (3, 3),
    ),
    "segformer": (
        hf.SegformerConfig,
        {"hidden_sizes": [16, 24, 32, 48], "depths": [1] * 4, "num_attention_heads": [1, 2, 4, 4]},
        hf.SegformerImageProcessor(size={"height": 96, "width": 96}),
        (3, 3),
    ),
    "hiera": (
        hf.HieraConfig,
        {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "image_size": [64, 64]},
        hf.BitImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}),
        None,
    ),
    "clip": (
        hf.CLIPConfig,
        {"vision_config": {**VIT, "image_size": 64, "patch_size": 8}},
        hf.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
        (8, 8),
    ),
    "siglip": (
        hf.SiglipConfig,
        {"vision_config": {**VIT, "image_size": 64, "patch_size": 8}},
        hf.SiglipImageProcessor(**WHOLE),
        (8, 8),
    ),
}
QUICK = ("vit", "mobilevit", "convnextv2")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """By family the folder of a network with three named classes, as save_pretrained writes it."""
    made = {}

    def make(family):
        if family not in made:
            config, options, processor, _ = FAMILIES[family]
            config = config(**options, architectures=[], num_labels=3, id2label={0: "cat", 1: "dog", 2: "owl"})
            with torch.random.fork_rng():
                torch.manual_seed(0)
                net = hf.AutoModelForImageClassification.from_config(config)
                for module in net.modules():
                    if isinstance(module, nn.Conv2d | nn.Linear):
                        nn.init.kaiming_normal_(module.weight)
            made[family] = tmp_path_factory.mktemp(family.replace(" ", "_"))
            net.save_pretrained(made[family])
            processor.save_pretrained(made[family])
        return made[family]

    return make


@pytest.fixture(scope="session")
def photo():
    """A lying image of smooth shapes in 8 bits."""
    rows, columns = np.mgrid[0:231, 0:310]
    waves = [np.sin(rows / 9), np.cos(columns / 14), np.sin((rows + columns) / 21)]
    return Picture((np.rint((np.stack(waves, 2) + 1) * 127.5) / 255).astype(np.float32), "waves")


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow, id=f) for f in FAMILIES]
)
def test_a_family(family, folder, photo):
    model = load(f"hf:{folder(family)}")
    assert model.labels == ("cat", "dog", "owl")
    assert (model.outcome, model.recipe.classes) == ("one", 3)
    standing = Picture(np.ascontiguousarray(photo.pixels.transpose(1, 0, 2)))
    processor = hf.AutoImageProcessor.from_pretrained(folder(family), backend="pil")
    for picture in (photo, standing):
        wanted = processor(images=picture.rgb, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(model.preprocess(picture)[0], wanted, rtol=0, atol=1e-5)
    e = explain(model, photo)
    assert np.isfinite(e.grid).all()
    assert e.grid.any()
    assert e.grid.shape == FAMILIES[family][3] or FAMILIES[family][3] is None
    with torch.no_grad():
        logits = hf.AutoModelForImageClassification.from_pretrained(folder(family))(
            model.preprocess(photo)[0][None]
        ).logits[0]
    assert e.score == pytest.approx(float(logits.max()), rel=1e-3)


def test_the_traits_of_mobilevits_processor(folder):
    preprocess = load(f"hf:{folder('mobilevit')}").preprocess
    assert (preprocess.order, preprocess.mean, preprocess.std) == ("bgr", (0, 0, 0), (1, 1, 1))
    assert (preprocess.resize, preprocess.input_size) == ((108, 108), (96, 96))


def test_random_weights_and_a_head_of_ones_own(folder):
    spec = f"hf:{folder('vit')}"
    random = load(spec, weights="none")
    assert random.digest != load(spec).digest
    own = load(spec, labels=["normal", "ill"])
    assert (own.labels, own.recipe.classes, own.net.classifier.out_features) == (("normal", "ill"), 2, 2)
    first, again = (dict(model.net.vit.named_parameters()) for model in (own, load(spec)))
    assert all(torch.equal(weights, again[name]) for name, weights in first.items())
    assert load(spec, classes=7).labels == ()


def test_weights_of_a_file_and_a_bundle(folder, tmp_path):
    model = load(f"hf:{folder('vit')}")
    torch.save({f"module.{key}": value for key, value in model.net.state_dict().items()}, tmp_path / "w.pth")
    assert load(f"hf:{folder('vit')}", weights=tmp_path / "w.pth").digest == model.digest
    again = load(model.save(tmp_path / "bundle"))
    assert (again.digest, again.labels, again.preprocess) == (model.digest, model.labels, model.preprocess)


def test_another_input_size_interpolates_positions(folder, photo):
    model = load(f"hf:{folder('vit')}", input_size=(64, 96))
    assert explain(model, photo).grid.shape == (8, 12)


def test_a_network_without_classifier_gives_its_embedding(tmp_path, photo):
    config = hf.Dinov2Config(**DINO, mlp_ratio=2)
    hf.Dinov2Model(config).save_pretrained(tmp_path)
    hf.BitImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 70, "width": 70}).save_pretrained(tmp_path)
    model = load(f"hf:{tmp_path}")
    assert (model.outcome, model.labels, model.recipe.classes) == ("value", (), 0)
    assert model.net(model.preprocess(photo)[0][None]).shape == (1, 48)
    headed = load(f"hf:{tmp_path}", classes=4)
    assert headed.net.classifier.out_features == 4


def test_problem_types_are_outcomes(tmp_path):
    for problem, outcome in (("multi_label_classification", "any"), ("regression", "value")):
        config = hf.ResNetConfig(**STAGES, embedding_size=16, layer_type="basic", problem_type=problem, num_labels=2)
        config.architectures = ["ResNetForImageClassification"]
        config.save_pretrained(tmp_path)
        with pytest.warns(UserWarning, match=r"no image processor .* ImageNet's usual preprocessing is assumed"):
            model = load(f"hf:{tmp_path}", weights="none")
        assert (model.outcome, model.labels) == (outcome, ())


def test_what_is_missing_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "reachable", lambda address: False)
    with pytest.raises(ModelError, match=r"hf:nobody/nothing is out of reach: .* use hf:FOLDER") as error:
        load("hf:nobody/nothing")
    assert "://" not in str(error.value)
    with pytest.raises(ModelError, match="is not a folder of transformers"):
        load(f"hf:{tmp_path}")
    with pytest.raises(ModelError, match="looks like a folder of transformers: load hf:"):
        load(folder("vit"))
    with pytest.raises(SettingError, match="no setting of vit called 'hiden_size'; nearest: 'hidden_size'"):
        load(f"hf:{folder('vit')}", options={"hiden_size": 3})
    with pytest.raises(SettingError, match="num_labels is not for options"):
        load(f"hf:{folder('vit')}", options={"num_labels": 3})


def test_weights_that_a_folder_lacks_are_not_made_up(tmp_path):
    config = hf.ResNetConfig(**STAGES, embedding_size=16, layer_type="basic")
    hf.ResNetModel(config).save_pretrained(tmp_path)
    config.architectures = ["ResNetForImageClassification"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has no weights for classifier\.1\.bias, .* pass classes="):
        load(f"hf:{tmp_path}")


def test_processors_that_are_no_preprocessing(folder, tmp_path):
    hf.ViTConfig.from_pretrained(folder("vit")).save_pretrained(tmp_path)
    hf.TextNetImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"inputs of different sizes .*, and a model has one input size"):
        load(f"hf:{tmp_path}", weights="none")
    hf.PerceiverImageProcessor().save_pretrained(tmp_path)
    model = load(f"hf:{tmp_path}", weights="none")  # it crops before it resizes, and is run itself
    assert isinstance(model.preprocess, Transform)
    window = model.preprocess.window((400, 600))
    assert window.start == pytest.approx(((400 - window.extent[0]) / 2, (600 - window.extent[1]) / 2), abs=2)
    assert window.extent[0] == pytest.approx(window.extent[1], abs=2)
    with pytest.raises(SettingError, match="which is a callable"):
        load(f"hf:{tmp_path}", weights="none", input_size=64)
