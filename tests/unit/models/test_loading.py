import pytest
import torch

from camscope.errors import ModelError, SettingError
from camscope.models.loading import load
from camscope.models.preprocess import Preprocess


def test_nets_are_ready_for_pictures():
    model = load("torchvision:squeezenet1_1", weights="none")
    assert not model.net.training
    assert model.net.features[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model.name == "torchvision:squeezenet1_1"


def test_a_network_with_convolutions_of_volumes_is_loaded():
    net = load("timm:lambda_resnet26t", weights="none").net
    assert {p.ndim for p in net.parameters()} >= {4, 5}
    assert net.stem.conv1.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_number_of_classes_decides_the_outcome():
    assert load("timm:test_resnet", weights="none").outcome == "one"
    assert load("timm:test_resnet", weights="none", labels=["Effusion"]).outcome == "any"
    assert load("timm:test_resnet", weights="none", classes=1, outcome="value").outcome == "value"
    assert load("timm:test_resnet", weights="none", classes=2).labels == ()


def test_a_network_without_classifier_gives_values():
    model = load("timm:vit_small_patch14_dinov2", weights="none", input_size=56)
    assert (model.outcome, model.labels, model.recipe.classes) == ("value", (), 0)


def test_weights_file_either_way(tmp_path):
    made = load("timm:test_resnet", weights="none", classes=2)
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {"module." + k: v for k, v in made.net.state_dict().items()}}, path)
    for model in (
        load("timm:test_resnet", weights=path, classes=2),
        load(path, arch="timm:test_resnet", labels=["a", "b"]),
        load(str(path), arch="timm:test_resnet", classes=2),
    ):
        assert model.digest == made.digest
        assert model.recipe.weights == str(path)
        assert len(model.recipe.sha256) == 64
    with pytest.raises(ModelError, match=r"fc\.weight is \(2, 96\).*pass classes=2"):
        load("timm:test_resnet", weights=path)


def test_preprocessing_of_the_caller():
    model = load("timm:test_resnet", weights="none", mean=[0.5], std=[0.25], input_size=128)
    own = load("timm:test_resnet", weights="none").preprocess
    assert (model.preprocess.mean, model.preprocess.std) == ((0.5,) * 3, (0.25,) * 3)
    assert model.preprocess.input_size == (128, 128)
    assert (model.preprocess.fit, model.preprocess.interpolation) == (own.fit, own.interpolation)
    alone = load("timm:test_resnet", weights="none", mean=0.5, std=0.5, fit=own.fit).preprocess
    assert alone == Preprocess(own.input_size, mean=0.5, std=0.5, fit=own.fit, interpolation=own.interpolation)
    assert load("timm:test_resnet", weights="none", fit="squash").preprocess.resize is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"spec": "nothing"},
            "there is no model 'nothing'; possible: 'timm:NAME', 'torchvision:NAME', 'hf:NAME or FOLDER'",
        ),
        (
            {"spec": "ResNet18"},
            r"there is no model 'ResNet18'; did you mean 'timm:resnet18' or 'torchvision:resnet18'\?",
        ),
        ({"spec": "unet"}, r"did you mean 'smp:unet/resnet34'\?"),
        ({"spec": "yolov8n"}, r"did you mean 'ultralytics:yolov8n'\?"),
        ({"spec": "tim:resnet18"}, "no model source called 'tim'; nearest: 'timm'"),
        ({"spec": "net.onnx"}, r"there is no ONNX file 'net\.onnx'"),
        ({"spec": "net.tflite"}, r"net\.tflite is an exported program, .* arch='timm:NAME'"),
        ({"spec": "net.pt2", "arch": "timm:resnet18"}, r"net\.pt2 is an exported program"),
        ({"spec": "w.pth"}, r"w\.pth holds only weights: name their network"),
        ({"spec": "w.pth", "arch": "timm:resnet18"}, r"there is no weights file 'w\.pth'"),
        ({"spec": "timm:resnet18", "weights": "absent.pth"}, r"there is no weights file 'absent\.pth'"),
    ],
)
def test_models_that_do_not_exist(given, message):
    with pytest.raises(ModelError, match=message):
        load(given.pop("spec"), **given)


def test_a_program_is_not_taken_for_weights_alone(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt is a TorchScript program, not weights: save .*state_dict\(\)"):
        load(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"spec": "w.pth", "arch": "timm:resnet18", "weights": "v.pth"}, "two files of weights"),
        ({"arch": "timm:resnet18"}, "arch='timm:resnet18' needs a weights file"),
        ({"labels": ["a"], "classes": 2}, "1 labels for a network with 2 classes"),
        ({"classes": 0}, "classes must be at least 1"),
        ({"outcome": "both"}, "outcome cannot be 'both'; possible: one, any, value, boxes"),
        ({"fit": "zoom"}, "fit cannot be 'zoom'"),
        ({"mean": [0.5, 0.5]}, "mean has 2 numbers and the network takes 3 channels"),
    ],
)
def test_settings_that_do_not_go_together(given, message):
    with pytest.raises(SettingError, match=message):
        load(given.pop("spec", "timm:test_resnet"), **{"weights": "none", **given})


def test_two_names_for_one_logit():
    model = load("timm:test_resnet", weights="none", classes=1, labels=["normal", "ill"])
    assert (model.outcome, model.labels, model.index("ill")) == ("any", ("normal", "ill"), 1)
    both = model.probability(torch.tensor([[2.0]]))
    torch.testing.assert_close(both, torch.tensor([[-2.0, 2.0]]).sigmoid())
    value = load("timm:test_resnet", weights="none", classes=1, labels=["age"], outcome="value")
    assert value.probability(torch.tensor([[2.0]])) is None
