import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camscope.errors import LayerError
from camscope.trace import record
from camscope.trace.layer_path import Address, name_of


class Functions(nn.Module):
    """Calls relu three times itself, once inside a child, and shares that child with a sibling."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.box = Box(self.inner)

    def forward(self, x):
        a = F.relu(x)
        b = self.inner(a)
        c = torch.relu(b - 1)
        d = self.box(c)
        return (d - 0.5).relu_().flatten(1)


class Inner(nn.Module):
    def forward(self, x):
        return F.relu(x * 2)


class Box(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return F.relu(self.inner(x) + 3)


@pytest.fixture
def x():
    return torch.linspace(-1, 4, 16, dtype=torch.float64).reshape(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu()#0", lambda a, b, c, d, e, i: a),
        ("relu()#1", lambda a, b, c, d, e, i: c),
        ("relu()#2", lambda a, b, c, d, e, i: e),
        ("relu()", lambda a, b, c, d, e, i: e),
        ("inner", lambda a, b, c, d, e, i: i),
        ("inner#0", lambda a, b, c, d, e, i: b),
        ("inner.relu()#0", lambda a, b, c, d, e, i: b),
        ("inner.relu()", lambda a, b, c, d, e, i: i),
        ("box.relu()", lambda a, b, c, d, e, i: d),
        ("box.relu()#0", lambda a, b, c, d, e, i: d),
        ("box", lambda a, b, c, d, e, i: d),
    ],
)
def test_every_place_is_found(x, name, function):
    a = x.relu()
    b = (2 * a).relu()
    c = (b - 1).relu()
    i = (2 * c).relu()
    d = (i + 3).relu()
    e = (d - 0.5).relu()
    forward = record(Functions(), x, layers=[name])
    assert torch.equal(forward.records[name].detach(), function(a, b, c, d, e, i))
    assert torch.equal(forward.outputs.detach(), e.flatten(1))


@pytest.mark.parametrize("name", ["innr", "innr.relu()", "inner#x", "inner#"])
def test_no_such_place(name):
    net = Functions()
    if name == "inner#":
        assert Address.parse(net, name).call is None
        return
    with pytest.raises(LayerError, match=r"no layer called '.*'; nearest: 'inner'"):
        Address.parse(net, name)


@pytest.mark.parametrize("name", ["gelu()", "relu()#7", "box.inner.gelu()", "inner#2"])
def test_a_place_that_does_not_run(x, name):
    with pytest.raises(LayerError, match="did not run in the forward pass"):
        record(Functions(), x, layers=[name])


def test_name_of():
    net = Functions()
    assert name_of(net, net.box) == "box"
    with pytest.raises(LayerError, match=r"\(ReLU\) is not a module of this Functions"):
        name_of(net, nn.ReLU())
