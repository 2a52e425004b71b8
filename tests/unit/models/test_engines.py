"""Engines and precisions of the part before the layer give the maps of the network itself."""

import copy
import importlib.util
import signal
import statistics
import subprocess
import sys

import pytest
import timm
import torch
from scipy.stats import spearmanr
from torch import nn

import camscope as cs
from camscope.errors import EngineError, SettingError
from camscope.models.engines import prepare, resolve, resolve_precision
from camscope.models.engines.ahead import cuts_of
from conftest import enliven

INPUTS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMSCOPE_CACHE", str(tmp_path))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network(name, **options):
    return enliven(timm.create_model(name, num_classes=5, **options))


def same(found, expected):
    found, expected = found.detach(), expected.detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


class Residual(nn.Module):
    """The layer is inside a block whose input, and another branch, lead around it."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.conv = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.gate, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        gate = self.gate(x).sigmoid()
        x = x + self.conv(self.norm(x)).relu() * gate
        return self.head(x.mean((2, 3)))


NETWORKS = {
    "batch norm with its own activation": lambda: (network("test_efficientnet"), None),
    "residual": lambda: (network("test_resnet"), None),
    "layer norm and linear layers": lambda: (network("convnext_atto"), None),
    "tokens": lambda: (network("test_vit", img_size=64), None),
    "windows": lambda: (network("swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 1, 1)), None),
    "dense, in place": lambda: (network("densenet121"), None),
    "two ways around the layer": lambda: (enliven(Residual()), "norm"),
    "in the middle": lambda: (network("test_resnet"), "layer2"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_gives_the_maps_of_the_network_itself(name):
    net, layer = NETWORKS[name]()
    layer = layer or cs.default_layer(net, INPUTS)
    prepared = prepare(net, INPUTS, layer=layer, engine="openvino")
    assert (prepared.name, prepared.precision, prepared.note) == ("openvino", "float32", "")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for x in (INPUTS, INPUTS[:1], torch.cat([INPUTS.flip(0), INPUTS])):
        for method in ("gradcam", "hirescam", "reciprocam"):
            options = {"method": method, "targets": 1, "layer": layer}
            same(cs.cam(net, x, engine="openvino", **options), cs.cam(net, x, **options))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any("forward" in vars(module) for module in net.modules())


@pytest.mark.parametrize("engine", ["eager", "openvino"])
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_in_bfloat16_agree_with_float32(name, engine):
    if resolve_precision("auto") != "bfloat16" and engine == "openvino":
        pytest.skip("the processor does not compute in bfloat16")
    net, layer = NETWORKS[name]()
    layer = layer or cs.default_layer(net, INPUTS)
    prepared = prepare(net, INPUTS, layer=layer, engine=engine, precision="bfloat16")
    assert (prepared.name, prepared.precision, prepared.note) == (engine, "bfloat16", "")
    assert prepared.agreement.images == len(INPUTS)
    options = {"method": "hirescam", "targets": 1, "layer": layer}
    lower = cs.cam(net, INPUTS, engine=engine, precision="bfloat16", **options)
    exact = cs.cam(net, INPUTS, **options)
    assert lower.dtype == torch.float32
    assert not torch.equal(lower, exact)
    pairs = zip(lower.flatten(1).numpy(), exact.flatten(1).numpy(), strict=True)
    assert statistics.median(spearmanr(*pair).statistic for pair in pairs) > 0.97
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


@pytest.mark.parametrize("options", [{"engine": "openvino"}, {"precision": "bfloat16"}])
def test_perturbations_run_on_the_engine(options):
    net = network("test_resnet")
    calls = []
    net.conv1[0].register_forward_hook(lambda _, __, output: calls.append(output.dtype))
    plain = cs.cam(net, INPUTS[:1], method="scorecam", targets=1)
    eager = len(calls)
    fast = cs.cam(net, INPUTS[:1], method="scorecam", targets=1, **options)
    if "engine" in options:
        same(fast, plain)
    else:
        assert float(torch.corrcoef(torch.stack([fast.flatten(), plain.flatten()]))[0, 1]) > 0.95
    assert eager > 1


def test_cuts_are_what_leads_around_the_layer():
    assert set(cuts_of(enliven(Residual()), INPUTS, layer="norm")) == {"norm", "stem", "gate"}
    assert cuts_of(network("test_resnet"), INPUTS, layer="layer4") == ("layer4",)
    assert cuts_of(network("densenet121"), INPUTS, layer="features.norm5") == ("features.norm5",)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(self.conv(self.stem(x)).relu()).mean((2, 3)))


def test_a_module_that_runs_twice():
    net = enliven(Twice())
    prepared = prepare(net, INPUTS, layer="conv", engine="eager", precision="bfloat16")
    assert (prepared.name, prepared.precision, prepared.trunk) == ("eager", "float32", None)
    assert "runs 2 times" in prepared.note
    assert prepare(net, INPUTS, layer="conv#0", engine="eager", precision="bfloat16").precision == "bfloat16"


@pytest.mark.parametrize("options", [{"engine": "openvino"}, {"precision": "bfloat16"}])
def test_other_weights_are_seen(options):
    net = network("test_resnet")
    cs.cam(net, INPUTS, targets=0, **options)
    with torch.no_grad():
        net.conv1[0].weight.mul_(-0.5)
    found, expected = cs.cam(net, INPUTS, targets=0, **options), cs.cam(net, INPUTS, targets=0)
    assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > 0.99


class Steep(nn.Module):
    """A network that bfloat16 is too coarse for: the scores are small differences of large numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))

    def features(self, x):
        return self.narrow(self.conv(x) + 1000)

    def narrow(self, x):
        return torch.nn.functional.relu(x - 1000)


def test_a_precision_that_is_too_coarse_is_not_used():
    net = enliven(Steep())
    prepared = prepare(net, INPUTS, layer="relu()", engine="eager", precision="bfloat16")
    assert (prepared.name, prepared.precision, prepared.trunk) == ("eager", "float32", None)
    assert "computed in float32, not in bfloat16" in prepared.note
    with pytest.warns(UserWarning, match="computed in float32, not in bfloat16"):
        maps = cs.cam(net, INPUTS, layer="relu()", targets=0, precision="bfloat16")
    assert torch.equal(maps, cs.cam(net, INPUTS, layer="relu()", targets=0))


def test_a_network_that_cannot_be_taken_is_computed_by_itself_with_a_note():
    double = network("test_resnet").double()
    assert "float32" in prepare(double, INPUTS.double(), layer="layer4", engine="openvino").note
    half = network("test_resnet").bfloat16()
    prepared = prepare(half, INPUTS.bfloat16(), layer="layer4", engine="eager", precision="float16")
    assert (prepared.precision, prepared.trunk) == ("bfloat16", None)
    assert "computed in bfloat16, which its weights have" in prepared.note

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head((x @ torch.eye(x.shape[-1])).mean((2, 3)))

    net = nn.Sequential(nn.Conv2d(3, 3, 1), Constant())
    assert "computed without engine eager in bfloat16" in (
        prepare(net, INPUTS, layer="1.head", engine="eager", precision="bfloat16").note
    )


def test_notes_are_in_the_explanation():
    model = cs.Model("net", network("test_resnet"), preprocess=cs.Preprocess(input_size=(64, 64)))
    images = [image.permute(1, 2, 0).sigmoid().numpy() for image in INPUTS]
    for e in cs.explain_all(model, images, targets=0, precision="bfloat16"):
        assert any(note.startswith("computed in bfloat16 before the layer: on the first 3 images") for note in e.notes)
        assert (e.repeat["engine"], e.repeat["precision"]) == ("eager", "bfloat16")
    odd = cs.Model("twice", enliven(Twice()), preprocess=cs.Preprocess(input_size=(64, 64)), layer="conv")
    e = cs.explain(odd, images[0], target=0, precision="bfloat16")
    assert any("computed without engine eager in bfloat16" in note for note in e.notes)
    assert e.repeat["precision"] == "float32"


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


def test_auto_goes_by_the_number_of_images():
    many = "openvino" if importlib.util.find_spec("openvino") else "eager"
    assert [resolve("auto", n) for n in (1, 399, 400, 10**6, None)] == ["eager", "eager", many, many, "eager"]
    with torch.autocast("cpu", torch.bfloat16):
        assert resolve("auto", 4000) == "eager"
    assert resolve("auto", 4000, device="cuda") == "eager"
    assert resolve("openvino", 1) == "openvino"
    with pytest.raises(SettingError, match="no engine called 'openvin'; nearest: 'openvino'"):
        resolve("openvin", 1)
    with pytest.raises(SettingError, match="'eager'"):
        cs.cam(network("test_resnet"), INPUTS, precision="bfloat16", differentiable=True)


def test_precisions_have_names():
    with pytest.raises(SettingError, match="no precision called 'bf16'"):
        cs.cam(network("test_resnet"), INPUTS, precision="bf16")
    assert resolve_precision("auto", device="mps") == "float32"
    assert resolve_precision("auto") in ("float32", "bfloat16")


def test_what_leads_around_the_layer_must_be_a_tensor_of_one_module():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.conv, self.head = Split(), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            first, second = self.both(x)
            return self.head((self.conv(first) * second).mean((2, 3)))

    class Split(nn.Module):
        def forward(self, x):
            return x + 1, x - 1

    with pytest.raises(EngineError, match="a path around 'conv' begins at 'both'"):
        cuts_of(Pair(), INPUTS, layer="conv")
