"""What every method owes, whichever it is: a method added to the registry is tested here by being there."""

from __future__ import annotations

import contextlib
import inspect
import re

import pytest
import torch
from torch import nn

import camscope as cs
from camscope.cli.methods import methods as describe
from camscope.errors import MethodError
from camscope.explanation import cam, cams
from camscope.explanation.method_lookup import find_method, method_name, settings_of
from camscope.methods import META, METHODS, facts_of
from camscope.methods.joint import joint_map
from camscope.targets import category
from camscope.trace import record
from camscope.trace.layout import find_layout

CLASSES = 5
ALL = sorted(METHODS)
SIZE = {1: 40, 2: 12, 3: 12}
GRID = {1: 18, 2: 4, 3: 4}
ONE_LAYER = [name for name in ALL if not facts_of(find_method(name)).whole_network]


class Mean(nn.Module):
    """Global average pooling over any number of axes."""

    def forward(self, x):
        return x.flatten(2).mean(2)


def with_head(dims, head):
    torch.manual_seed(dims)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    body = [conv(2, 6, 3), nn.ReLU(), conv(6, 8, 3, 2), nn.ReLU()]
    return nn.Sequential(*body, *head).double().eval()


def nets(dims, make_net):
    """Networks of different kinds, since some methods are made for one kind; the layer of each."""
    cells = 8 * GRID[dims] ** dims
    yield with_head(dims, [nn.Flatten(), nn.Linear(cells, CLASSES)]), "3"
    yield with_head(dims, [Mean(), nn.Linear(8, CLASSES)]), "3"
    yield with_head(dims, [Mean(), nn.LayerNorm(8), nn.Linear(8, CLASSES)]), "3"
    if dims == 2:
        yield make_net("small vit"), "blocks.2.norm1"


def run(name, net, layer, x, **options):
    options = {"targets": 1, "method": name, **options}
    if not facts_of(find_method(name)).whole_network:
        options["layer"] = layer
    return cam(net, x, **options)


@pytest.fixture
def case(make_net, pictures):
    """The first kind of network that a method accepts: the network, its layer, and three images."""

    def find(name, dims=2):
        for net, layer in nets(dims, make_net):
            vit = layer != "3"
            x = pictures(3, 3, 64, 64) if vit else pictures(3, 2, *[SIZE[dims]] * dims)
            with contextlib.suppress(MethodError):
                run(name, net, layer, x[:1])
                return net, layer, x
        assert dims != 2, f"{name} accepts none of the networks here: add one of its kind"
        return pytest.skip(f"{name} refuses networks with {dims} axes of space")

    return find


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ALL)
def test_finite_on_grids_of_one_to_three_axes(case, name, dims):
    net, layer, x = case(name, dims)
    result = run(name, net, layer, x)
    assert result.ndim == dims + 1
    assert len(result) == 3
    if not facts_of(find_method(name)).whole_network and layer == "3":
        assert result.shape == (3, *[GRID[dims]] * dims)
    assert result.isfinite().all()
    assert (result.flatten(1).amax(1) > result.flatten(1).amin(1)).all(), "a flat map proves nothing"
    assert not result.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_a_batch_equals_its_pictures_one_by_one_in_any_order(case, name):
    net, layer, x = case(name)
    targets = [1, 4, 0]
    batch = run(name, net, layer, x, targets=targets)
    for order in ([0], [1], [2], [2, 0, 1], [1, 1]):
        part = run(name, net, layer, x[order], targets=[targets[i] for i in order])
        torch.testing.assert_close(part, batch[order], rtol=1e-7, atol=1e-9 * float(batch.abs().max()))
    again = run(name, net, layer, x, targets=targets)
    assert torch.equal(again, batch)


@pytest.mark.parametrize("name", ALL)
def test_many_targets_at_once_equal_them_one_by_one(case, name):
    net, layer, x = case(name)
    options = {} if facts_of(find_method(name)).whole_network else {"layer": layer}
    columns = [[1, 4, 0], [3, 3, 3]]
    many = cams(net, x, method=name, targets=list(zip(*columns, strict=True)), **options)
    for t, column in enumerate(columns):
        alone = run(name, net, layer, x, targets=column)
        torch.testing.assert_close(many[:, t], alone, rtol=1e-9, atol=1e-12 * float(alone.abs().max()))


@pytest.mark.parametrize("name", ALL)
def test_only_class_agnostic_methods_ignore_the_target(case, name):
    net, layer, x = case(name)
    one, other = (run(name, net, layer, x, targets=c) for c in (1, 3))
    same = bool(((one - other).abs() <= 1e-9 * one.abs().max()).all())
    assert same == facts_of(find_method(name)).class_agnostic


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_dtype_and_device_are_kept(case, name, dtype):
    net, layer, x = case(name)
    result = run(name, net.to(dtype), layer, x.to(dtype))
    assert result.dtype == dtype
    assert result.device == x.device
    assert result.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_a_map_is_made_on_the_networks_device(case, name):
    net, layer, x = case(name)
    expected = run(name, net, layer, x)
    result = run(name, net.cuda(), layer, x.cuda())
    assert result.device.type == "cuda"
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-6, atol=1e-9)


def classifier(net):
    return [module for module in net.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("name", ONE_LAYER)
def test_no_gradient_no_map(case, name, bias):
    """With a last layer of zeros the score is a constant: methods that read gradients have nothing to show."""
    net, layer, x = case(name)
    with torch.no_grad():
        classifier(net).weight.zero_()
        classifier(net).bias.fill_(bias)
    forward = record(net, x, layers=[layer])
    layout = find_layout(forward.records[layer].shape, x.shape, layer=layer)
    trace = forward.trace(layer, [category(1)] * 3, layout=layout)
    result = joint_map(METHODS[name], [trace])
    assert result.isfinite().all()
    if trace.used_gradients:
        assert "backward" in cost_of(name), "it reads gradients, and its cost does not say so"
    if "backward" in cost_of(name):
        assert not result.any()
    assert not trace.gradients.any()


def cost_of(name):
    return re.search(r"^Cost: (.+?)$", inspect.getdoc((METHODS | META)[name]), re.MULTILINE).group(1)


@pytest.mark.parametrize("name", ONE_LAYER)
def test_a_dead_layer_gives_a_finite_map(case, name):
    """All activations 0: no division by their sum, their spread or their score may show."""
    net, layer, x = case(name)
    if layer != "3":
        pytest.skip("made for networks without a ReLU")
    with torch.no_grad():
        net[2].bias.fill_(-1e6)
        for parameter in list(net.parameters())[4:]:
            if parameter.ndim == 1:
                parameter.zero_()
    result = run(name, net, layer, x)
    assert result.isfinite().all()
    assert not result.any()


@pytest.mark.parametrize("name", ALL)
def test_the_model_is_left_bit_identical(case, snapshot, name):
    net, layer, x = case(name)
    net.train()
    net[0].eval() if isinstance(net, nn.Sequential) else None
    first = next(net.parameters())
    first.requires_grad_(False)
    classifier(net).weight.grad = torch.ones_like(classifier(net).weight)
    before = snapshot(net)
    run(name, net, layer, x)
    assert snapshot(net) == before


@pytest.mark.parametrize("at", ["second call", "backward", "second forward"])
@pytest.mark.parametrize("name", ALL)
def test_the_model_is_left_bit_identical_after_an_exception(case, snapshot, name, at):
    net, layer, x = case(name)
    net.train()
    calls = {"target": 0, "forward": 0}

    def target(output):
        calls["target"] += 1
        if at == "second call" and calls["target"] > len(x):
            raise ZeroDivisionError
        score = output[1] * 1.0
        if at == "backward" and score.requires_grad:
            score.register_hook(lambda _: 1 / 0)
        return score

    def stop(*_):
        calls["forward"] += 1
        if at == "second forward" and calls["forward"] > 1:
            raise ZeroDivisionError

    classifier(net).register_forward_hook(stop)
    before = snapshot(net)
    with contextlib.suppress(ZeroDivisionError, MethodError):
        run(name, net, layer, x, targets=target)
    assert snapshot(net) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ALL)
def test_the_callers_grad_mode_and_frozen_weights_do_not_matter(case, name, mode):
    net, layer, x = case(name)
    expected = run(name, net, layer, x)
    net.requires_grad_(False)
    with mode():
        result = run(name, net, layer, x.clone())
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("name", [*ALL, *sorted(META)])
def test_the_docstring_says_what_it_is_what_it_needs_what_it_costs_and_where_it_is_from(name):
    function = (METHODS | META)[name]
    text = inspect.getdoc(function)
    assert text.splitlines()[0].endswith(".")
    for section in ("Args:", "Returns:", "Needs:", "Cost:", "Reference:"):
        assert re.search(rf"^{section}", text, re.MULTILINE), f"{name} has no section {section}"
    passes = r"\d+ (tail|forward|backward)|forward|that of the method"
    assert re.search(passes, cost_of(name))
    assert re.search(r"\b(19|20)\d\d\b|This library", text.split("Reference:")[1])
    for parameter in list(inspect.signature(function).parameters)[1:]:
        assert re.search(rf"^\s+{parameter}: ", text, re.MULTILINE), f"{name} does not say what {parameter} is"


@pytest.mark.parametrize("name", [*ALL, *sorted(META)])
def test_camscope_methods_lists_every_setting_with_its_default(name, capsys):
    describe(name)
    said = capsys.readouterr().out
    function = META[name]("gradcam") if name in META else METHODS[name]
    settings = settings_of(function)
    listed = re.findall(r"^    --set (\w+)=(.+?)  +\S", said, re.MULTILINE)
    assert [one for one, _ in listed] == list(settings)
    for one, default in listed:
        assert default == str(settings[one]) or default.startswith(("(", "["))
    summary, _, rest = inspect.getdoc((METHODS | META)[name]).partition("\n")
    assert summary in said
    assert rest.partition("Reference:\n")[2].partition("\n\n")[0].split()[0] in said


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Grad-CAM", "gradcam"),
        ("GradCAM", "gradcam"),
        ("Grad-CAM++", "gradcampp"),
        ("GradCAMPlusPlus", "gradcampp"),
        ("GradCAMpp", "gradcampp"),
        ("SmoothGradCAMpp", "smoothgradcampp"),
        ("HiResCAM", "hirescam"),
        ("KPCA_CAM", "kpcacam"),
        ("GradCAMElementWise", "gradcamelementwise"),
        ("Full Grad", "fullgrad"),
        ("Integrated Gradients", "integratedgradients"),
        ("SS-CAM", "sscam"),
        ("Augmented( Score-CAM )", "augmented(scorecam)"),
    ],
)
def test_a_method_is_found_in_any_usual_spelling(spelling, name):
    assert find_method(spelling).__name__ == method_name(spelling) == name


def test_results_have_one_spelling():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    image = torch.rand(3, 12, 12)
    e = cs.explain(net, image, method="Grad-CAM++")
    assert e.method == "gradcampp"
    assert torch.equal(
        cam(net, image[None], method="Grad-CAM++", targets=0), cam(net, image[None], method="gradcampp", targets=0)
    )
    both = [
        one.method
        for one in cs.explain_all(net, [image], methods=["Refine-CAM", "Occlusion"], window=6, base="Layer-CAM")
    ]
    assert both == ["refinecam", "occlusion"]


@pytest.mark.parametrize("public", [cam, cams, cs.explain, cs.explain_all])
def test_no_setting_of_a_method_is_hidden_by_a_parameter(public):
    parameters = set(inspect.signature(public).parameters)
    made = [f"{name}(gradcam)" for name in META]
    assert {
        name: found for name in [*METHODS, *made] if (found := parameters & set(settings_of(find_method(name))))
    } == {}


@pytest.mark.parametrize("name", [*METHODS, *(f"{name}(gradcam)" for name in META)])
def test_the_steps_of_a_map_are_drawn_or_refused_in_one_sentence(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 9, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2))
    refused = ""
    try:
        assert cs.steps(net, torch.rand(3, 64, 64), method=name).width > 800
    except MethodError as error:
        refused = str(error)
    assert "Error" not in refused
    assert not refused or "steps cannot be shown" in refused or "needs" in refused


def test_a_grid_that_is_too_large_for_a_kernel_matrix_is_refused():
    """Its matrix of cells by cells took 19 GB, and the process was killed."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(MethodError, match="a grid of 222 x 222 has 49,284 cells, and at most 10,000 are possible"):
        cs.cam(net, torch.rand(1, 3, 224, 224), method="kpcacam")
