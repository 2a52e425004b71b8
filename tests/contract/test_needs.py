"""What a method declares to need of a model is true: it is tested on models that lack it."""

import contextlib

import pytest
import torch
from torch import nn

from camscope.errors import CamscopeError, MethodError
from camscope.explanation import cam, explain
from camscope.explanation.apply import apply_method, run_pass
from camscope.explanation.maps import spread
from camscope.explanation.method_lookup import find_method
from camscope.methods import META, METHODS, facts_of
from camscope.models.black_box import BlackBox, black_box
from camscope.models.preprocess import Preprocess

ALL = sorted(METHODS)
MADE = [f"{meta}(gradcam)" for meta in META] + ["augmented(occlusion)", "augmented(scorecam)"]


class BackwardError(Exception):
    pass


class ForwardOnly(torch.autograd.Function):
    """The identity, whose backward pass fails."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise BackwardError


def nets(make_net):
    """Networks of the kinds that methods are made for, with the layer and a batch of inputs."""
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU()]
    x = torch.randn(2, 2, 12, 12)
    yield nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)), "3", x
    yield nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 5)), "3", x
    yield make_net("small vit").float(), "blocks.2.norm1", torch.randn(2, 3, 64, 64)


@pytest.fixture
def accepted(make_net):
    """The first network that a method accepts."""

    def find(name):
        for net, layer, x in nets(make_net):
            with contextlib.suppress(MethodError):
                apply(name, net.eval(), layer, x)
                return net, layer, x
        raise AssertionError(f"{name} accepts none of the networks here: add one of its kind")

    return find


def apply(name, net, layer, x):
    """A method's map, with nothing checked before."""
    function = find_method(name)
    forward, seen = run_pass(net, x, [function], layer=layer)
    return apply_method(function, forward, seen, spread(1, forward), settings={}).raw


@pytest.mark.parametrize("name", [*ALL, *MADE])
def test_only_methods_that_need_gradients_run_backward(accepted, name):
    net, layer, x = accepted(name)
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_hook(lambda *given: ForwardOnly.apply(given[-1]))
    if facts_of(find_method(name)).needs == "gradients":
        with pytest.raises((BackwardError, MethodError)):  # guided methods refuse the unknown function in the graph
            apply(name, net, layer, x)
    else:
        assert apply(name, net, layer, x).isfinite().all()
        image = torch.rand(x.shape[1:])
        preprocess = Preprocess(input_size=tuple(x.shape[2:]), mean=(0,) * len(image), std=(1,) * len(image))
        e = explain(net, image.numpy(), preprocess=preprocess, method=name, layer=layer, target=1)
        assert e.heatmap.shape == tuple(x.shape[2:]), "neither do the notes on its map"


@pytest.mark.parametrize("name", [*ALL, *MADE])
def test_only_methods_that_need_scores_alone_run_on_scores_alone(accepted, name):
    net, layer, x = accepted(name)
    hidden = BlackBox(net, takes="torch", returns="scores", outcome="one", labels=0, version="1").eval()
    if facts_of(find_method(name)).needs == "scores":
        torch.testing.assert_close(apply(name, hidden, layer, x), apply(name, net, layer, x))
        torch.testing.assert_close(cam(hidden, x, method=name, targets=1), cam(net, x, method=name, targets=1))
        return
    with pytest.raises((CamscopeError, RuntimeError)):
        apply(name, hidden, layer, x)
    with pytest.raises(MethodError, match=r"only the scores are known; use a method .*: .*occlusion"):
        cam(hidden, x, method=name, targets=1)


def test_a_method_of_gradients_is_refused_with_the_methods_that_work():
    model = black_box(lambda pictures: pictures.mean((1, 2)), input_size=16, returns="scores")
    with pytest.raises(MethodError, match=r"gradcam needs the gradients of a network, and this model is a black box"):
        explain(model, torch.zeros(16, 16, 3).numpy(), method="gradcam")
    with pytest.raises(MethodError, match="<lambda> needs the activations"):
        explain(model, torch.zeros(16, 16, 3).numpy(), method=lambda trace: trace.activations.sum(1))
