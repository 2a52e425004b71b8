import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camscope.errors import TargetError
from camscope.explanation import cam, cams
from camscope.trace import Layout, record


class Body(nn.Module):
    """Scores from images; how the scores leave the network is up to the one that wraps it."""

    def __init__(self, leave=lambda scores: scores):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2)
        self.fc = nn.Linear(6, 3)
        self.leave = leave

    def forward(self, x, scale=None):
        x = self.conv(x).relu()
        x = x if scale is None else x * scale.view(-1, 1, 1, 1)
        return self.leave(self.fc(x.mean((2, 3))))


@pytest.fixture
def body():
    def make(leave=lambda scores: scores):
        torch.manual_seed(0)
        return Body(leave).double().eval()

    return make


@pytest.fixture
def x(pictures):
    return pictures(2, 3, 20, 20)


def score(index):
    return lambda output: output[index]


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    steps: int = 3


def test_several_targets_and_layers_from_one_forward_and_lazy_gradients(make_net, pictures):
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    forwards, backwards = [], []
    net.register_forward_hook(lambda *_: forwards.append(1))
    net[8].register_full_backward_hook(lambda *_: backwards.append(1))
    forward = record(net, x, layers=["1", "5"])
    traces = [forward.trace(layer, [score(c), score(c + 1)]) for layer in ("1", "5") for c in range(4)]
    for trace in traces:
        assert trace.activations.shape[:2] == (2, {"1": 8, "5": 12}[trace.layer])
        assert not trace.used_gradients
    assert (len(forwards), len(backwards)) == (1, 0)
    for trace in traces:
        assert trace.gradients is trace.gradients
        assert trace.gradients.shape == trace.activations.shape
    assert (len(forwards), len(backwards)) == (1, 8)
    for trace, c in zip(traces, [0, 1, 2, 3] * 2, strict=True):
        for image in range(2):
            alone = record(net, x[image : image + 1], layers=[trace.layer]).trace(trace.layer, [score(c + image)])
            torch.testing.assert_close(trace.gradients[image], alone.gradients[0], rtol=1e-10, atol=1e-15)
            torch.testing.assert_close(trace.scores[image], alone.scores[0], rtol=1e-12, atol=0)


def test_many_maps_are_one_forward(make_net, pictures):
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    forwards = []
    net.register_forward_hook(lambda *_: forwards.append(1))
    maps = cams(net, x, layer="5", targets=[[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    assert len(forwards) == 1
    for t in range(5):
        torch.testing.assert_close(maps[:, t], cam(net, x, layer="5", targets=[t, 4 - t]), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "leave",
    [
        lambda scores: {"logits": scores},
        lambda scores: {"features": scores * 2, "out": scores},
        lambda scores: (scores, scores * 2),
        lambda scores: [scores],
        lambda scores: Output(scores),
        lambda scores: pytest.importorskip("transformers.modeling_outputs").ImageClassifierOutput(logits=scores),
    ],
    ids=["dict", "dict with out", "tuple", "list", "dataclass", "ModelOutput"],
)
@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "scorecam"])
def test_scores_in_whatever_the_network_returns(body, x, leave, method):
    expected = cam(body(), x, layer="conv", targets=1, method=method)
    assert expected.any()
    assert torch.equal(cam(body(leave), x, layer="conv", targets=1, method=method), expected)


def test_a_hugging_face_network(pictures):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(image_size=64, patch_size=16, num_labels=4, **sizes)
    torch.manual_seed(0)
    net = transformers.ViTForImageClassification(config).double().eval()
    x = pictures(2, 3, 64, 64)
    torch.testing.assert_close(record(net, x, layers=["vit"]).outputs, net(x).logits, rtol=1e-12, atol=0)
    chosen = cam(net, x, targets=[1, 2])
    assert chosen.shape == (2, 4, 4)
    assert chosen.any()
    for method in ("hirescam", "ablationcam", "eigencam"):
        assert cam(net, x, targets=[1, 2], method=method).isfinite().all()


def log_softmax(scores):
    return F.log_softmax(scores, dim=1)


ENDINGS = {
    "softmax module": (nn.Softmax(1), "softmax"),
    "sigmoid module": (nn.Sigmoid(), "sigmoid"),
    "log-softmax module": (nn.LogSoftmax(1), "log_softmax"),
    "F.softmax": (lambda s: F.softmax(s, dim=1), "softmax"),
    "F.softmax in half precision": (lambda s: F.softmax(s, dim=1, dtype=torch.float32), "softmax"),
    "F.sigmoid": (F.sigmoid, "sigmoid"),
    "F.log_softmax": (log_softmax, "log_softmax"),
    "torch.softmax": (lambda s: torch.softmax(s, 1), "softmax"),
    "torch.sigmoid": (torch.sigmoid, "sigmoid"),
    "tensor.softmax": (lambda s: s.softmax(1), "softmax"),
    "tensor.sigmoid": (lambda s: s.sigmoid(), "sigmoid"),
    "expit": (torch.special.expit, "special_expit"),
    "reshaped": (lambda s: s.softmax(1).view(-1, 3, 1).flatten(1), "softmax"),
    "squeezed": (lambda s: s[:, :, None, None].softmax(1).squeeze(3).squeeze(2), "softmax"),
    "in a dict": (lambda s: {"logits": s.sigmoid(), "raw": s}, "sigmoid"),
    "keyword": (lambda s: F.softmax(input=s, dim=1), "softmax"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("layer", ["conv", "relu()"])
def test_a_final_softmax_or_sigmoid_is_bypassed(body, x, ending, layer):
    leave, name = ENDINGS[ending]
    logits = record(body(), x, layers=[layer]).trace(layer, [score(1)] * 2)
    trace = record(body(leave), x, layers=[layer]).trace(layer, [score(1)] * 2)
    assert trace.forward.bypassed in (name, "expit")
    torch.testing.assert_close(trace.outputs, logits.outputs, rtol=1e-12, atol=0)
    torch.testing.assert_close(trace.gradients, logits.gradients, rtol=1e-12, atol=0)
    assert logits.gradients.any()


def test_a_softmax_is_bypassed_through_a_permutation(body, x):
    class Segmentation(Body):
        def forward(self, x):
            maps = self.fc(self.conv(x).relu().movedim(1, -1)).movedim(-1, 1)
            return maps.softmax(1).permute(0, 2, 3, 1)

    torch.manual_seed(0)
    net = Segmentation().double().eval()
    forward = record(net, x, layers=["conv"])
    assert forward.bypassed == "softmax"
    expected = net.fc(net.conv(x).relu().movedim(1, -1))
    torch.testing.assert_close(forward.outputs, expected, rtol=1e-12, atol=0)


def test_one_sigmoid_or_two_of_another_shape(body, x):
    """A softmax inside, as in attention, and one of which only a part is returned, are no final ones."""
    gated = record(body(lambda s: s * s.sigmoid()), x, layers=["conv"])
    part = record(body(lambda s: s.softmax(1)[:, 1]), x, layers=["conv"])
    assert (gated.bypassed, part.bypassed) == ("", "")
    assert part.outputs.shape == (2,)


def test_log_p_where_only_probabilities_can_be_had(body, x):
    def exp_ratio(scores):
        return scores.exp() / scores.exp().sum(1, keepdim=True)

    forward = record(body(exp_ratio), x, layers=["conv"])
    assert forward.bypassed == "log p"
    expected = record(body(log_softmax), x, layers=["conv"])
    torch.testing.assert_close(forward.outputs, expected.outputs.log_softmax(1), rtol=1e-12, atol=0)
    gradients = forward.trace("conv", [score(1)] * 2).gradients
    assert gradients.any()
    certain = record(body(lambda s: F.one_hot(s.argmax(1), 3).double()), x, layers=["conv"])
    assert certain.bypassed == "log p"
    assert certain.outputs.isfinite().all()


def test_scores_that_are_no_probabilities_are_left_alone(body, x):
    for leave in (lambda s: s, lambda s: s.sum(1), lambda s: s[:, :1], lambda s: s.exp(), lambda s: s.sigmoid() * 3):
        forward = record(body(leave), x, layers=["conv"])
        assert forward.bypassed == ""
        assert torch.equal(forward.outputs, leave(body()(x)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_float32(body, x, dtype):
    net = body().to(dtype)
    trace = record(net, x.to(dtype), layers=["conv"]).trace("conv", [score(1)] * 2)
    assert trace.forward.records["conv"].dtype == dtype
    assert trace.activations.dtype == trace.gradients.dtype == torch.float32
    exact = record(body(), x, layers=["conv"]).trace("conv", [score(1)] * 2)
    torch.testing.assert_close(trace.activations.double(), exact.activations, rtol=0.05, atol=0.05)
    # Where an activation is about 0 the gradient of its ReLU may go either way.
    assert ((trace.gradients - exact.gradients).abs() > 1e-4).double().mean() < 0.01


def test_autocast(body, x):
    net = body().float()
    with torch.autocast("cpu", torch.bfloat16):
        result = cam(net, x.float(), layer="conv", targets=1)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), cam(body(), x, layer="conv", targets=1), rtol=0.1, atol=0.02)


def test_a_score_that_does_not_depend_on_the_layer(body, x):
    class Aside(Body):
        def forward(self, x):
            self.conv(x)
            return self.fc(x.mean((2, 3)).repeat(1, 2))

    net = Aside().double().eval()
    trace = record(net, x, layers=["conv"]).trace("conv", [score(0)] * 2)
    assert not trace.connected
    assert trace.gradients.shape == trace.activations.shape
    assert not trace.gradients.any()
    assert record(body(), x, layers=["conv"]).trace("conv", [score(0)] * 2).connected


def test_several_inputs(body, x):
    net, scale = body(), torch.tensor([2.0, -3.0], dtype=torch.float64)
    result = cam(net, (x, scale), layer="conv", targets=1, method="hirescam")
    torch.testing.assert_close(result, cam(net, x, layer="conv", targets=1, method="hirescam") * scale.view(2, 1, 1))

    class Swapped(Body):
        def forward(self, scale, x):
            return super().forward(x, scale)

    swapped = Swapped().double().eval()
    swapped.load_state_dict(net.state_dict())
    for method in ("hirescam", "scorecam", "ablationcam"):
        there = cam(swapped, (scale, x), layer="conv", targets=1, picture=1, method=method)
        torch.testing.assert_close(there, cam(net, (x, scale), layer="conv", targets=1, method=method))
        assert there.any()


@pytest.mark.parametrize("target", [lambda out: out, lambda out: out[:1], lambda out: float(out[0].detach())])
def test_a_target_that_is_no_scalar(body, x, target):
    with pytest.raises(TargetError, match="a target returns one number"):
        record(body(), x, layers=["conv"]).trace("conv", [target] * 2)


def test_layout_of_a_trace_is_channels_first_unless_given(body, x):
    forward = record(body(), x, layers=["conv"])
    assert forward.trace("conv", [score(0)] * 2).activations.shape == (2, 6, 9, 9)
    last = forward.trace("conv", [score(0)] * 2, layout=Layout(channel=3))
    assert last.activations.shape == (2, 9, 6, 9)
    assert torch.equal(last.activations, forward.records["conv"].detach().movedim(3, 1))


def test_differentiable_maps(body, pictures):
    """The derivative of a map by the images, against finite differences; a loss on a map reaches the weights."""
    net, x = body(), pictures(1, 3, 6, 6).requires_grad_()
    net.leave = lambda scores: scores**2
    for method in ("gradcam", "hirescam", "layercam"):
        assert torch.autograd.gradcheck(
            lambda x, method=method: cam(net, x, layer="conv", targets=1, method=method, differentiable=True),
            [x],
            fast_mode=True,
        )
    cam(net, x, layer="conv", targets=1, differentiable=True).square().sum().backward()
    assert x.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in (net.conv.weight, net.fc.weight))


@pytest.mark.slow
def test_a_compiled_network(make_net, pictures):
    net, x = make_net("pooled"), pictures(2, 3, 24, 24)
    compiled = torch.compile(net, backend="eager")
    compiled(x)
    result = cam(compiled, x, layer=net[5], targets=1)
    torch.testing.assert_close(result, cam(net, x, layer="5", targets=1), rtol=1e-9, atol=1e-12)
