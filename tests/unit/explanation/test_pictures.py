import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import camscope as cs
from camscope.errors import LayerError, MethodError, PictureError, SettingError, TargetError

LABELS = ("red", "green", "top3")


class ColourNet(nn.Module):
    """The score of each class is the mean of one colour channel, seen in 8 x 8 cells."""

    def __init__(self):
        super().__init__()
        self.cells = nn.AvgPool2d(4)
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.mix.weight.data = torch.eye(3)[:, :, None, None]
        self.head = nn.Linear(3, 3)
        self.head.weight.data = 10 * torch.eye(3)
        self.head.bias.data.zero_()

    def forward(self, x):
        return self.head(self.mix(self.cells(x)).mean((2, 3)))


@pytest.fixture
def model():
    preprocess = cs.Preprocess(input_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3, fit="squash")
    return cs.Model("colours", ColourNet(), preprocess=preprocess, labels=LABELS)


@pytest.fixture
def picture():
    """Red in the left half, a green spot at the lower right; nothing blue."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:, :40, 0] = 255
    pixels[45:, 60:, 1] = 255
    return pixels


def test_the_map_of_each_class_lies_on_its_colour_at_picture_size(model, picture):
    red, green = (cs.explain(model, picture, target=label) for label in ("red", "green"))
    assert red.heatmap.shape == (60, 80)
    assert red.grid.shape == (8, 8)
    assert (red.heatmap[:, :36] > 0).all()
    assert (red.heatmap[:, 60:] == 0).all()
    y, x = np.unravel_index(green.heatmap.argmax(), green.heatmap.shape)
    assert y >= 45
    assert x >= 60


def test_what_an_explanation_says(model, picture):
    e = cs.explain(model, picture)
    assert (e.label, e.index, e.method, e.layer, e.model) == ("red", 0, "gradcam", "mix", "colours")
    assert e.score == pytest.approx(5.0, abs=1e-4)
    assert e.probability == pytest.approx(float(torch.softmax(torch.tensor([5.0, 0.625, 0.0]), 0)[0]), abs=1e-3)
    assert [label for label, _ in e.top] == ["red", "green", "top3"]
    (note,) = e.notes
    assert note.startswith("completeness residual")


@pytest.mark.parametrize("target", ["green", "GREEN", 1, "1"])
def test_a_class_by_name_or_number(model, picture, target):
    assert cs.explain(model, picture, target=target).index == 1


@pytest.mark.parametrize("target", [-2, "-2", 3])
def test_a_class_that_is_not_there(model, picture, target):
    with pytest.raises(cs.CamscopeError, match=r"count from 0|no class"):
        cs.explain(model, picture, target=target)


def test_a_label_wins_over_the_meaning_of_top3(model, picture):
    assert cs.explain(model, picture, target="top3").index == 2


def test_top_k_gives_the_highest_classes_in_order(model, picture):
    assert [e.label for e in cs.explain_all(model, [picture], targets="top2")] == ["red", "green"]


def test_a_target_function_has_no_index_and_no_probability(model, picture):
    e = cs.explain(model, picture, target=cs.targets.contrast(0, 1))
    assert e.index is None
    assert e.probability is None
    assert e.score == pytest.approx(4.375, abs=1e-3)


def test_order_is_picture_then_method_then_target_and_batches_do_not_matter(model, picture):
    pictures = [picture, picture[:, ::-1].copy(), picture[::-1].copy()]

    def run(batch_size):
        return list(
            cs.explain_all(
                model, pictures, methods=["gradcam", "eigencam"], targets=["red", "green"], batch_size=batch_size
            )
        )

    one, three = run(1), run(3)
    said = [(e.method, e.label) for e in one]
    assert said == [("gradcam", "red"), ("gradcam", "green"), ("eigencam", "red"), ("eigencam", "green")] * 3
    for single, batched in zip(one, three, strict=True):
        np.testing.assert_allclose(single.heatmap, batched.heatmap, atol=1e-5)
        assert single.label == batched.label


def test_several_methods_and_targets_cost_one_forward_a_batch(model, picture):
    calls = []
    cs.explain(model, picture)
    model.net.mix.register_forward_hook(lambda *_: calls.append(1))
    list(cs.explain_all(model, [picture] * 4, methods=["gradcam", "hirescam"], targets="top2", batch_size=4))
    assert len(calls) == 1


def test_a_bad_file_is_reported_and_the_rest_goes_on(model, picture, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    failed = {}
    found = list(
        cs.explain_all(
            model,
            [picture, tmp_path / "bad.png", picture],
            on_error=lambda source, error: failed.update({source: error}),
        )
    )
    assert len(found) == 2
    assert list(failed) == [str(tmp_path / "bad.png")]
    with pytest.raises(PictureError, match=r"bad\.png"):
        list(cs.explain_all(model, [tmp_path / "bad.png"]))


def test_a_crop_leaves_what_was_not_seen_without_heat(picture):
    preprocess = cs.Preprocess(input_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3, fit="crop")
    e = cs.explain(cs.Model("colours", ColourNet(), preprocess=preprocess, labels=LABELS), picture, target=0)
    assert (e.heatmap[:, :9] == 0).all()
    assert (e.heatmap[:, 12:36] > 0).all()


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        ({"target": "gren"}, TargetError, "nearest: 'green'"),
        ({"target": 3}, TargetError, "no class 3: the model has 3, 0 to 2"),
        ({"target": "top4"}, TargetError, "asks for 4 classes, and the model has 3"),
        ({"target": "top2"}, TargetError, "use explain_all"),
        ({"layer": "mixx"}, LayerError, "no layer called 'mixx'; nearest: 'mix'"),
        ({"layer": "head"}, LayerError, "has no place for each part"),
        ({"method": "gradcamm"}, MethodError, "nearest: 'gradcam'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(model, picture, asked, error, text):
    with pytest.raises(error, match=text):
        cs.explain(model, picture, **asked)


def test_a_network_of_one_number_is_a_probability_of_its_one_class(picture):
    torch.manual_seed(0)  # with some weights no value of the map is positive, and another note comes first
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    preprocess = cs.Preprocess(input_size=(32, 32))
    logit = cs.explain(cs.Model("one", net, preprocess=preprocess, labels=("ill",), outcome="any"), picture)
    bypassed = cs.Model("two", nn.Sequential(*net, nn.Sigmoid()), preprocess=preprocess, outcome="any")
    e = cs.explain(bypassed, picture)
    assert logit.probability == pytest.approx(1 / (1 + np.exp(-logit.score)))
    assert (e.score, e.probability) == pytest.approx((logit.score, logit.probability))
    np.testing.assert_allclose(e.grid, logit.grid, rtol=1e-5, atol=1e-8)
    assert "sigmoid" in e.notes[0]


class Fetched(TorchFunctionMode):
    """The shapes of what is brought to the CPU, or would be if it were elsewhere."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("cpu", "numpy", "tolist", "__array__", "item"):
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_maps_stay_on_the_device_until_they_are_asked_for(model, picture, tmp_path):
    asked = {"methods": ["gradcam", "hirescam"], "targets": "top2"}
    cs.explain(model, picture)
    with Fetched() as fetched:
        kept = list(cs.explain_all(model, [picture] * 2, to="device", **asked))
    assert not [shape for shape in fetched.shapes if shape[-2:] == (60, 80)]
    with Fetched() as fetched:
        brought = list(cs.explain_all(model, [picture] * 2, **asked))
    assert [shape for shape in fetched.shapes if shape[-2:] == (60, 80)]
    device = next(model.net.parameters()).device
    for one, other in zip(kept, brought, strict=True):
        for mine, array in ((one.heatmap, other.heatmap), (one.grid, other.grid)):
            assert isinstance(mine, torch.Tensor)
            assert mine.device == device
            np.testing.assert_array_equal(mine.numpy(), array)
        assert (one.label, one.score, one.notes, one.top) == (other.label, other.score, other.notes, other.top)
        assert isinstance(one.cpu().heatmap, np.ndarray)
    assert all(path.is_file() for path in kept[0].save(tmp_path))
    assert kept[0].to_dict() == brought[0].to_dict()
    with pytest.raises(SettingError, match="no place for maps called 'gpu'; nearest: 'cpu'"):
        list(cs.explain_all(model, [picture], to="gpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_they_are_those_of_the_cpu(model, picture):
    expected = list(cs.explain_all(model, [picture] * 3, batch_size=2))
    model.net.cuda()
    found = list(cs.explain_all(model, [picture] * 3, batch_size=2, to="device"))
    with torch.autocast("cuda"):
        half = list(cs.explain_all(model, [picture] * 3, batch_size=2, to="device"))
    for one, rough, other in zip(found, half, expected, strict=True):
        assert one.heatmap.is_cuda
        assert rough.heatmap.is_cuda
        np.testing.assert_allclose(one.cpu().heatmap, other.heatmap, atol=1e-4 * other.heatmap.max())
        np.testing.assert_allclose(rough.cpu().heatmap, other.heatmap, atol=2e-2 * other.heatmap.max())


def test_under_autocast_maps_are_float32_and_nearly_the_same(model, picture):
    expected = cs.explain(model, picture)
    with torch.autocast("cpu", torch.bfloat16):
        e = cs.explain(model, picture)
    assert e.heatmap.dtype == np.float32
    np.testing.assert_allclose(e.heatmap, expected.heatmap, atol=2e-2 * expected.heatmap.max())


def test_weights_are_hashed_only_where_their_hash_is_wanted(model, picture, tmp_path):
    e = cs.explain(model, picture)
    e.save(tmp_path, write="overlay,npy,panel")
    assert "digest" not in vars(model)
    assert e.to_dict()["weights_sha256"] == model.digest
    again = pickle.loads(pickle.dumps(e))
    assert dict(again.repeat) == dict(e.repeat)
    assert again.repeat["weights_sha256"] == model.digest
