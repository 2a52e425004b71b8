"""ONNX files made of small graphs, with planted marks."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import camscope as cs
from camscope.errors import MethodError, ModelError, SettingError
from camscope.models.loading import load

SIZE = (32, 48)
AREAS = {"NCHW": (2, 3), "NHWC": (1, 2)}


def write(path, *, link="", batch=None, layout="NCHW", dtype=TensorProto.FLOAT, size=SIZE, tail="", extra=()):
    """A graph whose logits are 8 times the mean of red, green and blue, with or without a link at its end."""
    shape = [batch, 3, *size] if layout == "NCHW" else [batch, *size, 3]
    nodes = [helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT)]
    nodes += [
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "eight"], ["logits"]),
    ]
    last = "logits"
    if link:
        nodes.append(helper.make_node(link, [last], ["linked"], **({} if link == "Sigmoid" else {"axis": 1})))
        last = "linked"
    if tail:
        nodes.append(helper.make_node(tail, [last], ["tailed"]))
        last = "tailed"
    weights = [
        numpy_helper.from_array(np.array(AREAS[layout], np.int64), "axes"),
        numpy_helper.from_array(np.float32(8 / 255 if dtype == TensorProto.UINT8 else 8), "eight"),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in (last, *extra)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", dtype, shape)], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def image():
    """Grey noise with a red square at rows 4 to 11 and columns 30 to 41."""
    pixels = (100 + 10 * np.random.default_rng(0).random((*SIZE, 3))).astype(np.uint8)
    pixels[4:12, 30:42] = (255, 60, 60)
    return pixels


def logits_of(image):
    return 8 * image.astype(np.float64).mean((0, 1)) / 255


PLAIN = {"mean": [0.0], "std": [1.0]}


@pytest.mark.parametrize("batch", [None, "n", 1, 3])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_occlusion_finds_the_mark_whatever_the_batch_and_layout(tmp_path, image, layout, batch):
    model = load(write(tmp_path / "net.onnx", layout=layout, batch=batch), labels=["red", "green", "blue"], **PLAIN)
    assert model.preprocess.input_size == SIZE
    es = list(cs.explain_all(model, [image, image, image, image], methods=["occlusion"], targets="red"))
    for e in es:
        row, column = np.unravel_index(e.heatmap.argmax(), e.heatmap.shape)
        assert 4 <= row < 12
        assert 30 <= column < 42
        assert e.score == pytest.approx(logits_of(image)[0], abs=1e-4)


@pytest.mark.parametrize("tail", ["", "Identity", "Flatten"])
@pytest.mark.parametrize(
    ("link", "outcome"), [("", "one"), ("Softmax", "one"), ("LogSoftmax", "one"), ("Sigmoid", "any")]
)
def test_the_last_node_is_undone_and_probabilities_are_right(tmp_path, image, link, outcome, tail):
    model = load(f"onnx:{write(tmp_path / 'net.onnx', link=link, tail=tail)}", **PLAIN)
    e = cs.explain(model, image, target=1, method="occlusion")
    logits = torch.tensor(logits_of(image))
    expected = logits.softmax(0) if outcome == "one" else logits.sigmoid()
    assert model.outcome == outcome
    assert e.probability == pytest.approx(float(expected[1]), abs=1e-4)
    wanted = logits.log_softmax(0) if link == "LogSoftmax" else logits
    assert e.score == pytest.approx(float(wanted[1]), abs=1e-3)


def test_a_softmax_that_cannot_be_undone_is_noted(tmp_path, image):
    path = write(tmp_path / "net.onnx", link="Softmax")
    model = onnx.load(path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[1], "net.data")
    onnx.save(model, path)
    assert (tmp_path / "net.data").is_file()
    e = cs.explain(load(path, **PLAIN), image, target=1, method="occlusion")
    logits = torch.tensor(logits_of(image))
    assert e.score == pytest.approx(float(logits.log_softmax(0)[1]), abs=1e-3)
    assert e.probability == pytest.approx(float(logits.softmax(0)[1]), abs=1e-4)
    assert any("log p is explained" in note for note in e.notes)


def test_two_names_for_one_output(tmp_path, image):
    path = write(tmp_path / "net.onnx", link="Sigmoid")
    model = onnx.load(path)
    zero = numpy_helper.from_array(np.array(0, np.int64), "zero")
    model.graph.initializer.append(zero)
    model.graph.node.insert(3, helper.make_node("Gather", ["logits", "zero"], ["first"], axis=1))
    model.graph.node[4].input[0] = "first"
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    onnx.save(model, path)
    e = cs.explain(load(path, labels=["grey", "red"], **PLAIN), image, target="red", method="occlusion")
    assert e.score == pytest.approx(logits_of(image)[0], abs=1e-4)
    assert e.probability == pytest.approx(float(torch.tensor(e.score).sigmoid()), abs=1e-5)
    assert 4 <= e.heatmap.argmax() // SIZE[1] < 12


def test_bytes_and_open_sizes(tmp_path, image):
    model = load(write(tmp_path / "net.onnx", dtype=TensorProto.UINT8))
    assert cs.explain(model, image, target=0, method="occlusion").score == pytest.approx(logits_of(image)[0], abs=1e-3)
    path = write(tmp_path / "open.onnx", size=("h", "w"))
    with pytest.raises(SettingError, match="leaves the size of images open: pass input_size="):
        load(path)
    assert load(path, input_size=SIZE, **PLAIN).preprocess.input_size == SIZE
    with pytest.raises(SettingError, match=r"takes images of 32 x 48, and input_size is \(64, 64\)"):
        load(write(tmp_path / "net.onnx"), input_size=64, **PLAIN)


def test_what_is_assumed_is_said(tmp_path):
    with pytest.warns(UserWarning, match="does not say how its input is normalised, so mean .* are assumed"):
        load(write(tmp_path / "net.onnx"))


def test_a_network_exported_by_torch_scores_alike(tmp_path, image):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, 2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
        torch.nn.Softmax(1),
    ).eval()
    path = tmp_path / "torch.onnx"
    torch.onnx.export(net, (torch.zeros(1, 3, *SIZE),), str(path), dynamo=False)
    own = cs.Model("net", net, preprocess=cs.Preprocess(input_size=SIZE))
    expected, found = (
        cs.explain(m, image, target=2, method="occlusion")
        for m in (own, load(path, mean=own.preprocess.mean, std=own.preprocess.std))
    )
    assert found.probability == pytest.approx(expected.probability, abs=1e-5)
    np.testing.assert_allclose(found.grid, expected.grid, atol=1e-4)


def test_methods_that_need_more_are_refused(tmp_path, image):
    model = load(write(tmp_path / "net.onnx"), **PLAIN)
    for method in ("gradcam", "scorecam", "eigencam", "integratedgradients"):
        with pytest.raises(MethodError, match=r"only the scores are known; use a method .*occlusion"):
            cs.explain(model, image, method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 5}, "has 3 classes, and classes or labels ask for 5"),
        ({"labels": ["a", "b"]}, "has 3 classes, and classes or labels ask for 2"),
        ({"weights": "none"}, "has weights of its own: leave weights='none' out"),
        ({"options": {"outputs": "x"}}, "no option of onnx called 'outputs'; nearest: 'output'"),
        ({"options": {"output": "logit"}}, "no output of .* called 'logit'; nearest: 'logits'"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises((ModelError, SettingError), match=message):
        load(write(tmp_path / "net.onnx"), **PLAIN, **options)


def test_files_that_are_no_pictures_to_scores(tmp_path):
    with pytest.raises(ModelError, match="there is no ONNX file"):
        load("onnx:missing.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        load(tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match="has several outputs, logits, mean: say which"):
        load(write(tmp_path / "two.onnx", extra=["mean"]), **PLAIN)
    chosen = load(write(tmp_path / "two.onnx", extra=["mean"]), options={"output": "mean"}, **PLAIN)
    assert chosen.recipe.classes == 3


def test_a_black_box_is_explained_by_occlusion_where_no_method_is_named(tmp_path, image):
    model = load(write(tmp_path / "net.onnx"), labels=["red", "green", "blue"], **PLAIN)
    e = cs.explain(model, image)
    assert (e.method, e.label) == ("occlusion", "red")
    row, column = np.unravel_index(e.heatmap.argmax(), e.heatmap.shape)
    assert 4 <= row < 12
    assert 30 <= column < 42
    assert [one.method for one in cs.explain_all(model, [image])] == ["occlusion"]
    with pytest.raises(MethodError, match="black box"):
        cs.explain(model, image, method="gradcam")
