import copy

import pytest
import torch
from torch import nn

from camscope.errors import SettingError
from camscope.metrics import METRICS, cascade, independent, passes, randomised
from camscope.metrics.sanity import looks_untrained


def network():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()


def test_random_weights_leave_the_network_alone_and_settle_batch_norms():
    net, x = network(), 3 + torch.randn(40, 1, 24, 24)
    before = copy.deepcopy(net.state_dict())
    made = randomised(net, seed=1, inputs=x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not torch.equal(made[0].weight, net[0].weight)
    assert torch.allclose(made[1].running_mean, made[0](x).mean((0, 2, 3)), atol=0.05)
    assert not made.training
    again, other = randomised(net, seed=1, inputs=x), randomised(net, seed=2, inputs=x)
    assert torch.equal(again[0].weight, made[0].weight)
    assert not torch.equal(other[0].weight, made[0].weight)


class Scaled(nn.Module):
    """A layer that does not know how to start."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(50.0))

    def forward(self, x):
        return x * self.scale


def test_parameters_of_modules_that_cannot_start_are_shuffled():
    net = nn.Sequential(Scaled()).eval()
    made = randomised(net, seed=0, inputs=torch.zeros(1, 50))
    assert not torch.equal(made[0].scale, net[0].scale)
    assert torch.equal(made[0].scale.sort().values, net[0].scale)


def changed(net, made):
    """Which modules with weights have others than they had."""
    pairs = zip(net.modules(), made.modules(), strict=True)
    return [i for i, (a, b) in enumerate(pairs) if hasattr(a, "weight") and not torch.equal(a.weight, b.weight)]


@pytest.mark.parametrize(("walk", "expected"), [(cascade, [[8], [4, 8], [1, 4, 8]]), (independent, [[8], [4], [1]])])
def test_weights_become_random_from_the_end(walk, expected):
    net, seen, stem = network(), [], torch.arange(16.0).view(1, 4, 4)
    net[1] = nn.Identity()
    before = copy.deepcopy(net.state_dict())

    def explain(some):
        seen.append(changed(net, some))
        return stem

    found = walk(explain, net, steps=3)
    assert seen == [[], *expected]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert found.shares == pytest.approx((1 / 3, 2 / 3, 1) if walk is cascade else (1 / 3,) * 3)
    assert torch.equal(found.spearman.round(decimals=9), torch.ones(3, 1).double())
    assert torch.allclose(found.ssim, torch.ones(3, 1).double())


def test_a_part_whose_map_is_flat_does_not_count():
    net, stem = network(), torch.arange(16.0).view(1, 4, 4)

    def explain(some):
        flat = not torch.equal(some[7].weight, net[7].weight)  # the last layer is random
        return torch.zeros_like(stem) if flat else stem

    assert independent(explain, net, steps=3).spearman.isnan().sum() == 1
    assert METRICS["independent_randomisation"](explain, net, steps=3).item() == pytest.approx(1)
    assert METRICS["independent_randomisation"](lambda _: torch.zeros_like(stem), net, steps=3).isnan().all()


def test_maps_that_are_known_are_not_made_again():
    net, calls = network(), []

    def explain(some):
        calls.append(some)
        return some[:5](torch.ones(2, 1, 24, 24)).mean(1)

    maps = explain(net).detach()
    assert torch.equal(cascade(explain, net, steps=2, maps=maps).ssim, cascade(explain, net, steps=2).ssim)
    assert len(calls) == 1 + 2 + 3


def test_batch_norms_settle_on_pictures_where_there_are_some():
    net, x = network(), 5 + torch.randn(16, 1, 24, 24)
    ends = []
    for inputs in (None, x):
        cascade(
            lambda some: ends.append(some[1].running_mean.clone()) or torch.rand(1, 3, 3), net, steps=1, inputs=inputs
        )
    # each walk explains the trained network first
    assert ends[1].abs().max() == 0
    assert ends[3].abs().max() > 0.5


def test_chance_outside_is_left_alone():
    net = network()
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    cascade(lambda _: torch.arange(9.0).view(1, 3, 3), net)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [
        ([0.9, 0.6, 0.3, 0.1, 0.0], True),
        ([1.0, 1.0, 1.0, 1.0, 0.0], False),
        ([0.1, 0.1, 0.1, 0.1, -0.8], False),
        ([0.1, 0.1, float("nan"), 0.2, float("nan")], True),
        ([0.1, 0.1, float("nan"), float("nan"), float("nan")], False),
    ],
)
def test_the_rule_looks_at_the_second_half(curve, verdict):
    assert passes(curve) is verdict


def test_errors_say_what_is_possible():
    with pytest.raises(SettingError, match="at least 1"):
        cascade(lambda net: torch.zeros(1, 2, 2), network(), steps=0)
    with pytest.raises(SettingError, match="ReLU has no weights that could be random"):
        cascade(lambda net: torch.zeros(1, 2, 2), nn.ReLU())


def test_random_weights_look_untrained_and_trained_ones_do_not():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.LazyLinear(10))
    net(torch.zeros(1, 3, 12, 12))
    assert looks_untrained(net)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        x = torch.randn(32, 3, 12, 12)
        loss = nn.functional.cross_entropy(net(x + (y := torch.arange(32) % 2)[:, None, None, None]), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert not looks_untrained(net)
    assert not looks_untrained(nn.Linear(4, 4))
