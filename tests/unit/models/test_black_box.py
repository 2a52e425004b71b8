"""Functions from images to scores as models."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import camscope as cs
from camscope.cohort.store import NOT_ASKED, OK
from camscope.errors import MethodError, ModelError, SettingError
from camscope.evaluation.candidates import chosen_methods
from camscope.evaluation.data import read_data
from camscope.evaluation.plan import EvaluationPlan
from camscope.evaluation.rows import chosen_metrics
from camscope.evaluation.run import evaluate
from camscope.explanation.figures import layers
from camscope.explanation.inspect_model import examine
from camscope.models.preprocess import Preprocess

GREEN = np.array([0, 1, 0], np.float32)


@pytest.fixture
def image():
    """Grey noise with a green square in the top right corner, rows 8 to 23 and columns 40 to 55."""
    pixels = (100 + 20 * np.random.default_rng(0).random((64, 64, 3))).astype(np.uint8)
    pixels[8:24, 40:56] = (20, 230, 20)
    return pixels


def green_share(pictures):
    """Probabilities (B, 2) of no green and of green, from pixels (B, h, w, 3) in [0, 1]."""
    assert isinstance(pictures, np.ndarray)
    assert pictures.dtype == np.float32
    assert 0 <= pictures.min() <= pictures.max() <= 1
    excess = (pictures[:, :, :, 1] - pictures[:, :, :, 0]).clip(0).mean((1, 2))
    p = 1 / (1 + np.exp(6 - 160 * excess))
    return np.stack([1 - p, p], 1)


def model_of(function=green_share, **options):
    return cs.black_box(function, **{"input_size": 64, "labels": ["no", "green"], **options})


def test_occlusion_finds_what_the_function_looks_at(image):
    e = cs.explain(model_of(), image, target="green", method="occlusion")
    row, column = np.unravel_index(e.heatmap.argmax(), e.heatmap.shape)
    assert 8 <= row < 24
    assert 40 <= column < 56
    p = green_share(image[None].astype(np.float32) / 255)[0, 1]
    assert e.probability == pytest.approx(p, abs=1e-5)
    assert e.score == pytest.approx(np.log(p), abs=1e-4)
    assert "log p is explained" in " ".join(e.notes)


def test_tensors_are_normalised_as_the_preprocessing_says(image):
    seen = []

    def function(x):
        seen.append(x.clone())
        return x.mean((2, 3))

    preprocess = Preprocess(input_size=(32, 48), mean=(0.5,) * 3, std=(0.25,) * 3)
    model = cs.black_box(function, preprocess=preprocess, takes="torch", returns="scores")
    e = cs.explain(model, image, target=1, method="occlusion")
    torch.testing.assert_close(seen[0], preprocess(cs.Picture(image.astype(np.float32) / 255))[0][None])
    assert e.score == pytest.approx(float(seen[0][0, 1].mean()), abs=1e-5)


@pytest.mark.parametrize("outcome", ["one", "any"])
def test_probabilities_and_logits_of_the_same_model_agree(image, outcome):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    preprocess = Preprocess(input_size=(32, 32))
    link = {"one": lambda x: net(x).softmax(1), "any": lambda x: net(x).sigmoid()}[outcome]
    own = cs.Model("net", net, preprocess=preprocess, outcome=outcome)
    options = {"preprocess": preprocess, "takes": "torch", "outcome": outcome}
    logits = cs.black_box(net, returns="scores", **options)
    probabilities = cs.black_box(link, **options)
    expected, same, other = (cs.explain(m, image, target=2, method="occlusion") for m in (own, logits, probabilities))
    np.testing.assert_allclose(same.grid, expected.grid, atol=1e-6)
    assert same.probability == pytest.approx(expected.probability)
    assert other.probability == pytest.approx(expected.probability, abs=1e-5)
    if outcome == "any":
        np.testing.assert_allclose(other.grid, expected.grid, atol=1e-4)


def test_segmentations_boxes_and_values(image):
    def masks(pictures):
        green = (pictures[..., 1] > 0.6).astype(float)
        return np.stack([1 - green, green], 1)

    e = cs.explain(model_of(masks, labels=["background", "square"]), image, target="square", method="occlusion")
    assert 8 <= e.heatmap.argmax() // 64 < 24

    def boxes(pictures):
        found = green_share(pictures)[:, 1]
        return np.stack([[[40, 8, 56, 24, p, 1]] for p in found])

    model = model_of(boxes, outcome="boxes")
    e = cs.explain(model, image, target="green@40,8,56,24", method="occlusion")
    assert e.probability == pytest.approx(green_share(image[None].astype(np.float32) / 255)[0, 1], abs=1e-4)
    value = cs.explain(
        model_of(lambda x: 40 + x.mean((1, 2, 3)), labels=(), outcome="value"), image, method="occlusion"
    )
    assert (value.probability, 40 < value.score < 41) == (None, True)


@pytest.mark.parametrize(
    ("returned", "options", "message"),
    [
        (lambda x: x.mean((1, 2)) * 9, {"labels": ()}, "expected probabilities in .0, 1., but the function returned"),
        (lambda x: x.mean((1, 2)), {"labels": ()}, "add up to 1, but they do not: pass outcome='any'"),
        (lambda x: x.mean((1, 2, 3)), {"labels": ()}, "one score per image: pass outcome='any'"),
        (lambda x: np.zeros((len(x), 3)), {"returns": "scores"}, "returned 3 classes, but there are 2 labels"),
        (lambda x: np.zeros((7, 2)), {}, r"returned \(7, 2\) torch.float64 for 1 images"),
        (lambda x: {"scores": 1}, {}, "returned dict; expected an array"),
        (lambda x: None, {}, "returned NoneType; expected an array"),
        (lambda x: np.zeros((len(x), 2)), {"outcome": "boxes"}, r"outcome='boxes' expects \(batch, boxes, 6\)"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(image, returned, options, message):
    with pytest.raises(ModelError, match=message):
        cs.explain(model_of(returned, **options), image, method="occlusion", target=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"takes": "jax"}, "takes cannot be 'jax'; possible: numpy, torch"),
        ({"returns": "logits"}, "returns cannot be 'logits'"),
        ({"outcome": "softmax"}, "outcome cannot be 'softmax'"),
        ({"preprocess": Preprocess()}, "expected input_size or preprocess, but got both"),
        ({"input_size": None, "preprocess": Preprocess()}, "so preprocess must not normalise"),
    ],
)
def test_settings_that_do_not_go_together(options, message):
    with pytest.raises(SettingError, match=message):
        model_of(**options)


def test_only_a_named_version_is_the_same_model_again():
    assert model_of().digest != model_of().digest
    assert model_of(version="3").digest == model_of(version="3").digest != model_of(version="4").digest


def test_it_works_in_batches_beside_other_models(image, tmp_path):
    es = list(cs.explain_all(model_of(), [image, image[:, ::-1], image], methods=["occlusion"], targets="green"))
    assert len(es) == 3
    np.testing.assert_allclose(es[0].grid, es[1].grid[:, ::-1], atol=1e-5)
    again = cs.explain(dataclasses.replace(model_of(), name="again"), image, target="green", method="occlusion")
    np.testing.assert_allclose(es[2].grid, again.grid, atol=1e-6)
    found = examine(model_of())
    assert found["layer"] is None
    assert "occlusion" in found["head"]
    with pytest.raises(ModelError, match="a bundle cannot name"):
        model_of().save(tmp_path)


def test_a_sanity_check_needs_weights(image):
    with pytest.raises(SettingError, match="BlackBox has no weights that could be random"):
        cs.sanity(model_of(), [image], method="occlusion", target="green")


def test_a_map_at_stages_is_refused(image):
    with pytest.raises(MethodError, match="only the scores are known"):
        layers(model_of(), cs.Picture(image.astype(np.float32) / 255))


def test_an_evaluation_leaves_random_weights_out(image, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    metrics = chosen_metrics("average_drop,cascading_randomisation,independent_randomisation")
    plan = EvaluationPlan(
        model_of(), read_data(tmp_path, target="green"), chosen_methods("occlusion,gradcam"), metrics, few=2
    )
    rows = [row for row in evaluate(plan, tmp_path / "out") if row["method"] in ("occlusion", "gradcam")]
    by = {row["method"]: row for row in rows}
    assert (by["occlusion"]["status"], by["gradcam"]["status"]) == (OK, NOT_ASKED)
    assert by["occlusion"]["average_drop"] > 0
    assert "cascading_randomisation" not in by["occlusion"]
    assert "only the scores are known" in by["gradcam"]["message"]
