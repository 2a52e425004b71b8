"""What every metric in the registry promises, asked of each on arrival."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

import camscope as cs
from camscope.metrics import FACTS, THRESHOLDS, kind

NAMES = sorted(cs.METRICS)
BATCH, SIDE, GRID = 4, 16, 5
FAST = {
    "deletion": {"steps": 4},
    "insertion": {"steps": 4},
    "infidelity": {"samples": 6},
    "max_sensitivity": {"samples": 2},
}


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 5, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.append(nn.Linear(6, 3)).double().eval()


def given(name, net, rows=slice(None), dtype=torch.float64):
    """The arguments of a metric for some rows of a fixed batch."""
    draw = torch.Generator().manual_seed(3)
    known = {
        "maps": torch.randn(BATCH, GRID, GRID, generator=draw, dtype=torch.float64),
        "others": torch.randn(BATCH, GRID, GRID, generator=draw, dtype=torch.float64),
        "masks": torch.rand(BATCH, SIDE, SIDE, generator=draw) > 0.8,
        "inputs": torch.randn(BATCH, 2, SIDE, SIDE, generator=draw, dtype=torch.float64),
    }
    known = {key: value[rows].to(dtype if value.is_floating_point() else value.dtype) for key, value in known.items()}
    classes = torch.arange(BATCH)[rows] % 3

    def maps_of(some, inputs):
        activations = some[:3](inputs)
        return (activations * some[-1].weight[classes][:, :, None, None]).sum(1)

    known["score"] = lambda inputs, numbers: net(inputs).softmax(1).gather(1, classes[numbers, None])[:, 0]
    known["explain"] = lambda inputs: maps_of(net, inputs)
    known["net"] = net
    if kind(cs.METRICS[name]) == "randomisation":
        known["explain"] = lambda some: maps_of(some, known["inputs"])
    asked = inspect.signature(cs.METRICS[name]).parameters.values()
    return [known[p.name] for p in asked if p.default is p.empty]


def measure(name, net, rows=slice(None), dtype=torch.float64, **more):
    return cs.METRICS[name](*given(name, net.to(dtype), rows, dtype), **FAST.get(name, {}), **more)


def same(one, other, to=1e-9):
    return torch.allclose(one, other, rtol=to, atol=to, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_one_number_a_picture_in_range(name, net):
    value, facts = measure(name, net), FACTS[name]
    assert value.shape[0] == BATCH
    assert value.ndim == 1 or (facts.tuned and value.shape[-1] == len(THRESHOLDS))
    assert value.dtype == torch.float64
    assert value.isfinite().all()
    assert facts.low - 1e-9 <= value.min()
    assert value.max() <= facts.high + 1e-9
    assert not value.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_pictures_one_by_one_in_any_order(name, net):
    whole = measure(name, net)
    assert same(whole, torch.cat([measure(name, net, [i]) for i in range(BATCH)]))
    assert same(whole[[2, 0, 3, 1]], measure(name, net, [2, 0, 3, 1]))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_network_are_left_as_they_are(name, net, snapshot):
    before, arguments = snapshot(net), given(name, net)
    copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    first = cs.METRICS[name](*arguments, **FAST.get(name, {}))
    assert all(torch.equal(a, c) for a, c in zip(arguments, copies, strict=True) if isinstance(a, torch.Tensor))
    assert snapshot(net) == before
    torch.manual_seed(99)
    assert torch.equal(first.nan_to_num(7), measure(name, net).nan_to_num(7)), "chance must come from its own seed"


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_defined_up_to_a_factor(name, net):
    """No metric changes where maps are multiplied by 8, but completeness, which asks whether they add up."""
    arguments = given(name, net)
    names = list(inspect.signature(cs.METRICS[name]).parameters)
    if names[0] == "maps":
        scaled = [arguments[0] * 8, *arguments[1:]]
    else:
        scaled = [lambda *a: arguments[0](*a) * 8, *arguments[1:]]
    agrees = same(cs.METRICS[name](*arguments, **FAST.get(name, {})), cs.METRICS[name](*scaled, **FAST.get(name, {})))
    assert agrees == (name != "completeness")


@pytest.mark.parametrize("name", [n for n in NAMES if kind(cs.METRICS[n]) != "randomisation"])
def test_single_precision_is_enough(name, net):
    double = measure(name, net)
    assert same(measure(name, net, dtype=torch.float32), double, to=2e-3)


@pytest.mark.parametrize("name", [n for n in NAMES if "clean" in inspect.signature(cs.METRICS[n]).parameters])
def test_a_clean_score_that_is_known_is_not_computed_again(name, net):
    arguments = given(name, net)
    place = list(inspect.signature(cs.METRICS[name]).parameters).index("score")
    scorer, seen = arguments[place], []

    def counting(inputs, rows):
        seen.append(len(rows))
        return scorer(inputs, rows)

    arguments[place] = counting
    more = FAST.get(name, {})
    value = cs.METRICS[name](*arguments, **more)
    without, seen[:] = sum(seen), []
    clean = scorer(arguments[1], torch.arange(BATCH))
    assert same(value, cs.METRICS[name](*arguments, clean=clean, **more))
    assert sum(seen) == without - BATCH


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented(name):
    text = inspect.getdoc(cs.METRICS[name])
    assert "Returns:" in text
    assert FACTS[name].best in ("high", "low", "none")
    assert not math.isnan(FACTS[name].high)
    positional = [p for p in inspect.signature(cs.METRICS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert all(p.default is not p.empty for p in positional)


@pytest.mark.parametrize("name", [n for n in NAMES if kind(cs.METRICS[n]) == "localisation"])
def test_an_empty_mask_is_not_defined(name, net):
    maps, masks = given(name, net)
    value = cs.METRICS[name](maps, masks & (torch.arange(BATCH) > 0)[:, None, None])
    assert value[0].isnan().all()
    assert value[1:].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_map_with_nan_is_not_defined_and_harms_no_other(name, net):
    arguments, whole = given(name, net), measure(name, net)

    def spoiled(maps):
        return maps.index_put((torch.tensor(1), torch.tensor(2), torch.tensor(3)), torch.tensor(math.nan).to(maps))

    first = arguments[0]
    arguments[0] = spoiled(first) if isinstance(first, torch.Tensor) else lambda *a: spoiled(first(*a))
    value = cs.METRICS[name](*arguments, **FAST.get(name, {}))
    assert value[1].isnan().all()
    assert same(value[[0, 2, 3]], whole[[0, 2, 3]])


@pytest.mark.parametrize("name", NAMES)
def test_no_pictures_have_no_numbers(name, net):
    assert measure(name, net, slice(0)).shape[0] == 0
