"""Networks as they are trained and deployed: wrapped, compiled, checkpointed, in inference mode."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import camscope as cs
from camscope.trace import record
from camscope.trace.replica import replicate
from camscope.trace.wrappers import bare, without_checkpoints


class Net(nn.Module):
    """A small network whose body may be run in several ways."""

    def __init__(self, how="plain"):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.fc, self.how = nn.Linear(8, 2), how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.fc(self.body(x).mean((2, 3)))
        if self.how == "inference":
            with torch.inference_mode():
                return self.fc(self.body(x).mean((2, 3)))
        if self.how == "frozen body":
            with torch.inference_mode():
                y = self.body(x)
            return self.fc(y.clone().mean((2, 3)))
        if self.how == "reentrant":
            y = checkpoint(self.body, x, use_reentrant=True)
        elif self.how == "checkpoint":
            y = checkpoint(self.body, x, use_reentrant=False)
        elif self.how == "sequential":
            y = checkpoint_sequential(self.body, 2, x, use_reentrant=False)
        else:
            y = self.body(x)
        return self.fc(y.mean((2, 3)))


@pytest.fixture
def x():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", [None, "body.1", "relu()"])
@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "layercam"])
@pytest.mark.parametrize("how", ["no_grad", "inference", "frozen body", "reentrant", "checkpoint", "sequential"])
def test_the_same_map_however_the_body_is_run(x, how, layer, method):
    layer = "body.1.relu()" if layer == "relu()" else layer
    expected = cs.cam(Net(), x, targets=0, layer=layer, method=method)
    assert torch.equal(cs.cam(Net(how), x, targets=0, layer=layer, method=method), expected)


def test_checkpoints_of_other_threads_stay(x):
    """While this thread goes without, another one checkpoints: its body runs again in the backward pass."""
    net, runs = Net("checkpoint"), []
    net.body.register_forward_pre_hook(lambda *_: runs.append(threading.current_thread().name))

    def train():
        net(x.clone().requires_grad_()).sum().backward()

    with without_checkpoints():
        thread = threading.Thread(target=train, name="other")
        thread.start()
        thread.join()
        train()
    assert runs.count("other") == 2
    assert len(runs) == 3
    assert torch.utils.checkpoint.CheckpointFunction.__module__ == "torch.utils.checkpoint"


def test_wrapped_networks_give_the_map_of_the_network_inside(x):
    expected = cs.cam(Net(), x, targets=0)
    wrapped = [nn.DataParallel(Net()), torch.compile(Net(), backend="eager")]
    wrapped += [torch.optim.swa_utils.AveragedModel(Net()), nn.DataParallel(torch.compile(Net(), backend="eager"))]
    inside = Net()
    inside.body = torch.compile(inside.body, backend="eager")
    compiled = Net()
    compiled.compile(backend="eager")
    compiled(x)
    for net in (*wrapped, inside, compiled):
        assert torch.equal(cs.cam(net, x, targets=0), expected)
    assert torch.equal(cs.cam(wrapped[0], x, targets=0, layer="module.body"), expected)
    assert torch.equal(cs.cam(wrapped[1], x, targets=0, layer="_orig_mod.body"), expected)
    assert bare(wrapped[3]) is not wrapped[3]


def test_a_copy_shares_memory_and_nothing_else(x):
    net = Net()
    net.names, net.parts = {"first": net.body}, [net.body[0], (net.fc,)]
    net.run = net.body.forward
    twin = replicate(net)
    assert torch.equal(twin(x), net.eval()(x))
    assert twin.names["first"] is twin.body
    assert twin.parts[1][0] is twin.fc
    assert twin.run.__self__ is twin.body
    assert twin.fc.weight.data_ptr() == net.fc.weight.data_ptr()
    twin.body[0].register_forward_hook(lambda *_: 1 / 0)
    net(x)
    with torch.no_grad():
        net.fc.weight.mul_(2)
    assert torch.equal(twin.fc.weight, net.fc.weight)


@pytest.mark.parametrize("kind", ["closure", "default", "method", "lstm"])
def test_what_is_set_on_an_instance_leads_to_the_copy(x, kind):
    net = Net()
    if kind == "closure":
        net.forward = lambda x: net.fc(net.body(x).mean((2, 3)))
    elif kind == "default":
        net.forward = lambda x, body=net.body, fc=net.fc: fc(body(x).mean((2, 3)))
    elif kind == "method":
        original = net.forward
        net.forward = lambda x: 2 * original(x)
    else:
        net.lstm = nn.LSTM(8, 8, batch_first=True)
        net.forward = lambda x: net.fc(net.lstm(net.body(x).flatten(2).movedim(1, 2))[0][:, -1])
    twin = replicate(net, lambda _module, _name, parameter: torch.zeros_like(parameter))
    seen = []
    net.body.register_forward_hook(lambda *_: seen.append(1))
    assert not twin(x).any()
    assert not seen
    assert net(x).any()


@pytest.mark.parametrize("method", ["cam", "ablationcam", "reciprocam", "frozennormcam", "scorecam"])
def test_predictions_of_another_thread_are_right_while_one_explains(x, method):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    if method == "frozennormcam":
        net.insert(4, nn.LayerNorm(8))
    with torch.no_grad():
        expected = net(x)
    wrong, stop = [], threading.Event()

    def predict():
        while not stop.is_set():
            with torch.no_grad():
                found = net(x)
            if found.shape != expected.shape or not torch.equal(found, expected):
                wrong.append(found)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        maps = [cs.cam(net, x, method=method, layer="1", targets=1) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert all(torch.equal(m, maps[0]) for m in maps)


def test_two_threads_that_explain_with_one_network_get_the_serial_maps(x):
    net = Net()
    expected = [cs.cam(net, x, targets=c, method="ablationcam") for c in (0, 1)]
    found = {0: [], 1: []}
    threads = [
        threading.Thread(
            target=lambda c=c: found[c].extend(cs.cam(net, x, targets=c, method="ablationcam") for _ in range(10))
        )
        for c in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for c in (0, 1):
        assert len(found[c]) == 10
        assert all(torch.equal(m, expected[c]) for m in found[c])


class Outputs(Net):
    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, *args, **kwargs):
        x = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.ndim == 4)
        features = self.body(x).mean((2, 3))
        return self.give(features, self.fc(features))


@pytest.mark.parametrize(
    ("give", "output"),
    [
        (lambda f, z: (f, z), 1),
        (lambda f, z: [f, z], -1),
        (lambda f, z: {"age": f, "gender": z}, "gender"),
        (lambda f, z: {"age": f, "gender": z}, 1),
        (lambda f, z: {"logits": f, "out": z}, "out"),
    ],
)
def test_one_of_several_outputs(x, give, output):
    net, expected = Outputs(give), cs.cam(Net(), x, targets=1)
    assert torch.equal(cs.cam(net, x, targets=1, output=output), expected)
    assert torch.equal(cs.cam(net, x, targets=lambda out: out[1], output=output), expected)
    assert torch.equal(
        cs.cam(net, x, targets=1, output=output, method="ablationcam"),
        cs.cam(Net(), x, targets=1, method="ablationcam"),
    )
    with pytest.raises(cs.errors.TargetError, match="has no output 'nothing'; possible: "):
        cs.cam(net, x, targets=1, output="nothing")


def test_a_choice_among_outputs_is_told(x):
    for give, told in (
        (lambda f, z: (f, z), True),
        (lambda f, z: {"logits": z, "aux": f}, False),
        (lambda f, z: z, False),
    ):
        assert bool(record(Outputs(give), x, layers=[]).note) == told


@pytest.mark.parametrize(
    "end", [lambda z: z[:, 0], lambda z: z[:, :1].squeeze(), lambda z: z.sigmoid()[:, 0], lambda z: z[:, 0].view(-1)]
)
def test_one_number_per_image(x, end):
    expected = cs.cam(Net(), x, targets=0)
    net = Outputs(lambda _, z: end(z))
    torch.testing.assert_close(cs.cam(net, x), expected)
    torch.testing.assert_close(cs.cam(net, x[:1]), expected[:1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "end",
    [
        lambda p: p.half(),
        lambda p: p.clamp(1e-7, 1 - 1e-7),
        lambda p: p.unsqueeze(1).squeeze(),
        lambda p: p.double().float().view(len(p), -1),
    ],
)
def test_the_logit_is_explained_through_what_follows_the_softmax(x, end):
    net = Outputs(lambda _, z: end(z.softmax(1)))
    forward = record(net, x, layers=[])
    assert forward.bypassed == "softmax"
    torch.testing.assert_close(cs.cam(net, x, targets=0), cs.cam(Net(), x, targets=0))


def test_outputs_that_are_no_rows_per_image_are_refused(x):
    with pytest.raises(cs.errors.TargetError, match=r"one row of scores per image \(batch of 2\), but got \(4,\)"):
        cs.cam(Outputs(lambda _, z: z.flatten()), x, layer="body")
