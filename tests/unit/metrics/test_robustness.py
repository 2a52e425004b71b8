import pytest
import torch

from camscope.metrics import METRICS, adcc_of, kept, spearman, ssim

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def score(inputs, rows):
    return inputs.mean((1, 2, 3)).sigmoid()


def test_sensitivity_of_maps_that_ignore_and_that_follow_the_picture():
    fixed = torch.rand(3, 4, 4)
    assert METRICS["max_sensitivity"](lambda _: fixed, X).eq(0).all()
    small, large = (METRICS["max_sensitivity"](lambda x: x[:, 0], X, radius=r) for r in (0.01, 0.1))
    assert torch.allclose(large, 10 * small, rtol=1e-4)
    more = METRICS["max_sensitivity"](lambda x: x[:, 0], X, samples=30)
    assert (more >= METRICS["max_sensitivity"](lambda x: x[:, 0], X, samples=3)).all(), "it is a maximum"


def test_known_maps_save_a_pass():
    calls = []

    def explain(x):
        calls.append(len(x))
        return x[:, 0]

    for name, arguments, least in (("max_sensitivity", (X,), 10), ("coherency", (X,), 1), ("adcc", (X, score), 1)):
        calls.clear()
        METRICS[name](explain, *arguments, maps=X[:, 0])
        assert len(calls) == least
        METRICS[name](explain, *arguments)
        assert len(calls) == 2 * least + 1


def test_coherency_at_its_ends():
    maps = torch.rand(3, 8, 8)
    assert torch.allclose(METRICS["coherency"](lambda _: maps, X), torch.ones(3).double())
    turned = iter([maps, 1 - maps])
    assert torch.allclose(METRICS["coherency"](lambda _: next(turned), X), torch.zeros(3).double(), atol=1e-6)
    assert METRICS["coherency"](lambda x: torch.ones(3, 4, 4), X).isnan().all()


def test_adcc_is_made_of_its_parts():
    explain = lambda x: x[:, 0]  # noqa: E731
    maps = explain(X)
    parts = {
        "coherency": METRICS["coherency"](explain, X),
        "complexity": METRICS["complexity"](maps),
        "drop": kept(maps, X, score).drop,
    }
    assert torch.allclose(METRICS["adcc"](explain, X, score), adcc_of(**parts))


def test_a_uniform_map_wins_the_drop_and_loses_adcc():
    ones = torch.ones(3, 4, 4)
    assert METRICS["average_drop"](ones, X, score).eq(0).all()
    assert METRICS["complexity"](ones).eq(1).all()
    assert METRICS["adcc"](lambda x: ones, X, score).eq(0).all(), "also where its coherency is not defined"
    assert adcc_of(coherency=torch.tensor(1.0), complexity=torch.tensor(1.0), drop=torch.tensor(0.0)) == 0


@pytest.mark.parametrize("function", [spearman, ssim])
def test_similarity_of_a_map_with_itself_and_its_opposite(function):
    maps = torch.randn(3, 9, 9)
    assert torch.allclose(function(maps, maps), torch.ones(3).double())
    assert torch.allclose(function(maps, 3 * maps + 1), torch.ones(3).double(), atol=1e-5)
    assert (function(maps, -maps) < -0.5).all()


def test_spearman_of_a_flat_map_is_not_defined():
    assert spearman(torch.ones(1, 4, 4), torch.rand(1, 4, 4)).isnan().all()


def test_ssim_of_small_grids():
    assert ssim(torch.rand(2, 3, 3), torch.rand(2, 3, 3)).isfinite().all()


def test_gini_and_entropy_at_their_ends():
    point, flat = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    point[0, 1, 2] = -3
    assert METRICS["gini"](flat).item() == pytest.approx(0)
    assert METRICS["gini"](point).item() == pytest.approx(15 / 16)
    assert METRICS["entropy"](flat).item() == pytest.approx(torch.tensor(16.0).log().item())
    assert METRICS["entropy"](point).item() == 0
    for name in ("gini", "entropy"):
        assert METRICS[name](torch.zeros(1, 4, 4)).isnan().all()
