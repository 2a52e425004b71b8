import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from camscope.trace import record
from camscope.trace.layout import find_layout


def score(output):
    return output.flatten()[1]


def traced(net, x, layer):
    forward = record(net, x, layers=[layer])
    layout = find_layout(forward.records[layer].shape, x.shape, layer=layer)
    return forward.trace(layer, [score] * len(x), layout=layout)


def difference(one, other):
    return float((one - other).detach().abs().max())


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def silence(activations):
    """An edit that differs from cell to cell and channel to channel, and between the copies of one image."""
    changed = activations.clone()
    changed[:, ::3] = 0
    changed[1::2] *= -1.5
    changed[..., 0] += 0.1
    return changed


# name, layer, most of the FLOPs of the whole net that a replay may cost
PLACES = [
    ("plain", "3", 0.25),
    ("plain", "1", 0.8),
    ("plain 1-D", "3", 0.25),
    ("plain 3-D", "3", 0.25),
    ("pooled", "5", 0.1),
    ("pooled", "4", 0.1),
    ("small resnet", "layer4", 0.01),
    ("small resnet", "layer4.1.conv1", 0.1),
    ("small resnet", "layer4.1.bn2", 0.01),
    ("small resnet", "layer4.1.act2", 0.01),
    ("small resnet", "layer4.0.downsample", 0.2),
    ("resnet18", "layer4.1.relu", 0.01),
    ("small densenet", "features.conv0", 0.7),
    ("small densenet", "relu()", 0.01),
    ("small densenet", "features", 0.01),
    ("small densenet", "features.denseblock2.denselayer2.conv1", 0.15),
    ("small vit", "blocks.2.norm1", 0.4),
    ("small vit", "blocks.1", 0.4),
    ("small vit", "blocks.1.attn", 0.65),
    ("small swin", "norm", 0.01),
    ("small swin", "features.3.1.norm2", 0.3),
]


@pytest.mark.parametrize(("name", "layer", "share"), PLACES)
def test_again_equals_a_full_run_and_costs_the_tail(shared_net, pictures, name, layer, share):
    net = shared_net(name)
    dims = {"plain 1-D": 1, "plain 3-D": 3}.get(name, 2)
    x = pictures(2, 2, *[12] * dims) if "plain" in name else pictures(2, 3, 64, 64)
    trace = traced(net, x, layer)
    for rows in (torch.tensor([0, 1, 0]), torch.tensor([1, 1])):
        replayed, full = trace.again(rows=rows, edit=silence), trace.again(x[rows], rows=rows, edit=silence)
        torch.testing.assert_close(replayed.scores, full.scores, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(replayed.outputs, full.outputs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(replayed.gradients, full.gradients, rtol=1e-7, atol=1e-12)
        assert difference(full.outputs, trace.outputs[rows]) > 1e-6, "the edit changes nothing: nothing is tested"
    assert difference(trace.again().outputs, trace.outputs) < 1e-12
    cost = flops(lambda: trace.again(edit=silence)) / flops(lambda: net(x))
    assert cost <= share


def test_again_with_other_inputs(make_net, pictures):
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    trace = traced(net, x, "4")
    other = pictures(3, 3, 24, 24, seed=1)
    again = trace.again(other, rows=torch.tensor([1, 0, 1]), edit=lambda a: a * 2)
    expected = net[6:]((2 * net[:5](other)).relu())
    torch.testing.assert_close(again.outputs, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(trace.again(other[:2]).outputs, net(other[:2]), rtol=1e-12, atol=0)


def test_rows_keep_their_own_targets(make_net, pictures):
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    trace = record(net, x, layers=["5"]).trace("5", [lambda out: out[0], lambda out: out[3]])
    scores = trace.again(rows=torch.tensor([1, 0, 1])).scores
    torch.testing.assert_close(scores, torch.stack([net(x)[1, 3], net(x)[0, 0], net(x)[1, 3]]), rtol=1e-12, atol=0)


def test_modules_before_the_layer_do_not_run(make_net, pictures):
    net, x = make_net("small resnet"), pictures(2, 3, 64, 64)
    calls = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            original = module._forward_impl if hasattr(module, "_forward_impl") else type(module).forward
            module.forward = lambda x, m=module, n=name, f=original: calls.append(n) or f(m, x)
    trace = traced(net, x, "layer4.1.conv1")
    trace.again()
    calls.clear()
    trace.again(edit=silence)
    # layer4.1.conv1 itself answers from memory too; its output is the edited one.
    assert calls == ["layer4.1.bn1", "layer4.1.conv2", "layer4.1.bn2", "fc"]


class Shared(nn.Module):
    """One ReLU used twice; what it gave first goes around its second use."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(8, 3)

    def first(self, x):
        return self.relu(self.a(x))

    def forward(self, x):
        u = self.first(x)
        v = self.relu(self.b(u))
        return self.fc((u.tanh() * v).mean((2, 3)))


def test_of_a_module_that_runs_twice_the_last_call_is_edited(pictures):
    torch.manual_seed(0)
    net, x = Shared().double().eval(), pictures(2, 3, 12, 12)
    u = net.first(x)
    for name, again in (("relu", "relu#1"), ("relu#1", "relu#1")):
        trace = traced(net, x, name)
        v = trace.activations
        torch.testing.assert_close(v, net.b(u).relu(), rtol=1e-12, atol=0)
        expected = net.fc((u.tanh() * silence(v)).mean((2, 3)))
        for edited in (trace.again(edit=silence), trace.again(x, edit=silence)):
            assert edited.layer == again
            torch.testing.assert_close(edited.outputs, expected, rtol=1e-12, atol=0)
    first = traced(net, x, "relu#0")
    v = net.relu(net.b(silence(u)))
    expected = net.fc((silence(u).tanh() * v).mean((2, 3)))
    torch.testing.assert_close(first.again(edit=silence).outputs, expected, rtol=1e-12, atol=0)


class WritesInPlace(nn.Module):
    """Adds the layer's output into what came before it, in place; the scores need both."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        u = self.a(x)
        v = self.b(u)
        u += v
        return self.fc(u.relu_().mean((2, 3)))


class WritesIntoItsInput(WritesInPlace):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


class MixesTheBatch(WritesInPlace):
    """Its tail depends on how many images there are, so that no replay can be proved: everything runs again."""

    def forward(self, x):
        u = self.b(self.a(x)).relu()
        return self.fc(u.mean((2, 3)) * len(x))


@pytest.mark.parametrize("layer", ["a", "b"])
def test_networks_that_write_into_what_came_before(pictures, layer):
    torch.manual_seed(0)
    net, x = WritesInPlace().double().eval(), pictures(2, 3, 12, 12)
    trace = traced(net, x, layer)
    for rows in (torch.tensor([1, 1, 1]), torch.tensor([0, 1])):
        replayed = trace.again(rows=rows, edit=silence)
        full = trace.again(x[rows], rows=rows, edit=silence)
        torch.testing.assert_close(replayed.outputs, full.outputs, rtol=1e-12, atol=0)
        # The record of the rerun was not written into either.
        assert torch.equal(replayed.activations, silence(trace.activations[rows]))


def test_the_fall_back_runs_everything_again(pictures):
    torch.manual_seed(0)
    net, x = MixesTheBatch().double().eval(), pictures(2, 3, 12, 12)
    rows = torch.tensor([1, 1, 1])
    replayed = traced(net, x, "b").again(rows=rows, edit=silence)
    edited = silence(net.b(net.a(x[rows])))
    torch.testing.assert_close(replayed.outputs, net.fc(edited.relu().mean((2, 3)) * 3), rtol=1e-12, atol=0)


class Functional(nn.Module):
    """relu as a function, inside a module that other modules surround."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 8, 3), Block(), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = F.relu(self.one(x), inplace=True)
        return F.relu(self.two(y) + x)


@pytest.mark.parametrize("layer", ["block.relu()", "block.relu()#0", "block.one", "block.two", "stem", "block"])
def test_functional_layers_inside_a_residual_block(pictures, snapshot, layer):
    torch.manual_seed(0)
    net, x = Functional().double().eval(), pictures(2, 3, 12, 12)
    before = snapshot(net)
    trace = traced(net, x, layer)
    rows = torch.tensor([1, 0, 1])
    replayed, full = trace.again(rows=rows, edit=silence), trace.again(x[rows], rows=rows, edit=silence)
    torch.testing.assert_close(replayed.outputs, full.outputs, rtol=1e-12, atol=0)
    relu = layer in ("block.relu()", "block")
    if relu:
        h = net.stem(x)
        last = F.relu(net.block.two(F.relu(net.block.one(h))) + h)
        expected = net.fc(silence(last[rows]).mean((2, 3)))
        torch.testing.assert_close(replayed.outputs, expected, rtol=1e-12, atol=0)
    assert snapshot(net) == before


def test_half_precision_edits_are_made_in_float32(make_net, pictures):
    net, x = make_net("pooled", torch.bfloat16), pictures(2, 3, 24, 24, dtype=torch.bfloat16)
    seen = []
    trace = traced(net, x, "5")
    again = trace.again(edit=lambda a: seen.append(a.dtype) or a * 0)
    assert set(seen) == {torch.float32}
    assert torch.equal(again.outputs, net[8].bias.detach().expand(2, -1))


def test_patched_forwards_are_put_back(make_net, pictures, snapshot):
    """A forward that the user has put on a module stays, also when the replay fails."""
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    original = net[0].forward
    net[0].forward = lambda x: original(x) + 0.5
    failing = []

    def fail(_):
        raise ZeroDivisionError

    net[8].register_forward_hook(lambda *_: fail(0) if failing else None)
    before = snapshot(net)
    trace = traced(net, x, "5")
    trace.again(edit=silence)
    assert snapshot(net) == before

    with pytest.raises(ZeroDivisionError):
        trace.again(edit=fail)
    failing.append(True)
    with pytest.raises(ZeroDivisionError):
        trace.again(edit=silence)
    assert snapshot(net) == before


def test_no_memory_is_kept_for_what_does_not_matter(shared_net, pictures):
    """Modules before the layer answer with zeros of one element where nothing leads around the layer."""
    trace = traced(shared_net("small resnet"), pictures(2, 3, 64, 64), "layer4")
    kept = [t for outputs in trace._tail.outputs.values() for t in outputs]
    assert kept
    assert all(t.untyped_storage().nbytes() <= 8 for t in kept)


@pytest.mark.slow
def test_the_tail_of_resnet50_is_a_two_thousandth():
    net = torchvision.models.resnet50().eval()
    x = torch.randn(1, 3, 224, 224)
    trace = traced(net, x, "layer4")
    trace.again()
    assert flops(lambda: trace.again(edit=silence)) / flops(lambda: net(x)) < 1 / 1000
