"""Networks by themselves: what they tell of their preprocessing, or an assumption that every explanation states."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision import models, transforms

import camscope as cs
from camscope.errors import ModelError, SettingError
from camscope.models.from_module import from_module

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (60, 80, 3), np.uint8)


class Net(nn.Module):
    def __init__(self, channels=3, classes=2):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def assumed(e):
    return [note for note in e.notes if "is an assumption" in note]


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_without_anything_known_the_assumption_is_in_every_explanation(channels):
    net = Net(channels)
    picture = PICTURE if channels in (1, 3) else RANDOM.random((60, 80, channels), np.float32)
    e = cs.explain(net, picture)
    assert len(assumed(e)) == 1
    assert "224 x 224" in assumed(e)[0]
    assert (e.model, e.label) == ("Net", f"class {e.index}")
    assert len(e.repeat["preprocess"]["mean"]) == channels
    for e in cs.explain_all(net, [picture, picture], labels=["no", "yes"], targets=["no", "yes"]):
        assert len(assumed(e)) == 1
    given = cs.Preprocess((64, 64), (0.5,) * channels, (0.5,) * channels)
    assert not assumed(cs.explain(net, picture, preprocess=given))
    assert not assumed(cs.explain(cs.load(net), picture, preprocess=given))


def test_load_takes_a_module_and_leaves_it_as_it_is():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    model = cs.load(net, labels=["no", "yes"], name="mine")
    assert (model.net, model.name, model.labels, model.recipe) == (net, "mine", ("no", "yes"), None)
    assert net.training
    cs.explain(model, PICTURE)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert cs.load(net, labels=["sick"]).outcome == "any"
    assert cs.load(net, outcome="value").outcome == "value"


def test_settings_of_load_with_a_module():
    net = Net()
    model = cs.load(net, mean=[0.5], std=[0.25], input_size=64, fit="squash")
    assert model.preprocess == cs.Preprocess((64, 64), (0.5,) * 3, (0.25,) * 3, fit="squash")
    assert "assumed" not in model.facts
    assert "assumed" in cs.load(net, input_size=64).facts
    for wrong in ({"weights": "none"}, {"classes": 2}, {"arch": "timm:resnet18"}, {"options": {"in_chans": 4}}):
        with pytest.raises(SettingError, match="a module has its own weights"):
            cs.load(net, **wrong)
    for wrong in ({"mean": [0.5]}, {"std": [0.5]}, {"input_size": 64}, {"fit": "pad"}):
        with pytest.raises(
            SettingError, match="expected either preprocess or mean, std, input_size and fit, but got both"
        ):
            cs.load(net, preprocess=cs.Preprocess(), **wrong)
    with pytest.raises(SettingError, match="outcome cannot be"):
        cs.load(net, outcome="both")


@pytest.mark.parametrize(
    "thing",
    [None, 3, [Net()], Net, lambda x: x, {"state_dict": {}}],
    ids=["None", "3", "list", "class", "function", "dict"],
)
def test_what_is_no_network_is_refused(thing):
    with pytest.raises(ModelError, match=r"cannot load an object of type .*: expected a spec .* or an nn\.Module"):
        cs.load(thing)
    with pytest.raises(ModelError, match="cannot load an object of type"):
        cs.explain(thing, PICTURE)


def test_explain_takes_a_spec(tmp_path):
    bundle = cs.load("timm:test_resnet", weights="none").save(tmp_path)
    preprocess = cs.Preprocess((64, 64))
    e = cs.explain(str(bundle), PICTURE, preprocess=preprocess)
    assert e.repeat["preprocess"] == preprocess.to_dict()
    assert cs.explain(bundle, PICTURE).model == tmp_path.name


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_timm_network_tells_its_preprocessing_and_labels(channels):
    options = {"in_chans": channels}
    net = timm.create_model("test_resnet", **options)
    loaded = cs.load("timm:test_resnet", weights="none", options=options)
    model = from_module(net)
    assert model.preprocess == loaded.preprocess
    assert model.labels == loaded.labels
    assert ("assumed" in model.facts) == (channels == 4)
    assert from_module(timm.create_model("test_resnet", num_classes=1)).outcome == "any"
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        model = from_module(wrapped)
        assert (model.name, model.net, model.preprocess) == ("ResNet", wrapped, loaded.preprocess)


def test_a_torchvision_network_with_its_weights_entry():
    net = models.resnet18()
    assert "assumed" in from_module(net).facts
    net.weights = models.ResNet18_Weights.DEFAULT
    model = from_module(net)
    assert model.preprocess == cs.load("torchvision:resnet18", weights="none").preprocess
    assert len(model.labels) == 1000
    assert "assumed" not in model.facts


def test_a_hugging_face_network_with_and_without_its_processor(tmp_path):
    hf = pytest.importorskip("transformers")
    config = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", id2label={0: "cat", 1: "dog"}
    )
    net = hf.ResNetForImageClassification(config)
    e = cs.explain(net, PICTURE, target="dog")
    assert (e.label, e.model, len(assumed(e))) == ("dog", "ResNetForImageClassification", 1)
    net.save_pretrained(tmp_path)
    hf.ViTImageProcessor(size={"height": 48, "width": 64}).save_pretrained(tmp_path)
    net = hf.ResNetForImageClassification.from_pretrained(tmp_path)
    model = from_module(net)
    assert model.preprocess == cs.load(f"hf:{tmp_path}").preprocess
    assert "assumed" not in model.facts
    assert cs.explain(net, PICTURE).heatmap.shape == (60, 80)


def test_an_input_that_the_network_cannot_take_says_what_was_assumed():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
    with pytest.raises(ModelError, match=r"Sequential cannot take an input of 3 x 224 x 224, which was assumed .*pass"):
        cs.explain(net, PICTURE)
    assert cs.explain(net, PICTURE, preprocess=cs.Preprocess((32, 32))).heatmap.shape == (60, 80)
    with pytest.raises(ModelError, match=r"takes 4 channels by its first convolution, and the preprocessing makes 3"):
        cs.explain(Net(4), PICTURE, preprocess=cs.Preprocess((64, 64)))


def test_labels_and_preprocess_in_place_of_those_of_a_model():
    model = cs.load(Net(), labels=["no", "yes"])
    steps = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    e = cs.explain(model, PICTURE, labels=["healthy", "sick"], preprocess=steps, target="sick")
    assert e.label == "sick"
    assert e.repeat["preprocess"]["input_size"] == [32, 32]
    assert model.labels == ("no", "yes")


def test_a_detector_of_torchvision_is_one_of_boxes_and_stays_as_it_is():
    torch.manual_seed(0)
    make = models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    net = make(weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0.0).eval()
    before = repr(net.transform)
    model = cs.load(net)
    assert (model.outcome, model.layer) == (
        "boxes",
        "net.backbone.fpn.layer_blocks.0 + net.backbone.fpn.layer_blocks.1",
    )
    assert model.preprocess.mean == (0.485, 0.456, 0.406)
    assert next(model.net.parameters()) is next(net.parameters())
    assert "the box" in cs.explain(model, PICTURE).notes[0]
    assert repr(net.transform) == before


def test_a_detector_derived_from_torchvisions_is_one():
    class Own(models.detection.FCOS):
        pass

    made = models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    assert cs.load(Own(made.backbone, 3)).outcome == "boxes"


@pytest.fixture
def ultralytics():
    """Import the package without its changes to how NumPy and PyTorch print, which would break doctests run later."""
    from camscope.models.sources.ultralytics import _contained

    with _contained():
        yield pytest.importorskip("ultralytics")


def test_a_classifier_of_ultralytics_has_the_size_of_classifiers(ultralytics):
    assert cs.load(ultralytics.YOLO("yolov8n-cls.yaml")).preprocess.input_size == (224, 224)


def test_a_yolo_in_its_packages_own_interface(ultralytics):
    yolo = ultralytics.YOLO("yolov8n.yaml")
    for net in (yolo, yolo.model):
        model = cs.load(net)
        assert (model.outcome, model.layer) == ("boxes", "model.model.15 + model.model.18 + model.model.21")
        assert (model.preprocess.input_size, model.preprocess.fit) == ((640, 640), "pad")
    assert not yolo.model.model[-1].dynamic


@pytest.mark.parametrize(("task", "outcome", "count"), [("detector", "boxes", 3), ("segmentation", "one", 3)])
def test_a_dense_network_of_transformers(task, outcome, count):
    hf = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    if task == "detector":
        config = hf.YolosConfig(image_size=[64, 64], patch_size=8, num_detection_tokens=5, num_labels=3, **sizes)
        net = hf.YolosForObjectDetection(config)
    else:
        config = hf.SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, decoder_hidden_size=16, num_labels=3)
        net = hf.SegformerForSemanticSegmentation(config)
    model = cs.load(net.eval(), preprocess=cs.Preprocess(input_size=(64, 64), fit="squash"))
    assert model.outcome == outcome
    e = cs.explain(model, PICTURE)
    assert e.index in range(count)
    assert e.grid.any()
