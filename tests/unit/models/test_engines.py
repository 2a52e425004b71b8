import copy

import pytest
import timm
import torch
from torch import nn

import camscope as cs
from camscope.errors import SettingError
from camscope.models.engines import prepare, resolve
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
    assert {net[i] for i in range(8)} == set(trunk.forwards)
    same(record(net, INPUTS, layers=["7"], trunk=trunk).outputs, net(INPUTS))


@pytest.mark.parametrize("act", [timm.layers.GELU, timm.layers.GELUTanh, timm.layers.Swish])
def test_activations_of_timm_go_into_the_product_too(act):
    net = enliven(nn.Sequential(nn.Conv2d(3, 8, 3), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)))
    trunk = prepare(net, INPUTS, layer="1", engine="packed").trunk
    assert set(trunk.forwards) == {net[0], net[1]}
    same(record(net, INPUTS, layers=["1"], trunk=trunk).outputs, net(INPUTS))


def test_a_namesake_of_an_activation_is_found_out():
    class ReLU(nn.Module):
        def forward(self, x):
            return x.abs()

    net = enliven(nn.Sequential(nn.Conv2d(3, 8, 3), ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)))
    prepared = prepare(net, INPUTS, layer="1", engine="packed")
    assert prepared.name == "eager"
    assert "differ by" in prepared.note


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
    assert not set(trunk.forwards) & {*net.layer3.modules(), *net.layer4.modules(), net.fc}


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
    assert set(prepare(net, INPUTS, layer="conv#0", engine="packed").trunk.forwards) == {net.stem}


def test_other_weights_are_seen():
    net = network("test_resnet")
    for engine in ("packed", "openvino"):
        cs.cam(net, INPUTS, targets=0, engine=engine)
        with torch.no_grad():
            net.conv1[0].weight.mul_(-0.5)
        same(cs.cam(net, INPUTS, targets=0, engine=engine), cs.cam(net, INPUTS, targets=0))


def test_a_network_that_cannot_be_taken_is_computed_by_itself_with_a_note():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x):
            before = self.conv(x)
            return self.head((self.norm(before) + before.abs()).mean((2, 3)))

    net = enliven(Odd())
    prepared = prepare(net, INPUTS, layer="norm", engine="packed")
    assert (prepared.name, prepared.trunk) == ("eager", None)
    assert "differ by" in prepared.note
    assert torch.equal(cs.cam(net, INPUTS, layer="norm", engine="packed"), cs.cam(net, INPUTS, layer="norm"))
    double = copy.deepcopy(net).double()
    assert "float32" in prepare(double, INPUTS.double(), layer="norm", engine="openvino").note


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


def test_auto_goes_by_the_number_of_pictures():
    assert [resolve("auto", n) for n in (1, 23, 24, 10**6, None)] == ["eager", "eager", *["packed"] * 3]
    with torch.autocast("cpu", torch.bfloat16):
        assert resolve("auto", 24) == "eager"
    assert resolve("openvino", 1) == "openvino"
    with pytest.raises(SettingError, match="no engine called 'openvin'; nearest: 'openvino'"):
        resolve("openvin", 1)
    with pytest.raises(SettingError, match="'eager'"):
        cs.cam(network("test_resnet"), INPUTS, engine="packed", differentiable=True)
