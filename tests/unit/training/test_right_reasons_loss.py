import pytest
import torch
from torch import nn

from camscope.explanation import cam
from camscope.heatmap import upsample
from camscope.training.right_reasons_loss import share_outside


def tiny(dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Softplus(), nn.Flatten(), nn.Linear(16, 2)
    )
    return net.to(dtype)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
def test_the_graph_of_a_map_reaches_every_parameter_before_and_after_the_layer(method):
    """The derivative of a map by the weights, against differences (torch's gradcheck)."""
    net, x = tiny(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    names = [name for name, _ in net.named_parameters()]
    used = [name for name in names if not name.startswith("5.bias")]

    def maps(*values):
        with torch.no_grad():
            kept = [p.clone() for p in net.parameters()]
        parameters = dict(zip(used, values, strict=True))
        stateless = Stateless(net, parameters)
        result = cam(stateless, x, targets=[0, 1], layer="net.3", method=method, differentiable=True)
        assert all(torch.equal(a, b) for a, b in zip(kept, net.parameters(), strict=True))
        return result

    values = [dict(net.named_parameters())[name].detach().clone().requires_grad_() for name in used]
    assert torch.autograd.gradcheck(maps, values)


class Stateless(nn.Module):
    """A network run with other values of its parameters."""

    def __init__(self, net, parameters):
        super().__init__()
        self.net, self.values = net, parameters

    def forward(self, x):
        return torch.func.functional_call(self.net, self.values, x)


def test_the_share_equals_its_formula_and_is_lowered_by_its_gradient():
    net = tiny(torch.float32)
    x = torch.randn(3, 2, 5, 5)
    masks = torch.zeros(3, 5, 5)
    masks[:, :2] = 1
    found = share_outside(net, x, masks=masks, targets=[0, 1, 1], layer="3")
    raw = cam(net, x, targets=[0, 1, 1], layer="3")
    assert {bool((one > 0).any()) for one in raw} == {True, False}
    for n in range(3):
        heat = raw[n].relu() if (raw[n] > 0).any() else (raw[n] / raw[n].abs().mean()).flatten().softmax(0).view(2, 2)
        heat = upsample(heat, (5, 5))
        expected = 1 - float((heat * masks[n]).sum() / heat.sum())
        assert float(found[n].detach()) == pytest.approx(expected, abs=1e-5)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    first = None
    for _ in range(60):
        loss = share_outside(net, x, masks=masks, targets=[0, 1, 1], layer="3").mean()
        first = float(loss.detach()) if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.85 * first


def test_the_network_is_left_in_training_mode():
    net = tiny(torch.float32).train()
    share_outside(net, torch.randn(1, 2, 5, 5), masks=torch.ones(1, 5, 5), targets=[0], layer="3")
    assert net.training
    assert net[0].training


def test_a_map_that_is_nowhere_positive_finds_its_way_into_the_mask():
    net, x = tiny(torch.float32), torch.randn(2, 2, 5, 5)
    with torch.no_grad():
        net[5].weight.copy_(-net[5].weight.abs())
    masks = torch.zeros(2, 5, 5)
    masks[:, :2, :2] = 1
    assert (cam(net, x, targets=0, layer="3") <= 0).all()
    before = share_outside(net, x, masks=masks, targets=[0, 0], layer="3").mean()
    before.backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0
    after = share_outside(net, x, masks=masks, targets=[0, 0], layer="3").mean()
    assert after < before
