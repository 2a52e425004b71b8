import json

import pytest
import torch
from torch import nn

from camscope import Model, load
from camscope.explanation.inspect_model import axes, examine
from camscope.models.preprocess import Preprocess
from camscope.trace import Layout

ONE = ["gradcam", "hirescam", "xgradcam"]


def found(net, **more):
    return examine(Model("net", net.eval(), preprocess=Preprocess(input_size=(64, 64)), **more))


@pytest.mark.parametrize(
    ("name", "size", "head", "same"),
    [
        ("small resnet", 128, "global average pooling, linear", [*ONE, "shapleycam", "cam"]),
        ("convnext_tiny", 96, "global average pooling, layer norm, linear", ONE),
        ("small vit", 64, "tokens with 1 before the grid", None),
        ("small swin", 64, "global average pooling, linear", [*ONE, "shapleycam", "cam"]),
    ],
)
def test_heads_and_the_methods_that_are_one_on_them(name, size, head, same, shared_net):
    preprocess = Preprocess(input_size=(size, size))
    told = examine(Model(name, shared_net(name), preprocess=preprocess, labels=tuple("abcde")))
    assert told["head"] == head
    assert (told["same"][0][: len(same)] if same else told["same"] or None) == same
    assert told["labels"] == {"count": 5, "first": ["a", "b", "c", "d", "e"]}
    json.dumps(told, allow_nan=False)


def test_heads_that_do_not_pool(make_net):
    conv = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 3))
    assert found(conv)["head"] == "flatten, linear"
    more = nn.Sequential(*conv[:3], nn.Linear(8 * 15 * 15, 6), nn.GELU(), nn.Linear(6, 3))
    assert found(more)["head"] == "flattened or convolved: places weigh differently"
    pooled = nn.Sequential(
        *conv[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)
    )
    assert found(pooled)["head"] == "global average pooling, and more than a linear layer"
    assert found(nn.Sequential(*conv[:2], nn.Conv2d(8, 3, 3, padding=1)))["head"] == "a map of scores"


def test_what_is_told_of_a_model_from_a_source():
    told = examine(load("timm:test_vit", weights="none"))
    assert (told["model"], told["weights"], told["outputs"]) == ("timm:test_vit", "none", [1000])
    assert (told["layer"], told["grid"], told["channels"]) == ("blocks.5.norm1", [10, 10], 64)
    assert told["layout"] == "(batch, tokens, channels), tokens = 1 + 10 x 10"
    assert told["preprocess"]["input_size"] == [160, 160]
    assert told["labels"]["first"][0].startswith("tench")


def test_the_model_is_left_as_it_is(snapshot):
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    before = snapshot(net)
    with torch.no_grad():
        examine(Model("net", net, preprocess=Preprocess(input_size=(64, 64))))
    assert snapshot(net) == before


def test_axes():
    assert axes(Layout(channel=3), 4) == "(batch, space, space, channels)"
    assert axes(Layout(batch=1, channel=2, grid=(8, 8)), 3) == "(tokens, batch, channels), tokens = 8 x 8"
