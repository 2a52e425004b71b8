"""What the methods that read activations share."""

import pytest
import torch

from camscope.methods.activation import first_component


@pytest.mark.parametrize("shape", [(2, 9, 20), (2, 20, 9)])
def test_the_first_component_of_small_numbers_is_that_of_large_ones(shape):
    """As of gradients that hardly reach the layer, whose squares float32 cannot hold."""
    X = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = first_component(X)
    assert torch.allclose(1e20 * first_component(1e-20 * X), expected, atol=1e-5 * float(expected.abs().max()))
    assert first_component(0 * X).eq(0).all()


def test_where_float32_does_not_converge_float64_does(monkeypatch):
    X = torch.randn(2, 9, 20, generator=torch.Generator().manual_seed(0))
    expected, solve = first_component(X), torch.linalg.eigh

    def picky(gram):
        if gram.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        return solve(gram)

    monkeypatch.setattr(torch.linalg, "eigh", picky)
    found = first_component(X)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
