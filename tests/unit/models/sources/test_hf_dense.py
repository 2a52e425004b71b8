"""Detectors and segmentation networks of Hugging Face, made from configurations and saved as their users save them."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

from camscope import explain, targets
from camscope.errors import ModelError, SettingError
from camscope.models.layer_choice import choose_layer
from camscope.models.loading import load
from camscope.models.sources.hf_dense import Detector

VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "layer_type": "basic"}
ALL = ["stage1", "stage2", "stage3", "stage4"]
FEW = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
QUERIES = {**FEW, **HEADS, "num_queries": 7}
SCALES = {"encoder_in_channels": [16, 24, 32], "feat_strides": [8, 16, 32], "decoder_in_channels": [32] * 3}
RT = {**FEW, **HEADS, **SCALES, "encoder_hidden_dim": 32, "num_queries": 9}
MASKS = {"mask_feature_size": 32, "num_queries": 6}


def resnet(stages=ALL):
    return hf.ResNetConfig(**STAGES, out_features=stages)


def rt_resnet():
    return hf.RTDetrResNetConfig(**STAGES, out_features=ALL[1:])


def hgnet():
    return hf.HGNetV2Config(
        stem_channels=[3, 8, 8],
        hidden_sizes=[16, 16, 24, 32],
        depths=[1] * 4,
        stage_in_channels=[8, 16, 16, 24],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[16, 16, 24, 32],
        stage_num_blocks=[1] * 4,
        stage_numb_of_layers=[2] * 4,
        out_features=ALL[1:],
    )


def swin():
    return hf.SwinConfig(image_size=128, embed_dim=16, depths=[1] * 4, num_heads=[1, 2, 2, 4], out_features=ALL)


def yolos(**more):
    return hf.YolosForObjectDetection(hf.YolosConfig(num_detection_tokens=5, image_size=[128, 128], **VIT, **more))


def segformer(**more):
    sizes = {"hidden_sizes": [16, 32, 40, 64], "depths": [1] * 4, "decoder_hidden_size": 32}
    return hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**sizes, **more))


def mask2former(**more):
    sizes = {"feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "dim_feedforward": 32}
    layers = {"encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2}
    config = hf.Mask2FormerConfig(backbone_config=swin(), **sizes, **layers, **MASKS, **more)
    return hf.Mask2FormerForUniversalSegmentation(config)


def maskformer(**more):
    decoder = hf.DetrConfig(backbone_config=resnet(), **QUERIES)
    config = hf.MaskFormerConfig(
        backbone_config=swin(), fpn_feature_size=32, decoder_config=decoder, mask_feature_size=32, **more
    )
    return hf.MaskFormerForInstanceSegmentation(config)


def upernet(**more):
    backbone = hf.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, out_features=ALL)
    sizes = {"hidden_size": 16, "auxiliary_in_channels": 24, "auxiliary_channels": 8}
    return hf.UperNetForSemanticSegmentation(hf.UperNetConfig(backbone_config=backbone, **sizes, **more))


def dpt(kind=hf.DPTForSemanticSegmentation, **more):
    sizes = {"neck_hidden_sizes": [8, 16, 24, 32], "fusion_hidden_size": 16, "backbone_out_indices": [0, 1, 2, 3]}
    return kind(hf.DPTConfig(image_size=128, **sizes, **VIT, **more))


DETECTORS = {
    "yolos": yolos,
    "detr": lambda **more: hf.DetrForObjectDetection(hf.DetrConfig(backbone_config=resnet(), **QUERIES, **more)),
    "conditional detr": lambda **more: hf.ConditionalDetrForObjectDetection(
        hf.ConditionalDetrConfig(backbone_config=resnet(), **QUERIES, **more)
    ),
    "deformable detr": lambda **more: hf.DeformableDetrForObjectDetection(
        hf.DeformableDetrConfig(backbone_config=resnet(ALL[1:]), **QUERIES, **more)
    ),
    "rt-detr": lambda **more: hf.RTDetrForObjectDetection(hf.RTDetrConfig(backbone_config=rt_resnet(), **RT, **more)),
    "rt-detr v2": lambda **more: hf.RTDetrV2ForObjectDetection(
        hf.RTDetrV2Config(backbone_config=rt_resnet(), **RT, **more)
    ),
    "d-fine": lambda **more: hf.DFineForObjectDetection(hf.DFineConfig(backbone_config=hgnet(), **RT, **more)),
}
SEGMENTERS = {
    "segformer": segformer,
    "upernet": upernet,
    "beit": lambda **more: hf.BeitForSemanticSegmentation(
        hf.BeitConfig(image_size=128, out_indices=[1, 2, 3, 4], **VIT, **more)
    ),
    "dpt": dpt,
    "mask2former": mask2former,
    "maskformer": maskformer,
}
QUICK = ("yolos", "detr", "rt-detr", "segformer", "mask2former")
NAMES = {0: "cat", 1: "dog", 2: "owl"}
SQUARE = {"size": {"height": 128, "width": 128}}


def families(made):
    return [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow, id=f) for f in made]


def saved(net, folder, processor=None):
    net.save_pretrained(folder)
    (processor or hf.RTDetrImageProcessor(**SQUARE)).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture
def folder(tmp_path):
    def make(family, **more):
        torch.manual_seed(0)
        net = (DETECTORS | SEGMENTERS)[family](**{"num_labels": 3, "id2label": NAMES, **more}).eval()
        return saved(net, tmp_path), net

    return make


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)


@pytest.mark.parametrize("family", families(DETECTORS))
def test_detectors_find_what_their_processor_finds(family, folder, image):
    spec, net = folder(family)
    model = load(spec)
    assert (model.outcome, model.labels, model.recipe.classes) == ("boxes", ("cat", "dog", "owl"), 3)
    x = model.preprocess(explain(model, image).picture)[0][None]
    with torch.no_grad():
        outputs, rows = net(pixel_values=x), model.net(x)[0]
    softmax = outputs.logits.shape[2] == 4
    processor = hf.DetrImageProcessor() if softmax else hf.RTDetrImageProcessor()
    found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(128, 128)])[0]
    best = found["scores"].argmax()
    assert float(rows[0, 4].sigmoid()) == pytest.approx(float(found["scores"][best]), abs=1e-5)
    assert int(rows[0, 5]) == int(found["labels"][best])
    torch.testing.assert_close(rows[0, :4], found["boxes"][best], rtol=0, atol=1e-3)
    p = rows[:, 4].sigmoid()
    assert (p >= 0.05 - 1e-6).all()
    assert (p.diff() <= 1e-6).all()
    for row in rows[:, :5]:
        probabilities = outputs.logits.softmax(-1)[..., :-1] if softmax else outputs.logits.sigmoid()
        assert float((probabilities - row[4].sigmoid()).abs().min()) < 1e-5


@pytest.mark.parametrize("family", families(DETECTORS))
def test_gradients_of_a_box_reach_the_first_layer(family, folder, image):
    spec, _ = folder(family)
    model = load(spec)
    x = torch.randn(1, 3, 128, 128)
    first = next(module for module in model.net.modules() if isinstance(module, nn.Conv2d)).weight
    first.requires_grad_()
    targets.box(1)(model.net(x)[0]).backward()
    assert first.grad.isfinite().all()
    assert first.grad.any()
    e = explain(model, image, target="dog", method="occlusion", window=64)
    again = explain(load(spec), image, target="dog", method="occlusion", window=64)
    assert (e.grid == again.grid).all(), "the same file gives the same map"
    assert explain(model, image).grid.shape[0] >= 2


@pytest.mark.parametrize("family", families(SEGMENTERS))
def test_segmentation_is_that_of_the_processor(family, folder, image):
    spec, net = folder(family)
    model = load(spec)
    assert (model.outcome, model.labels, model.recipe.classes) == ("one", ("cat", "dog", "owl"), 3)
    x = model.preprocess(explain(model, image).picture)[0][None]
    with torch.no_grad():
        outputs, maps = net(pixel_values=x), model.net(x)
    assert maps.shape == (1, 3, 128, 128)
    processor = hf.Mask2FormerImageProcessor() if "mask" in family else hf.SegformerImageProcessor()
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(128, 128)])[0]
    # Masks are resized before the sigmoid there, and after it here: that moves borders by a pixel.
    assert float((maps[0].argmax(0) == expected).float().mean()) > (0.98 if "mask" in family else 0.9999)


def trained(net, pictures, loss, *, steps):
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    net.train()
    for step in range(steps):
        optimiser.zero_grad()
        loss(net, *pictures(step)).backward()
        optimiser.step()
    return net.eval()


def marks(step, *, size=64, count=16):
    """Noise with a bright square in one of the four quarters, of one of two colours; its mask (count, size, size)."""
    generator = torch.Generator().manual_seed(step)
    x = 0.3 * torch.randn(count, 3, size, size, generator=generator)
    kind, row, column = (torch.randint(2, (count,), generator=generator) for _ in range(3))
    masks = torch.zeros(count, size, size, dtype=torch.long)
    for i in range(count):
        top, left = 8 + 32 * int(row[i]), 8 + 32 * int(column[i])
        x[i, 0 if kind[i] else 2, top : top + 16, left : left + 16] += 3
        masks[i, top : top + 16, left : left + 16] = 1 + kind[i]
    return x, masks


def explained(model, seed, **options):
    """The explanation of one image of `marks`, its mask, and the name of what is marked."""
    x, masks = marks(seed, count=1)
    pixels = ((x[0].permute(1, 2, 0).numpy() + 4) / 12).clip(0, 1).astype(np.float32)
    label = {1: "blue", 2: "red"}[int(masks.max())]
    return explain(model, pixels, **{"target": label, **options}), masks[0].numpy() > 0, label


def contrast(e, inside):
    return e.heatmap[inside].mean() / (e.heatmap[~inside].mean() + 1e-9)


WHOLE = hf.SegformerImageProcessor(size={"height": 64, "width": 64}, image_mean=[4 / 12] * 3, image_std=[1 / 12] * 3)


OCCLUSION = {"method": "occlusion", "window": 16}


def test_maps_of_a_segformer_find_a_planted_mark(tmp_path):
    torch.manual_seed(1)

    def loss(net, x, masks):
        logits = nn.functional.interpolate(net(pixel_values=x).logits, (64, 64))
        return nn.functional.cross_entropy(logits, masks)

    net = trained(segformer(num_labels=3, id2label={0: "background", 1: "blue", 2: "red"}), marks, loss, steps=160)
    model = load(saved(net, tmp_path, WHOLE))
    # The stages' mean is less sharp, by how much depends on the processor that trained the network.
    for options, least in ((OCCLUSION, 3), ({"layer": "model.decode_head"}, 3), ({}, 1.5)):
        for seed in range(1000, 1004):
            e, inside, label = explained(model, seed, target=None, **options)
            assert e.label == label
            assert contrast(e, inside) > least, (options, seed)


@pytest.mark.parametrize("size", [128, 256])
def test_keys_on_the_grid_of_a_later_stage_are_no_stage(size):
    net = segformer(num_labels=3).eval()
    choice = choose_layer(net, torch.rand(1, 3, size, size))
    first_three = tuple(f"segformer.stages.{i}" for i in range(3))
    assert choice.layers[:3] == first_three
    assert choice.layers[3:]
    assert choice.complete


def test_maps_of_a_yolos_find_a_planted_mark(tmp_path):
    torch.manual_seed(0)

    def loss(net, x, masks):
        both = torch.cat([x, 0.3 * torch.randn_like(x)])
        wanted = torch.cat([torch.zeros(len(x)), torch.ones(len(x))]).long()
        return nn.functional.cross_entropy(net(pixel_values=both).logits[:, 0], wanted)

    net = trained(yolos(num_labels=1, id2label={0: "mark"}), marks, loss, steps=60)
    model = load(saved(net, tmp_path, WHOLE))
    for seed in range(1000, 1004):
        e, inside, _ = explained(model, seed, target="mark", **OCCLUSION)
        assert e.probability > 0.9
        assert contrast(e, inside) > 3, seed


def test_a_processor_that_keeps_shapes_gives_a_square_with_the_whole_picture(tmp_path, image):
    torch.manual_seed(0)
    processor = hf.DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    model = load(saved(DETECTORS["detr"](num_labels=3), tmp_path, processor))
    assert (model.preprocess.input_size, model.preprocess.fit, model.preprocess.resize) == ((96, 96), "pad", None)
    assert (model.preprocess.mean, model.preprocess.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    e = explain(model, image[:64])
    assert (e.window.start, e.window.extent) == ((-32, 0), (128, 128))


def test_weights_of_a_file_and_a_bundle(folder, tmp_path):
    for family in ("yolos", "segformer"):
        spec, net = folder(family)
        model = load(spec)
        torch.save(net.state_dict(), tmp_path / "w.pth")
        assert load(spec, weights=tmp_path / "w.pth").digest == model.digest
        assert load(spec, weights="none").digest != model.digest
        again = load(model.save(tmp_path / "bundle"))
        assert (again.digest, again.labels, again.outcome) == (model.digest, model.labels, model.outcome)


def test_one_class_has_a_background(folder, image):
    spec, _ = folder("segformer", num_labels=1, id2label={0: "lesion"})
    model = load(spec)
    assert model.labels == ("background", "lesion")
    maps = model.net(torch.randn(1, 3, 128, 128))
    assert torch.equal(maps[:, 0], -maps[:, 1])
    e = explain(model, image, target="lesion", method="occlusion", window=64)
    assert e.index == 1
    assert load(spec, labels=["rest", "tumour"]).labels == ("rest", "tumour")
    with pytest.raises(SettingError, match="one class and its background: give two labels"):
        load(spec, labels=["tumour"])


@pytest.mark.parametrize("family", ["yolos", "segformer"])
def test_a_head_that_cannot_be_made_is_an_error_and_nothing_is_random(family, folder, tmp_path):
    spec, _ = folder(family)
    with pytest.raises(SettingError, match="has 3 classes, and only classifiers get a new head: got 5"):
        load(spec, classes=5)
    assert load(spec, labels=["a", "b", "c"]).labels == ("a", "b", "c")
    weights = load_file(tmp_path / "model.safetensors")
    last = next(
        key for key in weights if key.endswith(("class_labels_classifier.layers.2.weight", "classifier.weight"))
    )
    save_file({k: v for k, v in weights.items() if k != last}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"has no weights for {last}: name another model"):
        load(spec)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: dpt(hf.DPTForDepthEstimation),
            r"\(DPTForDepthEstimation\) is for depth estimation, and camscope takes",
        ),
        (
            lambda: hf.ViTForMaskedImageModeling(hf.ViTConfig(image_size=128, **VIT)),
            "masked image modeling, .* classes= makes",
        ),
        (
            lambda: hf.OwlViTForObjectDetection(hf.OwlViTConfig(vision_config={**VIT, "image_size": 128})),
            "also takes input_ids, but camscope passes only images",
        ),
    ],
)
def test_other_tasks_are_named(make, message, tmp_path):
    spec = saved(make(), tmp_path)
    with pytest.raises(ModelError, match=message):
        load(spec)


def test_other_trunks_become_classifiers_on_request_alone(tmp_path):
    spec = saved(hf.ViTForMaskedImageModeling(hf.ViTConfig(image_size=128, **VIT)), tmp_path)
    assert load(spec, classes=4).recipe.classes == 4
    spec = saved(hf.DPTModel(hf.DPTConfig(image_size=128, **VIT)), tmp_path / "dpt")
    with pytest.raises(SettingError, match="transformers has no classifier on dpt: leave classes and labels out"):
        load(spec, classes=4)


def test_missing_and_mismatched_weights_are_never_random(tmp_path):
    net = hf.ViTModel(hf.ViTConfig(image_size=128, **VIT), add_pooling_layer=False)
    spec = saved(net, tmp_path)
    with pytest.raises(ModelError, match=r"has no weights for pooler\.dense\.bias, pooler\.dense\.weight"):
        load(spec)
    with pytest.raises(ModelError, match=r"has no weights for vit\.embeddings\.position_embeddings"):
        load(spec, classes=3, options={"image_size": 64})


def test_code_of_the_makers_is_never_run(tmp_path, monkeypatch):
    def asked(*_):
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)
    spec = saved(yolos(num_labels=3), tmp_path)
    auto = {"AutoImageProcessor": "own.Processor"}
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Own", "auto_map": auto}))
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="needs code from the hub, which camscope never runs"):
        load(spec)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Net"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    with pytest.raises(ModelError, match="needs code from the hub, which camscope never runs"):
        load(spec)
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["OwnForObjectDetection"]}))
    with pytest.raises(ModelError, match="transformers has no OwnForObjectDetection"):
        load(spec)


def test_outputs_of_another_kind_are_refused():
    class Other(nn.Module):
        def forward(self, pixel_values):
            return {"logits": pixel_values}

    with pytest.raises(ModelError, match="Other does not return boxes with a score for each of its 3 classes"):
        Detector(Other(), 3)(torch.zeros(1, 3, 8, 8))
