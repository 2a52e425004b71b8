import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from camscope.cli.model_options import _per_model
from camscope.errors import SettingError
from running import inside

ARCH = "timm:test_resnet"


@pytest.fixture
def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    state = timm.create_model("test_resnet", num_classes=2).state_dict()
    other = {k: v + 1 for k, v in state.items()}
    both = {**{f"student.{k}": v for k, v in state.items()}, **{f"other.{k}": v for k, v in other.items()}}
    torch.save({**both, "loss.scale": torch.ones(1)}, tmp_path / "w.pth")
    return tmp_path


def test_explain_takes_the_arguments_of_load(folder):
    asked = ["explain", "x.png", "--model", ARCH, "--weights", "w.pth", "--classes", 2, "--out", "maps", "--json"]
    done = inside(*asked, "--write", "json", cwd=folder)
    assert done.returncode == 2
    assert "choose one with --prefix; possible: 'other', 'student'" in done.stderr
    more = [
        "--prefix",
        "student",
        "--ignore",
        "loss.*",
        "--mean",
        "0.5",
        "--std",
        "0.25,0.3,0.25",
        "--input-size",
        "64,80",
    ]
    done = inside(*asked, *more, "--fit", "squash", "--outcome", "any", "--write", "json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "note: timm:test_resnet: left over in the weights file: other.* (92 names)" in done.stderr
    said = json.loads(done.stdout)
    assert "left over in the weights file: other.* (92 names)" in said["notes"]
    preprocess = said["repeat"]["preprocess"] if "repeat" in said else said["preprocess"]
    assert preprocess["mean"] == [0.5] * 3
    assert preprocess["std"] == [0.25, 0.3, 0.25]
    assert preprocess["input_size"] == [64, 80]
    assert preprocess["fit"] == "squash"


def test_bundle_and_models_take_them_too(folder):
    done = inside(
        *("bundle", ARCH, "--weights", "w.pth", "--labels", "a,b", "--prefix", "other", "--mean", "0.4"),
        *("--out", "bundle", "--ignore", "student.*", "--ignore", "loss.*"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    done = inside("models", "--check", "bundle", "--json", "--mean", "0.3", cwd=folder)
    assert json.loads(done.stdout)["preprocess"]["mean"] == [0.3] * 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["w.pth"], "such as --arch timm:resnet18"),
        (["timm:resnet18", "--arch", ARCH], "--arch timm:test_resnet needs a weights file"),
        ([ARCH, "--weights", "none", "--option", "num_classes=3"], "--weights, --classes and --input-size set it"),
        ([ARCH, "--weights", "none", "--prefix", "student"], "give one with --weights FILE"),
        ([ARCH, "--weights", "none", "--set", "weights=w.pth"], "load the model with --weights"),
    ],
)
def test_messages_name_the_options_of_the_command(folder, given, said):
    done = inside("explain", "x.png", "--out", "maps", "--model", *given, cwd=folder)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_file_of_weights_as_the_model(folder):
    asked = ["--arch", ARCH, "--prefix", "other", "--classes", 2, "--name", "my net", "--write", "json", "--json"]
    done = inside("explain", "x.png", "--model", "w.pth", *asked, "--out", "maps", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "my net"


def test_pickles_need_trust():
    pytest.importorskip("torchxrayvision")
    asked = ["models", "--check", "torchxrayvision:densenet121-res224-rsna"]
    assert "which can run code when it is read" in inside(*asked).stderr
    done = inside(*asked, "--trust")
    assert "which can run code" not in done.stderr


def test_options_of_the_source_may_be_for_one_model():
    found = _per_model({"option": ["in_chans=1", "2:drop_rate=0.5"], "ignore": ["1:head.*"], "trust": True}, 2)
    assert found == [
        {"options": {"in_chans": 1}, "ignore": ["head.*"], "trust": True},
        {"options": {"in_chans": 1, "drop_rate": 0.5}, "trust": True},
    ]
    with pytest.raises(SettingError, match="names model 3, but got 2 models"):
        _per_model({"option": ["3:drop_rate=0.5"]}, 2)
