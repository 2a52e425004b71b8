from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camscope.errors import LayerError, ModelError
from camscope.explanation import cam
from camscope.trace import record, tracing, unchanged


class Restless(nn.Module):
    """Writes to its buffers, replaces one, and fails where it is told to, even in eval mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.9)
        self.tail = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.ones(4))
        self.register_buffer("nothing", None)
        self.fail = ""

    def forward(self, x):
        self._may_fail("start")
        self.seen += 1
        x = self.drop(self.norm(self.conv(x)))
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean((0, 2, 3)))
        self._may_fail("middle")
        self.seen = self.seen + 1
        x = self.tail(x.relu())
        self._may_fail("end")
        return self.fc(x.mean((2, 3)))

    def _may_fail(self, place):
        if self.fail == place:
            raise ZeroDivisionError(place)


@pytest.fixture
def restless():
    """A network in a mixed state: flags, gradients and hooks of the user's own."""
    torch.manual_seed(0)
    net = Restless().double().train()
    net.drop.eval()
    net.tail.eval()
    net.conv.weight.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    net.norm.register_forward_hook(lambda *_: None)
    return net


@pytest.fixture
def x(pictures):
    return pictures(2, 2, 9, 9)


def test_eval_inside_whatever_the_flags(restless, x):
    restless.eval()
    expected = restless(x).detach()
    restless.train()
    first = record(restless, x, layers=["norm"]).outputs
    assert torch.equal(first.detach(), expected)
    assert torch.equal(record(restless, x, layers=["norm"]).outputs, first)


@pytest.mark.parametrize("layer", ["conv", "norm", "drop", "tail", "relu()", "fc"])
def test_the_model_is_left_bit_identical(restless, x, snapshot, layer):
    before = snapshot(restless)
    forward = record(restless, x, layers=[layer])
    forward.trace(layer, [lambda out: out[0]] * 2).gradients  # noqa: B018
    assert snapshot(restless) == before


@pytest.mark.parametrize("fail", ["start", "middle", "end"])
@pytest.mark.parametrize("layer", ["conv", "tail", "relu()"])
def test_bit_identical_after_an_exception_in_the_network(restless, x, snapshot, fail, layer):
    before = snapshot(restless)
    restless.fail = fail
    with pytest.raises(ZeroDivisionError):
        record(restless, x, layers=[layer])
    restless.fail = ""
    assert snapshot(restless) == before


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_bit_identical_after_an_exception_in_the_block(restless, x, snapshot, stop):
    before = snapshot(restless)

    def interrupted():
        with tracing(restless, ["norm", "tail", "relu()"]):
            restless(x)
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert snapshot(restless) == before


def test_bit_identical_after_a_wrong_name(restless, snapshot):
    before = snapshot(restless)
    with pytest.raises(LayerError), tracing(restless, ["norm", "nrom"]):
        pass
    assert snapshot(restless) == before


def test_bit_identical_after_an_exception_in_a_target_an_edit_or_a_method(restless, x, snapshot):
    def stop(*_):
        raise ZeroDivisionError

    before = snapshot(restless)
    trace = record(restless, x, layers=["norm"]).trace("norm", [lambda out: out[0]] * 2)
    for act in (
        lambda: cam(restless, x, layer="norm", targets=stop),
        lambda: cam(restless, x, layer="norm", method=stop),
        lambda: record(restless, x, layers=["norm"], edits={"norm": stop}),
        lambda: trace.again(edit=stop),
        lambda: trace.again(x, edit=stop),
    ):
        with pytest.raises(ZeroDivisionError):
            act()
        assert snapshot(restless) == before


def test_unchanged_leaves_a_networks_own_eval_alone(snapshot):
    class Loud(nn.Linear):
        def train(self, *_):
            raise AssertionError("not to be called")

    net = Loud(2, 2)
    before = snapshot(net)
    with unchanged(net):
        assert not net.training
        assert not net.weight.requires_grad
    assert snapshot(net) == before
    with unchanged(net, frozen=False):
        assert net.weight.requires_grad


@pytest.mark.parametrize("frozen", [True, False])
def test_the_graph_starts_at_the_layer(make_net, pictures, frozen):
    net = make_net("pooled").requires_grad_(not frozen)
    x = pictures(2, 3, 24, 24).requires_grad_()
    tracked = []
    for module in net:
        module.register_forward_hook(lambda m, _, out: tracked.append(out.requires_grad))
    forward = record(net, x, layers=["4"])
    layer = forward.records["4"]
    assert layer.is_leaf
    assert layer.requires_grad
    # The user's hook on the layer itself came first and saw it before it was recorded.
    assert tracked == [False] * 5 + [True] * 4
    nodes, seen = [forward.outputs.grad_fn], set()
    while nodes:
        node = nodes.pop()
        seen.add(node)
        nodes += [following for following, _ in node.next_functions if following is not None and following not in seen]
    leaves = {id(node.variable) for node in seen if hasattr(node, "variable")}
    assert leaves == {id(layer)}
    assert not forward.inputs.requires_grad
    assert x.grad is None


def test_later_layers_stay_in_the_graph_of_the_first(make_net, pictures):
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    forward = record(net, x, layers=["4", "1", "7"])
    first, middle, last = (forward.records[name] for name in ("1", "4", "7"))
    assert [t.is_leaf for t in (first, middle, last)] == [True, False, False]
    (gradient,) = torch.autograd.grad(middle.sum(), first, retain_graph=True)
    assert gradient.any()
    for name in ("1", "4", "7"):
        alone = record(net, x, layers=[name]).trace(name, [lambda out: out[2]] * 2)
        together = forward.trace(name, [lambda out: out[2]] * 2)
        torch.testing.assert_close(together.gradients, alone.gradients, rtol=1e-12, atol=0)
        assert torch.equal(together.activations, alone.activations)
        assert alone.gradients.any()


def test_in_place_layers_do_not_touch_the_record(make_net, pictures):
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    conv = net[4](net[:4](x)).detach()
    assert (conv < 0).any()
    trace = record(net, x, layers=["4"]).trace("4", [lambda out: out[0]] * 2)
    assert torch.equal(trace.activations, conv)
    leaf = conv.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net[6:](leaf.relu())[:, 0].sum(), leaf)
    torch.testing.assert_close(trace.gradients, expected, rtol=1e-12, atol=0)


class NoGrad(nn.Module):
    """A backbone that its network runs in torch.no_grad(), in two parts."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def features(self, x):
        return self.body(self.stem(x))

    def forward(self, x):
        with torch.no_grad():
            x = self.stem(x)
        x = self._body(x)
        return self.head(x.mean((2, 3)))

    @torch.no_grad()
    def _body(self, x):
        return self.body(x)


@pytest.mark.parametrize("layer", ["stem.0", "stem", "body.0", "body", None])
def test_a_network_that_runs_its_backbone_without_grad(x, layer):
    torch.manual_seed(0)
    net = NoGrad().double()
    free = nn.Sequential(net.stem, net.body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head)
    names = {"stem.0": "0.0", "stem": "0", "body.0": "1.0", "body": "1", None: "1"}
    result = cam(net, x, layer=layer, targets=1)
    assert result.any()
    torch.testing.assert_close(result, cam(free, x, layer=names[layer], targets=1), rtol=1e-12, atol=0)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("layer", ["body", "relu()", None])
def test_the_callers_grad_mode_does_not_matter(x, mode, layer):
    class Net(NoGrad):
        def forward(self, x):
            return self.head(F.relu(self.features(x) - 0.1).mean((2, 3)))

    torch.manual_seed(0)
    net = Net().double()
    expected = cam(net, x, layer=layer, targets=1)
    with mode():
        result = cam(net, x.clone(), layer=layer, targets=1)
    assert expected.any()
    assert torch.equal(result, expected)
    assert not result.requires_grad
    assert not result.is_inference()


def test_an_input_that_requires_grad_gets_none(make_net, pictures):
    x = pictures(1, 3, 24, 24).requires_grad_()
    assert not cam(make_net("pooled"), x, layer="5").requires_grad
    assert x.grad is None


def test_of_nested_contexts_the_innermost_records(make_net, pictures):
    net, x = make_net("pooled"), pictures(1, 3, 24, 24)
    with tracing(net, ["4", "1"]) as outer:
        with tracing(net, ["4"]) as inner:
            net(2 * x)
        assert not outer.tensors
        net(x)
    assert inner.calls == {"4": 1}
    assert outer.calls == {"1": 1, "4": 1}
    assert torch.equal(outer.tensors["4"].detach(), net[:5](x).detach())
    assert torch.equal(inner.tensors["4"].detach(), net[:5](2 * x).detach())


@pytest.mark.parametrize("layer", ["layer1", "layer1.0", "relu()"])
def test_threads_on_one_network(pictures, snapshot, layer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer1 = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Dropout(0.9), nn.Conv2d(8, 8, 3))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(F.relu(self.layer1(x)).mean((2, 3)))

    torch.manual_seed(0)
    net = Net().double().train()
    before = snapshot(net)
    methods = ["gradcam", "eigencam", "scorecam", "ablationcam"]
    jobs = [(pictures(2, 2, 12, 12, seed=seed), name) for seed in range(4) for name in methods]
    alone = [cam(net, batch, layer=layer, method=name, targets=1) for batch, name in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: cam(net, job[0], layer=layer, method=job[1], targets=1), jobs))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    assert snapshot(net) == before


def test_a_layer_without_a_tensor():
    class Names(nn.Module):
        def forward(self, x):
            return ["a"]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.names = Names()

        def forward(self, x):
            self.names(x)
            return x.flatten(1)

    with pytest.raises(LayerError, match="layer 'names' returns no floating-point tensor"):
        record(Net(), torch.ones(1, 1, 2, 2), layers=["names"])


def test_programs_are_refused_with_what_to_do_instead():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    x = torch.zeros(1, 2, 8, 8)
    exported = torch.export.export(net, (x,))
    for program in (torch.jit.trace(net, x), exported, exported.module()):
        with pytest.raises(ModelError, match=r"is a program without modules .*load_state_dict\(program\.state_dict"):
            cam(program, x)
    assert cam(torch.fx.symbolic_trace(net), x, layer="1").shape == (1, 6, 6)
