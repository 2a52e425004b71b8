"""Every public function, with a wrong kind of each argument: one sentence of camscope, or an answer."""

import inspect
import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope import targets

WRONG = {
    "None": None,
    "text": "cat",
    "blank": "",
    "bytes": b"\x00\xff",
    "negative": -1,
    "fraction": 3.7,
    "nan": float("nan"),
    "huge": 10**12,
    "true": True,
    "list": [],
    "nested": [["a", None], 3],
    "dictionary": {"a": 1},
    "set": {1, 2},
    "object": object(),
    "class": dict,
    "function": lambda *_: None,
    "generator": (number for number in range(2)),
    "array": np.full((2, 3), np.nan),
    "words": np.array(["a", "b"]),
    "tensor": torch.zeros(0, 3, 4, 4),
    "complex": torch.zeros(1, 3, 32, 32, dtype=torch.complex64),
    "path": Path("nowhere/at/all"),
    "module": nn.ReLU(),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()


def model():
    return cs.load(net(), labels=["a", "b", "c", "d"], input_size=32, mean=0.5, std=0.5)


def image():
    return np.random.default_rng(0).random((32, 32, 3))


def x():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def recorded(**given):
    return cs.record(net(), given.pop("inputs", x()), layers=given.pop("layers", ["1"]), **given)


def traced(**given):
    with cs.tracing(net(), given.pop("layers", ["1"]), **given):
        pass


def scores(pixels):
    return pixels.reshape(len(pixels), -1)[:, :3]


CALLS = {
    "cam": (cs.cam, lambda: {"net": net(), "x": x()}),
    "cams": (cs.cams, lambda: {"net": net(), "x": x(), "targets": [[0, 1], [1, 2]]}),
    "explain": (cs.explain, lambda: {"model": model(), "picture": image()}),
    "explain_all": (lambda **given: list(cs.explain_all(**given)), lambda: {"model": model(), "pictures": [image()]}),
    "load": (cs.load, lambda: {"spec": net(), "input_size": 32}),
    "black_box": (cs.black_box, lambda: {"function": scores, "input_size": 32}),
    "compare": (cs.compare, lambda: {"models": [model()], "picture": image()}),
    "layers": (cs.layers, lambda: {"model": model(), "picture": image()}),
    "steps": (cs.steps, lambda: {"model": model(), "picture": image()}),
    "view": (cs.view, lambda: {"explanations": cs.explain(model(), image())}),
    "default_layer": (cs.default_layer, lambda: {"net": net(), "x": x()}),
    "VolumePreprocess": (cs.VolumePreprocess, lambda: {"input_size": (8, 8, 8)}),
    "Volume": (cs.Volume, lambda: {"values": np.zeros((4, 5, 6), np.float32)}),
    "record": (cs.record, lambda: {"net": net(), "inputs": x(), "layers": ["1"]}),
    "tracing": (traced, lambda: {"layers": ["1"]}),
    "sanity": (cs.sanity, lambda: {"model": model(), "pictures": [image()], "steps": 1, "networks": 1}),
    "run": (lambda **given: list(cs.run(**given)), lambda: {"study": "no study", "out": "out"}),
    "Study.read": (cs.Study.read, lambda: {"path": "study.toml"}),
    "Preprocess": (cs.Preprocess, dict),
    "Picture": (cs.Picture, lambda: {"pixels": image().astype(np.float32)}),
    "Cluster": (cs.Cluster, dict),
    "Model": (cs.Model, lambda: {"name": "m", "net": net()}),
    "category": (targets.category, lambda: {"index": 1}),
    "contrast": (targets.contrast, lambda: {"index": 1, "other": 0}),
    "top": (targets.top, lambda: {"rank": 1}),
    "region": (targets.region, lambda: {"index": 1}),
    "box": (targets.box, lambda: {"index": 1}),
    "similarity": (targets.similarity, lambda: {"embedding": torch.ones(4)}),
}
PASSED_ON = {
    ("tracing", "net", None),  # given by the call
    ("record", "trunk", None),  # made by camscope's engines
    ("record", "inputs", "complex"),  # the network's own error
    ("default_layer", "x", "complex"),
    ("cam", "method", "module"),  # the error of a method of the user's
    ("cams", "method", "module"),
    ("sanity", "method", "module"),
}
SIGNATURES = {"explain_all": cs.explain_all, "run": cs.run, "tracing": cs.tracing}
MADE_BY_CAMSCOPE = {"CamscopeError", "Explanation", "Layout", "Trace", "VolumeExplanation", "Window"}
EXPLAINED = ("scaled", "overlay", "panel", "figure", "content", "save")
OF_MODEL = ("index", "label", "save")


def call(function, arguments):
    """Return the exception that is not camscope's, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(**arguments)
        except cs.CamscopeError as error:
            text = str(error)
            assert text.strip(), "an error without a sentence"
            assert "\n" not in text.strip() or len(text) < 2000
        except Exception as error:
            return error
    return None


def tried(function, valid, parameters, what=""):
    """Yield (parameter, kind of wrong value, exception) of every call that ended in another exception."""
    for name, (kind, value) in itertools.product(parameters, WRONG.items()):
        if {(what, name, kind), (what, name, None)} & PASSED_ON:
            continue
        given = valid() | {name: value}
        fault = call(function, given)
        if fault is not None:
            yield name, kind, f"{type(fault).__name__}: {fault}"


def test_every_public_function_is_tried():
    public = {name for name in cs.__all__ if callable(getattr(cs, name))} - MADE_BY_CAMSCOPE
    functions = {name: value for name, value in vars(targets).items() if inspect.isfunction(value)}
    public |= {name for name, function in functions.items() if function.__annotations__.get("return") == "Target"}
    assert public - {name.partition(".")[0] for name in CALLS} == set()


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_ends_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, valid = CALLS[name]
    signature = inspect.signature(SIGNATURES.get(name, function))
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert list(tried(function, valid, [p.name for p in parameters], name)) == []


@pytest.mark.parametrize("method", EXPLAINED)
def test_a_wrong_argument_of_an_explanation(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bound = getattr(cs.explain(model(), image()), method)
    valid = {"save": {"folder": "out"}, "content": {"kind": "overlay"}}.get(method, {})
    assert list(tried(bound, lambda: valid, inspect.signature(bound).parameters)) == []


@pytest.mark.parametrize("method", OF_MODEL)
def test_a_wrong_argument_of_a_model(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bound = getattr(model(), method)
    assert list(tried(bound, dict, inspect.signature(bound).parameters)) == []


@pytest.mark.parametrize("name", ["cam", "explain", "load", "black_box", "sanity"])
def test_an_argument_that_is_not_there(name):
    function, valid = CALLS[name]
    with pytest.raises(cs.CamscopeError, match="thresold"):
        function(**valid(), thresold=3)
    with pytest.raises(cs.CamscopeError):
        function()
