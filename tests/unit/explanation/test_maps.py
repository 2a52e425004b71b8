import numpy as np
import pytest
import torch
from torch import nn

from camscope.errors import LayerError, MethodError, TargetError
from camscope.explanation import cam, cams
from camscope.methods import METHODS
from camscope.models.layer_choice import default_layer
from camscope.targets import category, contrast, region
from camscope.trace import Layout


@pytest.fixture
def net(shared_net):
    return shared_net("plain")


@pytest.fixture
def x(pictures):
    return pictures(3, 2, 12, 12)


def test_layer_by_name_by_module_and_by_default(net, x):
    named = cam(net, x, layer="3", targets=1)
    assert named.shape == (3, 4, 4)
    assert named.any()
    assert torch.equal(cam(net, x, layer=net[3], targets=1), named)
    assert default_layer(net, x) == "3"
    assert torch.equal(cam(net, x, targets=1), named)


def test_targets_in_every_form(net, x):
    predicted = net(x).argmax(1)
    top = cam(net, x, layer="3")
    singles = torch.stack([cam(net, x[i : i + 1], layer="3", targets=int(c))[0] for i, c in enumerate(predicted)])
    torch.testing.assert_close(top, singles, rtol=1e-10, atol=1e-14)
    each = cam(net, x, layer="3", targets=predicted.tolist())
    for targets in (
        predicted,
        predicted.numpy().tolist(),
        [np.int64(c) for c in predicted],
        [category(int(c)) for c in predicted],
        [None, int(predicted[1]), category(int(predicted[2]))],
        tuple(predicted.tolist()),
    ):
        assert torch.equal(cam(net, x, layer="3", targets=targets), each)
    assert torch.equal(top, each)
    assert torch.equal(cam(net, x, layer="3", targets=torch.tensor(2)), cam(net, x, layer="3", targets=2))
    with pytest.raises(TargetError, match="class indices count from 0, but got -1"):
        cam(net, x, layer="3", targets=-1)
    assert not torch.allclose(each[0], cam(net, x, layer="3", targets=(int(predicted[0]) + 1) % 5)[0])


def test_a_map_is_linear_in_the_target(net, x):
    one, other = (cam(net, x, layer="3", targets=c) for c in (0, 2))
    torch.testing.assert_close(cam(net, x, layer="3", targets=contrast(0, 2)), one - other)


def test_cams_in_columns(net, x):
    targets = [[0, None], [1, category(2)], [4, 3]]
    maps = cams(net, x, layer="3", targets=targets, method="hirescam")
    assert maps.shape == (3, 2, 4, 4)
    for t in range(2):
        column = [row[t] for row in targets]
        torch.testing.assert_close(maps[:, t], cam(net, x, layer="3", targets=column, method="hirescam"))


@pytest.mark.parametrize("targets", [[1, 2], [1, 2, 3, 4], [], torch.tensor([1, 2])])
def test_not_one_target_an_image(net, x, targets):
    with pytest.raises(TargetError, match=rf"one entry per image \(batch of 3\), but got {len(targets)}"):
        cam(net, x, layer="3", targets=targets)


@pytest.mark.parametrize("targets", [[], [[0], [1]], [[0], [1], [0, 1]], [[], [], []]])
def test_not_one_list_an_image(net, x, targets):
    with pytest.raises(TargetError, match=r"one list per image|one entry per image \(batch of 3\), but got 2"):
        cams(net, x, layer="3", targets=targets)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"targets": 5}, TargetError, "no class 5: the model has 5, 0 to 4"),
        ({"method": "gradcm"}, MethodError, "no method called 'gradcm'; nearest: 'gradcam'"),
        ({"layer": "features"}, LayerError, "no layer called 'features'; nearest"),
        ({"layer": nn.ReLU()}, LayerError, r"\(ReLU\) is not a module of this Sequential"),
        ({"layer": "5"}, LayerError, r"layer '5' returns \(3, 5\), which has no place for each part"),
        ({"layer": "gelu()"}, LayerError, "'gelu\\(\\)' did not run"),
    ],
)
def test_what_does_not_exist(net, x, options, error, message):
    with pytest.raises(error, match=message):
        cam(net, x, **{"layer": "3", **options})


def test_a_map_of_scores_needs_a_target_of_its_own(pictures):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)).double()
    x = pictures(2, 3, 10, 10)
    for targets in (None, 1):
        with pytest.raises(TargetError, match=r"\(4, 8, 8\)"):
            cam(net, x, layer="1", targets=targets)
    result = cam(net, x, layer="1", targets=region(1))
    assert result.shape == (2, 8, 8)
    assert result.any()


def test_one_score_an_image(pictures):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1)).double()
    x = pictures(2, 3, 10, 10)
    column = cam(body, x, layer="1")
    flat = cam(nn.Sequential(body, nn.Flatten(0)), x, layer="0.1")
    assert column.any()
    assert torch.equal(flat, column)


def test_a_layout_given_is_used(net, x):
    swapped = cam(net, x, layer="3", targets=1, method="hirescam", layout=Layout(channel=3))
    assert swapped.shape == (3, 8, 4)


def test_a_method_of_ones_own_and_its_settings(net, x):
    def power(trace, *, exponent=1):
        return trace.activations.mean(1) ** exponent

    once, twice = (cam(net, x, layer="3", method=power, exponent=e) for e in (1, 2))
    torch.testing.assert_close(once**2, twice)
    assert "power" not in METHODS
    settled = cam(net, x, layer="3", method="ablationcam", chunk=3, targets=1)
    torch.testing.assert_close(settled, cam(net, x, layer="3", method="ablationcam", targets=1))


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_chunks_do_not_matter(net, x, chunk):
    for method in ("scorecam", "ablationcam"):
        whole = cam(net, x, layer="3", targets=[0, 1, 2], method=method)
        assert whole.any()
        pieces = cam(net, x, layer="3", targets=[0, 1, 2], method=method, chunk=chunk)
        torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-14)


def test_ablation_of_a_score_of_zero(pictures):
    """A ReLU at the end: the score is exactly 0, and ablating a channel that held it down raises it."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1), nn.ReLU()).double()
    with torch.no_grad():
        for parameter, values in zip(net.parameters(), ([1.0, 1.0], [0.0, 0.0], [2.0, -3.0], [0.0]), strict=True):
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))
    x = torch.arange(1.0, 5, dtype=torch.float64).reshape(1, 1, 2, 2)
    assert not net(x).any()
    torch.testing.assert_close(cam(net, x, layer="0", method="ablationcam"), -5 * x[:, 0])
