"""Randomness seeded by the picture: the same alone, in a batch, and in any order."""

from __future__ import annotations

import pytest
import torch

import camscope as cs
from camscope.methods.noise import content_seeds, normal, uniform

RANDOM = ["randomcam", "sscam", "smoothgradcampp"]
SETTINGS = {"sscam": {"samples": 3}, "smoothgradcampp": {"samples": 3}}


def test_seeds_follow_the_content():
    x = torch.randn(4, 3, 5, 5)
    seeds = content_seeds(x)
    assert len(set(seeds)) == 4
    assert content_seeds(x.flip(0)) == seeds[::-1]
    assert content_seeds(x.to(memory_format=torch.channels_last)) == seeds
    assert content_seeds(x[2:3]) == seeds[2:3]
    assert not set(content_seeds(x, seed=1)) & set(seeds)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype(dtype):
    x = torch.randn(2, 3).to(dtype)
    values = normal(content_seeds(x), (50,), like=x)
    assert values.dtype == dtype
    assert values.shape == (2, 50)
    assert not torch.equal(values[0], values[1])


def test_distributions():
    values = normal([7], (20_000,), like=torch.zeros(1))
    assert float(values.mean()) == pytest.approx(0, abs=0.03)
    assert float(values.std()) == pytest.approx(1, abs=0.03)
    values = uniform([7], (20_000,), like=torch.zeros(1))
    assert float(values.min()) == pytest.approx(-1, abs=0.01)
    assert float(values.max()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("method", RANDOM)
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_random_methods_give_each_picture_its_own_map(method, chunk, shared_net, pictures):
    net, x = shared_net("plain"), pictures(3, 2, 12, 12)
    settings = SETTINGS.get(method, {}) | ({} if method == "randomcam" else {"chunk": chunk})
    torch.manual_seed(0)
    maps = cs.cam(net, x, method=method, layer="1", targets=1, **settings)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    again = cs.cam(net, x[[2, 0]], method=method, layer="1", targets=1, **settings)
    assert torch.allclose(again, maps[[2, 0]], rtol=1e-12, atol=1e-15)
    other = cs.cam(net, x, method=method, layer="1", targets=1, seed=1, **settings)
    assert (other - maps).abs().max() > 1e-6 * maps.abs().max()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
