"""Networks as people write them: that write to their inputs, squeeze, quantise, or take one image at a time."""

import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import LayerError, ModelError, TargetError
from camscope.models.layer_choice import default_layer


def body():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = body(), nn.Linear(16, 2)

    def forward(self, x):
        return self.fc(self.body((x - 0.4) / 0.2).mean((2, 3)))


class Writes(Plain):
    """Normalises its input in place."""

    def forward(self, x):
        return self.fc(self.body(x.sub_(0.4).div_(0.2)).mean((2, 3)))


@pytest.fixture
def x():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


METHODS = [
    "gradcam",
    "scorecam",
    "occlusion",
    "integratedgradients",
    "smoothgrad",
    "fullgrad",
    "augmented(gradcam)",
    "rise",
]


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_writes_to_its_input_gives_the_maps_of_one_that_does_not(method, x):
    before = x.clone()
    expected = cs.cam(Plain().eval(), x, targets=1, method=method)
    assert torch.allclose(cs.cam(Writes().eval(), x, targets=1, method=method), expected, atol=1e-5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("options", [{"engine": "openvino"}, {"precision": "bfloat16"}])
def test_engines_leave_the_input_of_such_a_network_as_it_is(options, x):
    before = x.clone()
    expected = cs.cam(Plain().eval(), x, targets=1)
    assert torch.allclose(
        cs.cam(Writes().eval(), x, targets=1, **options), expected, atol=1e-2 if "precision" in options else 1e-4
    )
    assert torch.equal(x, before)


class OneMap(nn.Module):
    """A segmentation whose axis of classes is squeezed away."""

    def __init__(self, *, squeezed):
        super().__init__()
        self.body, self.head, self.squeezed = body(), nn.Conv2d(16, 1, 1), squeezed
        nn.init.constant_(self.head.bias, 2.0)

    def forward(self, x):
        maps = self.head(self.body(x))
        return maps[:, 0] if self.squeezed else maps


def test_the_region_of_a_squeezed_map_is_that_of_the_map(x):
    nets = [OneMap(squeezed=squeezed).eval() for squeezed in (False, True)]
    for target in (cs.targets.region(0), cs.targets.region(0, mask=np.eye(8))):
        maps = [cs.cam(net, x, targets=target, method="hirescam") for net in nets]
        assert maps[0].any()
        assert torch.equal(*maps)
    with pytest.raises(TargetError, match="region of class 1"):
        cs.cam(nets[1], x, targets=cs.targets.region(1))


class Listed(Plain):
    def forward(self, x):
        return list(super().forward(x))


def test_a_list_with_one_vector_per_image_is_read_by_image(x):
    x = torch.cat([x, 1 - x[:1]])
    assert torch.allclose(cs.cam(Listed().eval(), x, targets=1), cs.cam(Plain().eval(), x, targets=1))
    with pytest.raises(TargetError, match="one per image or one per output"):
        cs.cam(Listed().eval(), x[:2], targets=1)


class Inferring(Plain):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Spectral(nn.Module):
    """A filter in the frequency domain, whose real weights are read as complex ones."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.weight = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(16, 8, 5, 2))
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        x = self.patches(x)
        filtered = torch.fft.rfft2(x) * torch.view_as_complex(self.weight)
        return self.fc((x + torch.fft.irfft2(filtered, s=x.shape[2:])).relu().mean((2, 3)))


@pytest.mark.parametrize(("kind", "layer"), [(Inferring, "body"), (Spectral, "relu()")])
def test_the_layer_is_found_in_inference_mode_and_with_complex_weights(kind, layer, x):
    assert default_layer(kind().eval(), x) == layer


class OneByOne(Plain):
    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)).view(1, 16))


def test_a_network_that_takes_one_image_says_what_to_do(x):
    with pytest.raises(LayerError, match=r"cannot run on a batch of five images.*name one with layer="):
        cs.cam(OneByOne().eval(), x[:1])
    assert cs.cam(OneByOne().eval(), x[:1], layer="body").shape == (1, 8, 8)
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 5"):
        cs.cam(Plain().eval(), torch.rand(1, 5, 32, 32))


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_head_has_no_gradient_and_says_so(x):
    net = torch.ao.quantization.quantize_dynamic(Plain().eval(), {nn.Linear}, torch.qint8)
    with pytest.raises(LayerError, match="have no gradient by layer"):
        cs.cam(net, x, targets=1)
    with pytest.raises(LayerError, match="have no gradient by layer"):
        cs.cam(net, x, targets=1, layer="body")
    for method in ("scorecam", "eigencam", "occlusion"):
        assert cs.cam(net, x, targets=1, method=method).any()


class Chooses(Plain):
    def forward(self, x):
        return nn.functional.one_hot(super().forward(x).argmax(1), 2).float()


def test_scores_without_a_gradient_say_what_to_use(x):
    with pytest.raises(LayerError, match="have no gradient"):
        cs.cam(Chooses().eval(), x, targets=1)
    assert cs.cam(Chooses().eval(), x, targets=1, method="occlusion").shape == (2, 32, 32)


@pytest.mark.parametrize(
    "net", [Plain().to("meta"), nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())], ids=["meta", "lazy"]
)
def test_parameters_without_values_are_named(net, x):
    with pytest.raises(ModelError, match="parameters without values"):
        cs.cam(net, x)


def test_arrays_in_double_precision_are_taken(x):
    assert torch.equal(cs.cam(Plain().eval(), x.double().numpy(), targets=1), cs.cam(Plain().eval(), x, targets=1))
    assert cs.cam(Plain().double().eval(), x.numpy(), targets=1).dtype == torch.float64


class Returns(Plain):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(super().forward(x))


@pytest.mark.parametrize("form", [lambda y: [y], lambda y: [y, y.mean(1)], lambda y: (y,), lambda y: {"out": y}])
def test_the_layer_does_not_depend_on_what_the_scores_are_returned_in(form, x):
    assert default_layer(Returns(form).eval(), x) == default_layer(Plain().eval(), x) == "body"


def test_a_tuple_with_one_vector_per_image_is_read_by_image(x):
    x = torch.cat([x, 1 - x[:1]])
    assert torch.allclose(cs.cam(Returns(tuple).eval(), x, targets=1), cs.cam(Plain().eval(), x, targets=1))


@pytest.mark.parametrize("form", [lambda y: y[:, 0], lambda y: y.movedim(1, 3), list])
def test_a_map_of_scores_in_another_order_is_no_layer_of_features(form, x):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    class Formed(nn.Module):
        def __init__(self):
            super().__init__()
            self.n = net

        def forward(self, x):
            return form(self.n(x))

    expected = cs.cam(net, x, targets=lambda output: output[..., 3:9].sum())
    plain = default_layer(net, x)
    assert default_layer(Formed(), x) == f"n.{plain}"
    target = (lambda output: output[3:9].sum()) if form(torch.zeros(2, 1, 4, 4))[0].shape[-1] == 1 else None
    found = cs.cam(Formed(), x, targets=target or (lambda output: output[..., 3:9].sum()))
    assert found.shape == expected.shape


def test_a_mirrored_branch_beside_another_is_said(x):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = body(), body(), nn.Linear(32, 2)

        def forward(self, x):
            return self.fc(torch.cat([self.a(x).mean((2, 3)), self.b(x.flip(-1)).mean((2, 3))], 1))

    x = torch.rand(1, 3, 64, 64)
    with pytest.warns(UserWarning, match="not every path"):
        cs.cam(Both().eval(), x)


@pytest.mark.parametrize("tasks", [2, 5])
@pytest.mark.parametrize("container", [list, tuple])
def test_as_many_tasks_as_the_probe_has_images_are_tasks(tasks, container, x):
    net = Returns(lambda y: container(y[:, 0] * n for n in range(1, tasks + 1))).eval()
    assert default_layer(net, x) == "body"
    assert cs.cam(net, x[:1], output=1).shape == (1, 8, 8)
