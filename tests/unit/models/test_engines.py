import copy
import signal
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import camscope as cs
from camscope.errors import EngineError, SettingError
from camscope.models.engines import prepare, resolve
from camscope.models.engines.thin import ThinProducts
from camscope.trace import record
from conftest import enliven

INPUTS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMSCOPE_CACHE", str(tmp_path))


def network(name, **options):
    return enliven(timm.create_model(name, num_classes=5, **options))


def same(found, expected):
    found, expected = found.detach(), expected.detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


NETWORKS = {
    "batch norm with its own activation": lambda: network("test_efficientnet"),
    "residual": lambda: network("test_resnet"),
    "layer norm and linear layers": lambda: network("convnext_atto"),
    "tokens": lambda: network("test_vit", img_size=64),
    "dense, in place": lambda: network("densenet121"),
}


@pytest.mark.parametrize("engine", ["packed", "openvino"])
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_the_network_itself(name, engine):
    net = NETWORKS[name]()
    layer = cs.default_layer(net, INPUTS)
    prepared = prepare(net, INPUTS, layer=layer, engine=engine)
    if (name, engine) == ("tokens", "openvino"):  # what goes around the norm is not the layer's output
        assert prepared.name == "eager"
        assert "differ by" in prepared.note
        return
    assert (prepared.name, prepared.note) == (engine, "")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for x in (INPUTS, INPUTS[:1], torch.cat([INPUTS.flip(0), INPUTS])):
        for method in ("gradcam", "hirescam", "reciprocam"):
            same(cs.cam(net, x, method=method, targets=1, engine=engine), cs.cam(net, x, method=method, targets=1))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any("forward" in vars(module) for module in net.modules())


@pytest.mark.parametrize("engine", ["packed", "openvino"])
def test_perturbations_run_on_the_engine(engine):
    net = network("test_resnet")
    calls = []
    net.conv1[0].register_forward_hook(lambda *_: calls.append(1))
    plain = cs.cam(net, INPUTS[:1], method="scorecam", targets=1)
    eager = len(calls)
    fast = cs.cam(net, INPUTS[:1], method="scorecam", targets=1, engine=engine)
    same(fast, plain)
    assert eager > 1


def test_normalisation_and_activation_go_into_the_convolution():
    net = enliven(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8, affine=False), nn.SiLU(),
            nn.Conv2d(8, 8, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )
    )  # fmt: skip
    trunk = prepare(net, INPUTS, layer="7", engine="packed").trunk
    assert {weight: product.follows for weight, product in trunk.products.items()} == {
        net[0].weight: ("batch_norm", "relu"),
        net[3].weight: ("batch_norm", "silu"),
        net[6].weight: ("gelu",),
    }
    same(record(net, INPUTS, layers=["7"], trunk=trunk).outputs, net(INPUTS))


ACTIVATIONS = [
    timm.layers.GELU(), timm.layers.GELUTanh(), nn.SiLU(inplace=True), nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(),
    nn.Hardtanh(-0.5, 0.3), nn.LeakyReLU(0.2, inplace=True), nn.Hardswish(), F.relu, torch.Tensor.relu_,
    lambda x: F.hardtanh(x, max_val=0.2), lambda x: F.gelu(x, approximate="tanh"),
]  # fmt: skip


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_go_into_the_product_however_they_are_called(act, dtype):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.end, self.head = nn.Conv2d(3, 8, 3), nn.Identity(), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.end(act(self.conv(x))).mean((2, 3)))

    net, x = enliven(Net()).to(dtype), INPUTS.to(dtype)
    trunk = prepare(net, x, layer="end", engine="packed").trunk
    assert len(trunk.products[net.conv.weight].follows) == 1
    same(record(net, x, layers=["end"], trunk=trunk).outputs, net(x))


class Block(nn.Module):
    """A network of two convolutions whose results are joined in some way."""

    def __init__(self, join):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.act, self.end, self.head = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Identity(), Mean(6)
        self.join = join

    def forward(self, x):
        return self.head(self.end(self.join(self, self.act(self.first(x)))))


class Mean(nn.Linear):
    def __init__(self, channels):
        super().__init__(channels, 2)

    def forward(self, x):
        return super().forward(x.mean((2, 3)))


def as_statement(net, x):
    y = net.norm(net.second(x))
    y.add_(x)
    return net.act(y)


def written_to_between(net, x):
    y = net.second(x)
    return y + x.mul_(2).clone()


def needed_later(net, x):
    y = net.second(x) + x
    return y + x.sigmoid()


def other_sizes(net, x):
    return net.second(x) + x.mean((2, 3), keepdim=True)


JOINS = {
    "of the same tensor": (lambda net, x: net.second(x) + x, False),
    "after a step": (lambda net, x: net.act(net.norm(net.second(x.abs())) + x), True),
    "the other way round": (lambda net, x: x + net.norm(net.second(x.abs())), True),
    "in place": (lambda net, x: net.act(net.norm(net.second(x.abs())).add_(x)), True),
    "into the other": (lambda net, x: x.add_(net.second(x.abs())), False),
    "a weight": (lambda net, x: torch.add(net.second(x.abs()), x, alpha=0.5), False),
    "a number": (lambda net, x: net.second(x) + 1, False),
    "statement": (lambda net, x: as_statement(net, x), False),
    "needed later": (needed_later, False),
    "written to": (written_to_between, False),
    "broadcast": (other_sizes, False),
    "itself": (lambda net, x: (lambda y: y + y)(net.second(x)), False),
    "functions": (lambda net, x: F.relu(F.dropout(net.norm(net.second(x.abs())), training=False) + x), True),
}


@pytest.mark.parametrize("name", JOINS)
def test_additions_go_into_the_convolution_where_nothing_else_needs_the_summand(name):
    join, taken = JOINS[name]
    net = enliven(Block(join))
    prepared = prepare(net, INPUTS, layer="end", engine="packed")
    assert (prepared.name, prepared.note) == ("packed", "")
    assert ("add" in prepared.trunk.products[net.second.weight].follows) == taken
    for x in (INPUTS, INPUTS[:1], INPUTS.repeat(4, 1, 1, 1)):
        found, expected = record(net, x, layers=["end"], trunk=prepared.trunk), record(net, x, layers=["end"])
        same(found.records["end"], expected.records["end"])
        same(found.outputs, expected.outputs)


def test_what_hooks_of_others_are_given_stays_as_it_is():
    net, given = enliven(Block(JOINS["after a step"][0])), []
    net.second.register_forward_hook(lambda _, __, output: given.append(output.clone()))
    net.first.register_forward_hook(lambda _, __, output: given.append(output.clone()))
    trunk = prepare(net, INPUTS, layer="end", engine="packed").trunk
    given.clear()
    record(net, INPUTS, layers=["end"], trunk=trunk)
    found = given[:]
    given.clear()
    net(INPUTS)
    for one, other in zip(found, given, strict=True):
        same(one, other)


def test_a_pass_that_goes_another_way_than_the_one_watched_is_refused():
    net = enliven(Block(lambda net, x: net.second(x).relu() if net.norm.eps < 1 else net.second(x).sigmoid()))
    trunk = prepare(net, INPUTS, layer="end", engine="packed").trunk
    net.norm.eps = 2
    with pytest.raises(EngineError, match="sigmoid is called where relu was before; use engine='eager'"):
        record(net, INPUTS, layers=["end"], trunk=trunk)


def test_linear_layers_of_many_weights_after_the_layer_give_the_same_gradients(monkeypatch):
    monkeypatch.setattr("camscope.models.engines.thin._WEIGHTS", 1)
    first, second = nn.Linear(7, 5), nn.Linear(5, 3, bias=False)
    first.requires_grad_(False)
    second.requires_grad_(False)
    x = torch.randn(4, 7, requires_grad=True)

    def run():
        out = (second(first(x).tanh()) ** 2).sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        return out, slope, *torch.autograd.grad(slope.pow(3).sum(), x)

    expected = run()
    with ThinProducts():
        assert "Thin" in first(x).grad_fn.name()
        found = run()
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def test_larger_batches_are_packed_for_anew_once(monkeypatch):
    sizes = []
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_convolution_weight", lambda *given: sizes.append(given[-1]) or reorder(*given)
    )
    net = network("test_resnet")
    trunk = prepare(net, INPUTS[:1], layer="layer4", engine="packed").trunk
    sizes.clear()
    for n in (2, 16, 16, 3):
        x = INPUTS[:1].repeat(n, 1, 1, 1)
        same(record(net, x, layers=["layer4"], trunk=trunk).outputs, net(x))
    assert {size[0] for size in sizes} == {16}
    assert len(sizes) == len(trunk.products)


def test_weights_are_packed_for_the_batch_that_is_coming(monkeypatch):
    sizes = []
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_convolution_weight", lambda *given: sizes.append(given[-1]) or reorder(*given)
    )
    prepare(network("test_resnet"), INPUTS, layer="layer4", engine="packed")
    assert {size[0] for size in sizes} == {len(INPUTS)}


def test_what_runs_after_the_layer_is_left_alone():
    net = network("test_resnet")
    trunk = prepare(net, INPUTS, layer="layer2", engine="packed").trunk
    after = {*net.layer3.parameters(), *net.layer4.parameters(), *net.fc.parameters()}
    assert trunk.products
    assert not trunk.products.keys() & after


def test_a_module_that_runs_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(self.conv(self.stem(x)).relu()).mean((2, 3)))

    net = Twice()
    prepared = prepare(net, INPUTS, layer="conv", engine="packed")
    assert prepared.name == "eager"
    assert "runs 2 times" in prepared.note
    assert set(prepare(net, INPUTS, layer="conv#0", engine="packed").trunk.products) == {net.stem.weight}


def test_other_weights_are_seen():
    net = network("test_resnet")
    for engine in ("packed", "openvino"):
        cs.cam(net, INPUTS, targets=0, engine=engine)
        with torch.no_grad():
            net.conv1[0].weight.mul_(-0.5)
        same(cs.cam(net, INPUTS, targets=0, engine=engine), cs.cam(net, INPUTS, targets=0))


def test_a_network_that_cannot_be_taken_is_computed_by_itself_with_a_note():
    double = network("test_resnet").double()
    assert "float32" in prepare(double, INPUTS.double(), layer="layer4", engine="openvino").note
    prepared = prepare(nn.Sequential(nn.ReLU(), Mean(3)), INPUTS, layer="0", engine="packed")
    assert (prepared.name, prepared.trunk) == ("eager", None)
    assert "nothing before '0' can be packed" in prepared.note


def test_a_result_used_twice_is_left_as_it_is():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Mean(4)

        def forward(self, x):
            before = self.conv(x)
            return self.head(self.norm(before) + before.abs())

    net = enliven(Odd())
    prepared = prepare(net, INPUTS, layer="norm", engine="packed")
    assert prepared.trunk.products[net.conv.weight].follows == ()
    same(record(net, INPUTS, layers=["norm"], trunk=prepared.trunk).outputs, net(INPUTS))


def test_the_note_stands_in_the_explanation():
    net = nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(2), nn.Unflatten(2, (32, 32)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = cs.Model("pools", net, preprocess=cs.Preprocess(input_size=(64, 64)), layer="2")
    (e,) = cs.explain_all(model, [INPUTS[0].permute(1, 2, 0).sigmoid().numpy()], targets=0, engine="packed")
    assert any("computed without engine packed" in note for note in e.notes)
    assert e.repeat["engine"] == "eager"


def test_compiled_trunks_are_kept_on_disk(tmp_path):
    net = network("test_resnet")
    prepare(net, INPUTS, layer="layer4", engine="openvino")
    (kept,) = (tmp_path / "openvino").glob("*.xml")
    written = kept.stat().st_mtime_ns
    prepare(copy.deepcopy(net), INPUTS, layer="layer4", engine="openvino")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "openvino").glob("*.xml")] == [written]
    with torch.no_grad():
        net.conv1[0].weight.mul_(2)
    prepare(net, INPUTS, layer="layer4", engine="openvino")
    assert len(list((tmp_path / "openvino").glob("*.xml"))) == 2


SIGNALS = """
import faulthandler, gc, os, signal
import timm, torch
from camscope.models.engines import prepare

faulthandler.enable()  # gives the thread an alternate stack for signals
engines = [prepare(timm.create_model("test_resnet").eval(), torch.ones(1, 3, 64, 64), layer="layer4", engine="openvino")
           for _ in range(2)]
del engines[0]
gc.collect()
del engines[0]
gc.collect()
signal.signal(signal.SIGCHLD, lambda *_: print("delivered"))
os.kill(os.getpid(), signal.SIGCHLD)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="the system has no such signal")
def test_a_signal_after_two_engines_are_gone_does_not_stop_the_process():
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "delivered\n"), done.stderr


def test_auto_goes_by_the_number_of_pictures():
    assert [resolve("auto", n) for n in (1, 23, 24, 10**6, None)] == ["eager", "eager", *["packed"] * 3]
    with torch.autocast("cpu", torch.bfloat16):
        assert resolve("auto", 24) == "eager"
    assert resolve("openvino", 1) == "openvino"
    with pytest.raises(SettingError, match="no engine called 'openvin'; nearest: 'openvino'"):
        resolve("openvin", 1)
    with pytest.raises(SettingError, match="'eager'"):
        cs.cam(network("test_resnet"), INPUTS, engine="packed", differentiable=True)
