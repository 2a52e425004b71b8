import dataclasses

import pytest
import torch
from torch import nn

from camscope.errors import ModelError, TargetError
from camscope.models.model import Model

LABELS = ("crane", "tench, Tinca tinca", "tabby, tabby cat", "Tiger Cat", "crane", "maillot", "maillot, tank suit")


def a_net(**more):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_any_module_makes_a_model():
    net = a_net()
    model = Model("mine", net)
    assert model.net is net
    assert (model.labels, model.layer, model.layout, model.outcome, model.recipe) == ((), None, None, "one", None)
    assert "Conv2d" not in repr(model)
    assert len({model, Model("mine", net)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"


@pytest.mark.parametrize(
    ("label", "index"),
    [("tabby, tabby cat", 2), ("tabby", 2), ("Tabby Cat", 2), ("tiger cat", 3), ("Tinca TINCA", 1), ("maillot", 5)],
)
def test_index(label, index):
    assert Model("mine", a_net(), labels=LABELS).index(label) == index


def test_index_of_no_class_and_of_several():
    model = Model("mine", a_net(), labels=LABELS)
    with pytest.raises(TargetError, match="no class called 'tabbi'; nearest: 'tabby', 'tabby cat'"):
        model.index("tabbi")
    with pytest.raises(TargetError, match=r"2 classes are called 'crane'.*0, 4"):
        model.index("crane")
    with pytest.raises(TargetError, match="mine has no class names"):
        Model("mine", a_net()).index("tabby")


def test_label():
    model = Model("mine", a_net(), labels=LABELS)
    assert [model.label(i) for i in (3, 7, -1)] == ["Tiger Cat", "class 7", "class -1"]


def test_probability():
    logits = torch.tensor([[0.0, 1.0, -2.0], [3.0, 3.0, 3.0]])
    model = Model("mine", a_net())
    torch.testing.assert_close(model.probability(logits).sum(1), torch.ones(2))
    torch.testing.assert_close(model.probability(logits)[1], torch.full((3,), 1 / 3))
    either = dataclasses.replace(model, outcome="any").probability(logits)
    torch.testing.assert_close(either, 1 / (1 + torch.exp(-logits)))
    assert dataclasses.replace(model, outcome="value").probability(logits) is None


def test_digest_is_of_the_content_alone():
    net = a_net()
    digest = Model("one", net).digest
    twin = a_net()
    twin.load_state_dict(net.state_dict())
    twin.to(memory_format=torch.channels_last)
    assert Model("two", twin).digest == digest
    with torch.no_grad():
        twin[0].weight[0, 0, 0, 0] += 1e-3
    assert Model("two", twin).digest != digest
    assert Model("two", net.to(torch.bfloat16)).digest != digest


def test_digest_sees_names_and_shapes():
    class Named(nn.Module):
        def __init__(self, name, *shape):
            super().__init__()
            self.register_buffer(name, torch.zeros(shape))

    digests = {Model("m", net).digest for net in (Named("a", 4), Named("b", 4), Named("a", 2, 2), Named("a"))}
    assert len(digests) == 4


def test_a_network_of_the_callers_own_has_no_bundle(tmp_path):
    with pytest.raises(ModelError, match=r"network of yours.*torch\.save"):
        Model("mine", a_net()).save(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
