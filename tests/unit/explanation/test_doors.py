"""What people bring with a network: labels, several outputs, one output, statistics of pixels, inference mode."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import camscope as cs
from camscope.errors import SettingError

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
PLAIN = cs.Preprocess(input_size=32, mean=0.5, std=0.5)


class Net(nn.Module):
    """Features and classifiers; ``shape`` makes the outputs out of the features and the scores."""

    def __init__(self, classes=3, shape=lambda features, scores: scores):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        self.head, self.age = nn.Linear(16, classes), nn.Linear(16, 1)
        self.shape = shape

    def forward(self, x):
        self.places = self.features(x)
        self.pooled = self.places.mean((2, 3))
        return self.shape(self, self.head(self.pooled))


def explained(net, **options):
    return cs.explain(net.eval(), IMAGE, preprocess=PLAIN, **options)


@pytest.mark.parametrize("labels", [["a"], ["a", "b"], ["a", "b", "c", "d"], {"a": 0}])
def test_another_number_of_labels_than_of_outputs_is_an_error(labels):
    with pytest.raises(
        SettingError, match=rf"Net has 3 outputs, but got {len(labels)} labels: pass one label per output"
    ):
        explained(Net(), labels=labels)


def test_labels_of_a_detector_or_two_of_one_logit_stay():
    e = explained(Net(1), labels=["no", "yes"])
    assert e.label in ("no", "yes")
    assert e.probability == pytest.approx(float(torch.sigmoid(torch.tensor(abs(e.score)))), rel=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        lambda net, scores: {"age": net.age(net.pooled), "disease": scores},
        lambda net, scores: (net.pooled, scores),
        lambda net, scores: [net.places, scores],
        lambda net, scores: {"embedding": net.pooled, "heads": {"disease": scores}},
    ],
    ids=["age first", "features first", "feature map first", "nested"],
)
def test_the_output_with_as_many_columns_as_labels_is_explained(shape):
    alone, among = (explained(Net(shape=s), labels=["a", "b", "c"]) for s in (lambda net, scores: scores, shape))
    assert (among.label, among.score, among.layer) == (alone.label, alone.score, alone.layer)
    assert np.array_equal(among.grid, alone.grid)
    assert any("choose with output=" in note for note in among.notes)


def test_an_output_by_name_in_every_door():
    net = Net(shape=lambda net, scores: {"age": net.age(net.pooled), "disease": scores}).eval()
    by_explain = explained(net, output="disease", target=1)
    by_load = cs.explain(cs.load(net, preprocess=PLAIN, output="disease"), IMAGE, target=1)
    (by_all,) = cs.explain_all(net, [IMAGE], preprocess=PLAIN, output="disease", targets=1)
    age = explained(net, output="age")
    assert by_explain.score == by_load.score == by_all.score
    assert age.score != by_explain.score


@pytest.mark.parametrize("squeeze", [False, True])
def test_one_output_without_labels_has_no_probability(squeeze):
    net = Net(1, lambda net, scores: scores.squeeze(1) if squeeze else scores)
    e = explained(net)
    assert e.probability is None
    assert any("nothing tells whether it is a value or the logit of a class" in note for note in e.notes)
    named = explained(net, labels=["no", "yes"])
    assert 0.5 <= named.probability <= 1
    assert not any("nothing tells" in note for note in named.notes)
    ended = explained(Net(1, lambda net, scores: scores.sigmoid().squeeze(1) if squeeze else scores.sigmoid()))
    assert ended.probability == pytest.approx(float(torch.sigmoid(torch.tensor(ended.score))), rel=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
        {"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)},
        {"mean": 127.5, "std": 127.5},
    ],
)
def test_statistics_of_bytes_are_refused(values):
    with pytest.raises(SettingError, match=r"expected mean and std for pixels in \[0, 1\].*divide them by 255"):
        cs.Preprocess(**values)
    with pytest.raises(SettingError, match="divide them by 255"):
        cs.load(Net(), **values)


def test_one_number_is_that_of_all_channels():
    model = cs.load(Net(), mean=0, std=1, input_size=32)
    assert (model.preprocess.mean, model.preprocess.std) == ((0.0,) * 3, (1.0,) * 3)
    assert cs.Preprocess(input_size=64, mean=0.5, std=(0.5,) * 3).mean == (0.5,) * 3


def test_the_note_on_the_preprocessing_is_true():
    assert "cropped to 32 x 32 with ImageNet's mean and std" in cs.load(Net(), input_size=32).notes[0]
    (note,) = cs.load(Net(), mean=(0.5,) * 3).notes
    assert "ImageNet's std, which is an assumption" in note
    assert not cs.load(Net(), mean=(0.5,) * 3, std=(0.5,) * 3).notes


def test_explanations_inside_inference_mode_equal_those_outside():
    net = Net()
    with torch.inference_mode():
        inside = explained(net, labels=["a", "b", "c"])
    outside = explained(net, labels=["a", "b", "c"])
    assert np.array_equal(inside.grid, outside.grid)


def test_how_much_of_a_long_image_is_seen_is_said():
    strip = np.random.default_rng(0).integers(0, 255, (40, 160, 3), dtype=np.uint8)
    said = "the preprocessing cuts the image: the network sees 25% of it, less than 60%; with fit='squash' or 'pad'"
    assert any(note.startswith(said) for note in cs.explain(Net().eval(), strip, preprocess=PLAIN).notes)


@pytest.mark.parametrize("pool", ["gem", "log-sum-exp", "root mean square"])
def test_the_powers_of_generalised_means_are_not_the_layer(pool):
    class Pooled(Net):
        def forward(self, x):
            places = self.features(x)
            if pool == "gem":
                pooled = places.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
            elif pool == "log-sum-exp":
                pooled = places.exp().mean((2, 3)).log()
            else:
                pooled = (places**2).mean((2, 3)).sqrt()
            return self.head(pooled)

    assert cs.default_layer(Pooled(), torch.rand(1, 3, 64, 64)) == "features"


@pytest.mark.parametrize(
    ("function", "name", "advice"),
    [
        (cs.explain_all, "target", "use targets="),
        (cs.explain_all, "method", "use methods="),
        (cs.explain, "targets", "use target="),
        (cs.explain, "methods", "use method="),
        (cs.explain, "input_size", "it belongs to the model: load the model with input_size="),
    ],
)
def test_arguments_that_belong_elsewhere_say_where(function, name, advice):
    with pytest.raises(SettingError, match=f"'{name}' is not a setting of a method: {advice}"):
        list(function(Net().eval(), IMAGE if function is cs.explain else [IMAGE], preprocess=PLAIN, **{name: 1}))


def test_a_classifier_that_was_replaced_by_hand_has_no_names_of_the_old_one():
    net = timm.create_model("resnet18").eval()
    assert cs.load(net).labels[0].startswith("tench")
    net.fc = nn.Linear(512, 2)
    e = cs.explain(net, IMAGE)
    assert e.label in ("class 0", "class 1")
    assert cs.explain(net, IMAGE, labels=["normal", "effusion"]).label in ("normal", "effusion")
