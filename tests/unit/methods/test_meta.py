import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import LayerError, MethodError, SettingError
from camscope.heatmap import fuse
from camscope.methods import METHODS, augmented, eigensmoothed, facts_of, fused


@pytest.fixture
def net(make_net):
    return make_net("plain")


@pytest.fixture
def x(pictures):
    return pictures(2, 2, 12, 12)


@pytest.mark.parametrize("name", ["gradcam", "eigencam", "scorecam", "fullgrad", "guidedgradcam"])
def test_augmented_is_the_mean_of_the_views_one_by_one(net, x, name):
    maps = []
    for scale in (0.9, 1.0, 1.1):
        maps.append(cs.cam(net, x * scale, method=name, targets=[1, 3]))
        maps.append(cs.cam(net, (x * scale).flip(-1), method=name, targets=[1, 3]).flip(-1))
    for method in (f"augmented({name})", augmented(name), augmented(METHODS[name])):
        torch.testing.assert_close(cs.cam(net, x, method=method, targets=[1, 3]), sum(maps) / 6)
    for method, settings in ((augmented(name, scales=[1.0]), {}), (f"augmented({name})", {"scales": [1.0]})):
        plain = cs.cam(net, x, method=method, targets=[1, 3], **settings)
        torch.testing.assert_close(plain, (maps[2] + maps[3]) / 2)


def test_augmented_passes_the_picture_once_and_settles_targets_on_it(net, x):
    batches = []
    net.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    maps = cs.cam(net, x, method="augmented(gradcam)", layer="3")
    assert batches == [2, 10]
    predicted = net(x).argmax(1).tolist()
    assert torch.equal(cs.cam(net, x, method="augmented(gradcam)", layer="3", targets=predicted), maps)
    cs.cam(net, x, method=augmented("gradcam", scales=[0.5]), layer="3")
    assert batches[-2:] == [2, 4]


def test_eigen_smoothing_is_the_first_principal_component_of_the_weighted_channels(net, x, close_to_svd):
    A = {}
    hook = net[3].register_forward_hook(lambda _, __, out: A.update(out=out.detach()))
    g = cs.cam(net, x, method=lambda t: t.gradients.flatten(1), layer="3", targets=1)
    hook.remove()
    A = A["out"]
    g = g.reshape(A.shape)
    for method, parts in {
        "gradcam": g.mean((2, 3), keepdim=True) * A,
        "hirescam": g * A,
        "layercam": g.relu() * A,
    }.items():
        close_to_svd(cs.cam(net, x, method=f"eigensmoothed({method})", layer="3", targets=1), parts)


@pytest.fixture
def close_to_svd():
    def check(actual, parts):
        for image, one in zip(actual, parts, strict=True):
            U, S, _ = torch.linalg.svd(one.flatten(1).T, full_matrices=False)
            expected = (U[:, 0] * S[0]).reshape(image.shape)
            expected = expected * (expected * one.sum(0)).sum().sign()
            torch.testing.assert_close(image, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))

    return check


def test_eigen_smoothing_of_what_ends_in_no_sum_is_refused(net, x):
    for method in ("eigencam", "dff", "reciprocam"):
        with pytest.raises(MethodError, match=f"ends in a sum over channels; {method} does not"):
            cs.cam(net, x, method=eigensmoothed(method), layer="3", targets=1)
    with pytest.raises(MethodError, match="fullgrad sees the whole network"):
        eigensmoothed("fullgrad")


def test_fused_takes_names_or_the_stages(net, x):
    named = cs.cam(net, x, method=fused("layercam", how="max", layers=["1", "3"]), targets=1)
    assert named.shape == (2, 10, 10)
    each = [cs.cam(net, x, method="layercam", layer=layer, targets=1) for layer in ("1", "3")]
    torch.testing.assert_close(named, fuse(each, "max"))
    torch.testing.assert_close(cs.cam(net, x, method="fused(layercam)", how="max", targets=1), named)
    settings = {"method": "fused(layercam)", "how": "max", "layers": ["3"], "targets": 1}
    torch.testing.assert_close(cs.cam(net, x, **settings), fuse(each[1:], "max"))
    shorter = cs.cam(net, x, method="fused(fasterscorecam)", channels=2, layers=["3"], targets=1)
    assert not torch.equal(shorter, cs.cam(net, x, method="fused(fasterscorecam)", layers=["3"], targets=1))


def test_what_fusing_cannot_do_is_said(net, x):
    with pytest.raises(SettingError, match="no way to fuse maps called 'avg'"):
        cs.cam(net, x, method="fused(layercam)", how="avg")
    with pytest.raises(LayerError, match="is not a list of layers"):
        cs.cam(net, x, method="fused(layercam)", layers="3")
    with pytest.raises(LayerError, match="no layer called 'layer9'"):
        cs.cam(net, x, method=fused("gradcam", layers=["layer9"]))
    with pytest.raises(MethodError, match="no method called 'gradcamm'; nearest: 'gradcam'"):
        cs.cam(net, x, method="augmented(gradcamm)")
    with pytest.raises(MethodError, match="no method called 'smoothed"):
        cs.cam(net, x, method="smoothed(gradcam)")
    with pytest.raises(SettingError, match="no maps to fuse"):
        fuse([])
    for name in ("gradcam", "fullgrad"):
        with pytest.raises(SettingError, match="at least one factor"):
            cs.cam(net, x, method=f"augmented({name})", scales=[])


def test_empty_maps_fuse_to_0_and_grids_to_the_finest():
    one, empty = torch.tensor([[[0.0, 2.0], [1.0, 4.0]]]), -torch.ones(1, 1, 1)
    assert torch.equal(fuse([one, empty], "product"), torch.zeros(1, 2, 2))
    assert torch.equal(fuse([one, empty], "max"), one / 4)
    assert torch.equal(fuse([empty, one], "mean"), one / 8)


def test_methods_are_told_apart_by_what_they_take():
    assert not facts_of(METHODS["gradcam"]).whole_network
    assert not facts_of(augmented("gradcam")).whole_network
    assert all(
        facts_of(f).whole_network for f in (METHODS["fullgrad"], augmented("fullgrad"), fused("gradcam", layers=["3"]))
    )
    assert augmented("scorecam").__name__ == "augmented(scorecam)"


def test_methods_of_methods_leave_the_model_as_it_was(net, x, snapshot):
    net.train()
    before = snapshot(net)
    for method in ("augmented(fullgrad)", "eigensmoothed(gradcam)", "fused(scorecam)", "augmented(fused(gradcam))"):
        assert cs.cam(net, x, method=method, targets=1).isfinite().all()
        assert snapshot(net) == before


def test_several_inputs(pictures):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(5, 3)

        def forward(self, age, picture):
            return self.fc(torch.cat([self.conv(picture).relu().mean((2, 3)), age], 1))

    torch.manual_seed(0)
    net, x, age = Two().double(), pictures(2, 2, 8, 8), pictures(2, 1)
    methods = ["fullgrad", "guidedbackprop", "integratedgradients", "smoothgrad", "occlusion", "refinecam"]
    for method in [*methods, "augmented(fullgrad)", "augmented(gradcam)", "guidedgradcam"]:
        maps = cs.cam(net, (age, x), method=method, picture=1, targets=1)
        alone = cs.cam(net, (age[1:], x[1:]), method=method, picture=1, targets=1)
        torch.testing.assert_close(maps[1:], alone, rtol=1e-7, atol=1e-12)
        assert maps.any()
