"""Every kind of output, explained with small networks."""

import numpy as np
import pytest
import torch
from torch import nn

from camscope import Model, explain, explain_all, targets
from camscope.errors import TargetError
from camscope.explanation.target_spec import goals_of
from camscope.images import Picture
from camscope.models.preprocess import Preprocess

PREPROCESS = Preprocess(input_size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def picture():
    return Picture(np.random.default_rng(0).random((40, 40, 3)).astype(np.float32), "noise", bits=32)


def trunk():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU())


def network(outputs, *end, **more):
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, outputs))
    return Model("net", nn.Sequential(*trunk(), *head, *end).eval(), preprocess=PREPROCESS, **more)


def logits(model, picture):
    with torch.no_grad():
        return model.net[:7](model.preprocess(picture)[0][None])[0]


@pytest.mark.parametrize("end", [(), (nn.Sigmoid(),)], ids=["logit", "sigmoid"])
def test_one_logit_with_two_names_has_two_sides(end, picture):
    model = network(1, *end, labels=("normal", "ill"), outcome="any")
    logit = float(logits(model, picture))
    ill, normal = explain_all(model, [picture], targets=["ill", "normal"])
    assert (ill.index, normal.index) == (1, 0)
    assert (ill.score, normal.score) == (pytest.approx(logit), pytest.approx(-logit))
    assert ill.probability == pytest.approx(1 / (1 + np.exp(-logit)))
    assert ill.probability + normal.probability == pytest.approx(1)
    np.testing.assert_allclose(ill.grid, -normal.grid)
    assert ill.grid.any()
    top = explain(model, picture)
    assert top.label == ("ill" if logit > 0 else "normal")
    assert dict(top.top) == {"ill": pytest.approx(ill.probability), "normal": pytest.approx(normal.probability)}


def test_one_logit_with_one_name_is_that(picture):
    model = network(1, labels=("Effusion",), outcome="any")
    e = explain(model, picture)
    assert (e.label, e.index, e.score) == ("Effusion", 0, pytest.approx(float(logits(model, picture))))
    assert [label for label, _ in e.top] == ["Effusion"]


def test_several_labels_and_one_of_several(picture):
    for outcome, total in (("any", None), ("one", 1)):
        model = network(3, labels=("a", "b", "c"), outcome=outcome)
        es = list(explain_all(model, [picture], targets="top3"))
        assert [e.label for e in es] == [label for label, _ in es[0].top]
        assert sum(e.probability for e in es) == pytest.approx(total) if total else es[0].probability < 1


def test_a_value_has_no_probability(picture):
    model = network(1, labels=("age",), outcome="value")
    e = explain(model, picture)
    assert (e.label, e.probability, e.score) == ("age", None, pytest.approx(float(logits(model, picture))))
    assert e.top == (("age", pytest.approx(e.score)),)


def test_an_embedding_is_explained_by_its_likeness_to_another(picture):
    model = network(6, outcome="value")
    other = torch.randn(6, generator=torch.Generator().manual_seed(0))
    e = explain(model, picture, target=targets.similarity(other))
    assert e.score == pytest.approx(float(torch.cosine_similarity(logits(model, picture), other, dim=0)))
    assert e.grid.any()


@pytest.fixture
def segmenting():
    net = nn.Sequential(*trunk(), nn.Conv2d(12, 3, 1), nn.Upsample(size=(32, 32), mode="bilinear"))
    return Model("maps", net.eval(), preprocess=PREPROCESS, labels=("background", "bird", "cat"))


def test_a_class_of_a_map_is_its_predicted_region(segmenting, picture):
    x = segmenting.preprocess(picture)[0][None]
    with torch.no_grad():
        segmenting.net[4].bias[2] = -9
        output = segmenting.net(x)[0]
        segmenting.net[4].bias[1] += (output[0] - output[1]).quantile(0.7)  # so that 3 of 10 places are bird
        output = segmenting.net(x)[0]
    predicted = output.argmax(0)
    assert 0 < (predicted == 1).sum() < 32 * 32
    e = explain(segmenting, picture, layer="3")
    assert (e.label, e.score) == ("bird", pytest.approx(float(output[1][predicted == 1].sum()), rel=1e-4))
    own = torch.zeros(32, 32)
    own[:4] = 1
    masked = explain(segmenting, picture, target=targets.region(2, mask=own), layer="3")
    assert masked.score == pytest.approx(float(output[2, :4].sum()), rel=1e-4)
    absent = explain(segmenting, picture, target="cat", layer="3")
    assert absent.notes[0].startswith("no place is predicted to be 'cat'; targets.region(index, mask=...)")
    assert not absent.heatmap.any()
    assert [goal.index for goal in goals_of(segmenting, ["background"], output)] == [0]


def test_a_class_at_a_place_of_a_map(segmenting, picture):
    """Places are in pixels of the image, 40 x 40, and the map is 32 x 32."""
    with torch.no_grad():
        segmenting.net[4].bias[1] = 9
        output = segmenting.net(segmenting.preprocess(picture)[0][None])[0]
    e = explain(segmenting, picture, target="bird@20,0,40,10", layer="3")
    assert (e.label, e.index) == ("bird@20,0,40,10", 1)
    assert e.score == pytest.approx(float(output[1, :8, 16:].sum()), rel=1e-4)
    absent = explain(segmenting, picture, target="cat@20,0,40,10", layer="3")
    assert absent.notes[0] == "nothing at that place is predicted to be 'cat'"
    for wrong in ("bird@20,0,10,10", "top2@0,0,9,9"):
        with pytest.raises(TargetError, match="must be a class and a place"):
            explain(segmenting, picture, target=wrong, layer="3")
    with pytest.raises(TargetError, match="returns neither boxes nor a map of scores"):
        explain(network(3), picture, target="1@0,0,9,9")


class Finds(nn.Module):
    """Three boxes whose scores are the means of the left, the right and the whole of a feature map."""

    def __init__(self):
        super().__init__()
        self.trunk = trunk()

    def forward(self, x):
        features = self.trunk(x).mean(1)
        scores = [features[:, :, :3].mean((1, 2)), features[:, :, 4:].mean((1, 2)), features.mean((1, 2))]
        corners = torch.tensor([[0, 0, 14, 32], [18, 0, 32, 32], [0, 0, 32, 32]]).to(x)
        classes = torch.tensor([1, 1, 0]).to(x)
        rows = [
            torch.cat([c.expand(len(x), 4), s[:, None], k.expand(len(x), 1)], 1)
            for c, s, k in zip(corners, scores, classes, strict=True)
        ]
        return torch.stack(rows, 1)


class OneMap(nn.Module):
    """Brightness less 1/2 as a map of logits."""

    def __init__(self, *, end=None):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 1, bias=False)
        self.head = nn.Conv2d(4, 1, 1)
        self.end = end or nn.Identity()
        for layer in (self.body, self.head):
            nn.init.constant_(layer.weight, 1 / layer.in_channels)
        nn.init.constant_(self.head.bias, -0.5)

    def forward(self, x):
        return self.end(self.head(self.body(x)))


@pytest.mark.parametrize("end", [None, nn.Sigmoid(), nn.Sequential(nn.Sigmoid(), nn.MaxPool2d(1))])
@pytest.mark.parametrize("labels", [("lung",), ("background", "lung")])
def test_a_lone_map_is_a_class_where_it_is_likely(end, labels):
    pixels = np.zeros((32, 32, 3), np.float32)
    pixels[4:12, 8:24] = 1
    plain = Preprocess(input_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = Model("net", OneMap(end=end).eval(), preprocess=plain, labels=labels, outcome="any")
    picture = Picture(pixels, "lung", bits=32)
    e = explain(model, picture, layer="body")
    likely = 1 / (1 + np.exp(-0.5)) if isinstance(end, nn.Sequential) else 0.5  # a pool hides the logits behind
    assert (e.label, e.score) == ("lung", pytest.approx(8 * 16 * likely, rel=1e-4))
    np.testing.assert_array_equal(e.grid > 0, pixels[..., 0] > 0)
    if len(labels) == 2:
        outside = explain(model, picture, target="background", layer="body")
        unlikely = likely - 1 if isinstance(end, nn.Sequential) else 0.5
        assert (outside.index, outside.score) == (0, pytest.approx((32 * 32 - 8 * 16) * unlikely, rel=1e-4))


def test_maps_of_several_labels_may_overlap(picture):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    nn.init.zeros_(net[1].weight)
    net[1].bias.data = torch.tensor([2.0, 1.0])
    outputs = {
        outcome: goals_of(
            Model("net", net, preprocess=PREPROCESS, labels=("lung", "heart"), outcome=outcome),
            ["heart"],
            torch.tensor([2.0, 1.0]).view(2, 1, 1).expand(2, 8, 8),
        )[0]
        for outcome in ("one", "any")
    }
    assert "no place" in outputs["one"].note
    assert not outputs["any"].note


def test_boxes_are_explained_one_by_one(picture):
    model = Model("boxes", Finds().eval(), preprocess=PREPROCESS, labels=("car", "dog"), outcome="boxes")
    with torch.no_grad():
        output = model.net(model.preprocess(picture)[0][None])[0]
    es = {e.label: e for e in explain_all(model, [picture], methods=["hirescam"], targets="top3", layer="trunk")}
    assert set(es) == {"car", "dog", "dog, box 2"}
    dogs = output[:2][output[:2, 4].argsort(descending=True)]
    for label, row in zip(("dog", "dog, box 2"), dogs, strict=True):
        e = es[label]
        assert (e.index, e.score) == (1, pytest.approx(float(row[4]), rel=1e-5))
        assert e.probability == pytest.approx(float(row[4].sigmoid()))
        left, right = e.grid[:, :3].any(), e.grid[:, 4:].any()
        assert (left, right) == ((True, False) if row[0] == 0 else (False, True))
    assert explain(model, picture, target="dog", layer="trunk").score == pytest.approx(float(dogs[0, 4]), rel=1e-5)
    assert explain(model, picture, target="0", layer="trunk").label == "car"
    with pytest.raises(TargetError, match="no class called 'cow'"):
        explain(model, picture, target="cow", layer="trunk")


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_box_is_named_by_its_place_in_the_picture(fit):
    """The image is 40 x 80; padded, its 80 columns become 32, and its 40 rows the 16 in the middle."""
    pixels = np.random.default_rng(0).random((40, 80, 3)).astype(np.float32)
    preprocess = Preprocess(input_size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, fit=fit)
    model = Model("boxes", Finds().eval(), preprocess=preprocess, labels=("car", "dog"), outcome="boxes")
    with torch.no_grad():
        left, right, _ = model.net(model.preprocess(Picture(pixels, bits=32))[0][None])[0, :, 4].tolist()
    whole = (0, 40) if fit == "squash" else (-20, 60)
    for columns, score, other in (((0, 35), left, right), ((45, 80), right, left)):
        place = f"{columns[0]},{whole[0]},{columns[1]},{whole[1]}"
        e = explain(model, pixels, target=f"dog@{place}", layer="trunk")
        assert (e.label, e.index, e.score) == (f"dog@{place}", 1, pytest.approx(score, rel=1e-5))
        best = explain(model, pixels, target="dog", layer="trunk")
        assert (best.notes[0] == f"the box {place} of the image") == (score > other)
    nothing = explain(model, pixels, target="dog@0,0,4,4", layer="trunk")
    assert nothing.notes[0] == "no box of 'dog' overlaps with that place by half"
    assert not nothing.heatmap.any()


def test_an_output_without_classes_needs_a_target(picture):
    model = Model("tokens", nn.Sequential(*trunk(), nn.Flatten(2)).eval(), preprocess=PREPROCESS)
    with pytest.raises(TargetError, match=r"the output \(12, 49\) has no score per class; use targets.region"):
        explain(model, picture, layer="3")
    assert explain(model, picture, target=torch.Tensor.sum, layer="3").score > 0


@pytest.mark.parametrize(
    ("want", "message"), [("top0", "asks for 0 classes"), ("top9", "the model has 3"), (3, "no class 3")]
)
def test_classes_that_there_are_not(want, message, picture):
    with pytest.raises(TargetError, match=message):
        explain(network(3), picture, target=want)
