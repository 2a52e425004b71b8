"""camscope models: the names, and what would be used of one."""

import json

import pytest

from running import inside


def test_names_of_a_source():
    done = inside("models", "timm:resnet18*")
    assert done.returncode == 0
    assert "timm:resnet18" in done.stdout.split()
    assert all(line.startswith("timm:resnet18") for line in done.stdout.split())
    assert json.loads(inside("models", "torchvision:*resnet50", "--json").stdout) == [
        "torchvision:resnet50",
        *("torchvision:deeplabv3_resnet50", "torchvision:fcn_resnet50"),
    ]


def test_a_pattern_needs_no_source():
    found = inside("models", "convnext_bas*").stdout.split()
    assert {"timm:convnext_base", "torchvision:convnext_base"} <= set(found)
    assert all(name.partition(":")[2].startswith("convnext_bas") for name in found)


def test_the_hub_is_more_than_its_examples():
    done = inside("models", "hf:*resnet*")
    assert done.stdout.split() == ["hf:microsoft/resnet-50"]
    assert "hf: takes any image classifier, CLIP, SigLIP, object detector or semantic" in done.stderr
    assert inside("models", "torchxrayvision:*nih").stdout.split() == ["torchxrayvision:densenet121-res224-nih"]


def test_a_name_that_no_source_has():
    done = inside("models", "timm:no-such-model")
    assert (done.returncode, done.stdout) == (2, "")
    assert "matches 'timm:no-such-model'" in done.stderr


def test_what_would_be_used():
    done = inside("models", "--check", "timm:test_resnet", "--weights", "none")
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("same maps"))
    assert told["model"] == "timm:test_resnet (random weights)"
    assert told["layer"] == "layer4"
    assert told["grid"] == "5 x 5"
    assert told["head"] == "global average pooling, linear"
    assert told["labels"].startswith("1000: 'tench")
    assert told["outcome"] == "one, outputs 1000"
    assert "input_size 160 160" in told["input"]
    assert "same maps  gradcam = hirescam = xgradcam = shapleycam = cam" in done.stdout


def test_what_would_be_used_for_a_program():
    done = inside("models", "--check", "timm:test_vit", "--weights", "none", "--json")
    told = json.loads(done.stdout)
    assert (told["layer"], told["grid"]) == ("blocks.5.norm1", [10, 10])
    assert told["preprocess"]["input_size"] == [160, 160]


@pytest.mark.parametrize(("pattern", "name"), [("ultralytics:", "yolov8n-seg"), ("smp:", "unet/resnet34")])
def test_sources_of_detectors_and_segmentation_are_listed(pattern, name):
    done = inside("models", pattern)
    assert f"{pattern}{name}" in done.stdout.splitlines()
    assert f"note: {pattern}" in done.stderr


@pytest.mark.parametrize("spec", ["timm:no_such", "tim:resnet18", "net.onnx"])
def test_a_model_that_cannot_be_checked(spec):
    done = inside("models", "--check", spec, "--weights", "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
