"""Values that make no sense are one error, wherever they are given."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import camscope as cs
from camscope.errors import CamscopeError, ModelError, SettingError, StudyError, TargetError
from camscope.images import find_pictures
from camscope.study.config import read_study_file
from camscope.study.study import Study
from camscope.training.settings import TrainingSettings

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 44, 3), np.uint8)


def model(change=lambda net: None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
        ).eval()
    change(net)
    return cs.Model("m", net, preprocess=cs.Preprocess(input_size=(48, 48), fit="squash"))


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "4", 10**20, pytest.param(10**5000, id="long"), float("nan")])
def test_batch_sizes(size):
    with pytest.raises(SettingError, match="batch_size must be a whole number"):
        list(cs.explain_all(model(), [PICTURE] * 2, batch_size=size))


def test_numpy_counts_are_counts():
    assert len(list(cs.explain_all(model(), [PICTURE] * 3, batch_size=np.int64(2)))) == 3


@pytest.mark.parametrize(
    "target", [1.5, 1.0, True, float("nan"), "²", "--1", "9" * 5000, "top" + "9" * 5000, np.float32(1)]
)
def test_targets(target):
    with pytest.raises((TargetError, SettingError), match=r"class|rank|target must be"):
        cs.explain(model(), PICTURE, target=target)


@pytest.mark.parametrize("targets", [1.5, [1.5], torch.tensor([1.5]), torch.tensor([True])])
def test_targets_of_tensors(targets):
    with pytest.raises(TargetError, match="a class index must be a whole number"):
        cs.cam(model().net, torch.zeros(1, 3, 48, 48), targets=targets)


@pytest.mark.parametrize("target", [1, "1", np.int64(1), torch.tensor(1)])
def test_targets_that_are_whole_numbers(target):
    assert cs.explain(model(), PICTURE, target=target).index == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"typo": 1}, "no setting called 'typo'"),
        ({"sampels": 4}, "nearest: 'samples'"),
        ({"depth": "3"}, "no setting called 'depth'"),
        ({"noise": float("nan")}, "noise must be finite"),
        ({"samples": "x"}, "samples must be a number, such as 35, but got 'x'"),
        ({"x" * 10**6: 1}, "no setting called 'xxx"),
    ],
)
def test_settings_of_methods(settings, said):
    with pytest.raises(SettingError, match=said):
        cs.explain(model(), PICTURE, method="sscam", **settings)


def test_settings_of_functions_of_the_user():
    def mine(trace, power=1, **more):
        return trace.activations.sum(1) ** power + more.get("shift", 0)

    plain = cs.explain(model(), PICTURE, method=mine).grid
    assert np.allclose(cs.explain(model(), PICTURE, method=mine, power=2).grid, plain**2)
    with pytest.raises(SettingError, match="no setting called 'trace'"):
        cs.explain(model(), PICTURE, method=mine, trace=2)


def overflowing(net):
    net[3].weight.data.mul_(1e38)
    net[7].weight.data.mul_(1e38)


def not_finite(net):
    net[3].weight.data.view(-1)[0] = float("nan")


@pytest.mark.parametrize("change", [overflowing, not_finite])
@pytest.mark.parametrize("method", ["gradcam", "fullgrad", "eigencam", "randomcam"])
def test_scores_that_are_not_finite_are_said(change, method):
    e = cs.explain(model(change), PICTURE, target=1, method=method)
    assert any("the score is nan" in text for text in e.notes)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
@pytest.mark.parametrize("method", ["gradcam", "fullgrad"])
def test_weights_that_no_gradient_flows_through(dtype, method):
    def change(net):
        for module in net.modules():
            for name, parameter in list(module._parameters.items()):
                module._parameters[name] = nn.Parameter(parameter.data.to(dtype), requires_grad=False)

    with pytest.raises(ModelError, match="m cannot be explained: "):
        cs.explain(model(change), PICTURE, target=1, method=method)


def test_a_study_whose_scores_are_not_finite_fails_row_by_row(make_study, tmp_path):
    path = make_study(2)
    study = Study.read(path)
    for loaded in study.models.values():
        next(loaded.net.parameters()).data.fill_(float("nan"))
    rows = list(cs.run(study, tmp_path / "out", device="cpu"))
    assert {row["status"] for row in rows} == {"failed"}
    assert all("the score is nan" in row["message"] for row in rows)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('column = "nodule"', 'column = "nodule"\nthreshold = nan', "threshold = nan: input should be a finite number"),
        ('column = "nodule"', 'column = "nodule"\nthreshold = inf', "threshold = inf"),
        ("[audit]", "[audit]\nseed = -1", "audit.seed = -1"),
        ("[audit]", "[audit]\ndelta = inf", "audit.delta = inf"),
        ("[audit]", "[audit]\ndelta = nan", "audit.delta = nan"),
        ("[audit]", f"[audit]\nreplicates = {10**20}", "audit.replicates"),
        ("[audit]", f"[audit]\nseed = {'9' * 5000}", "is not TOML"),
        ("[audit]", f"[audit]\ncases = {'[' * 5000}", "is not TOML"),
        ("[explain]", "[explain]\nopacity = nan", "explain.opacity = nan"),
        ("[explain]", '[explain]\nfiles = "{image:d}_{label}.jpg"', "write {image} alone"),
        ("[explain]", '[explain]\nfiles = "{image!x}_{label}.jpg"', "write {image} alone"),
        ("[explain]", '[explain]\nfiles = "{image_{label}.jpg"', "explain"),
        ("[explain]", '[explain]\nfiles = "{image}_{label}{}.jpg"', "no field called ''"),
        ("[explain]", f"[explain]\n{'k' * 10**5} = 1", "no setting called 'kkk"),
        ("[explain]", "[explain]\nsettings = { typo = 1 }", "no setting called 'typo'"),
        ("[explain]", "[explain]\nsettings = { alpha = nan }\nmethods = ['finercam']", "alpha must be finite"),
    ],
)
def test_study_files(make_study, old, new, said):
    path = make_study(2)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(StudyError) as caught:
        Study.read(path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_thousands_of_unknown_keys_are_read_once(make_study):
    path = make_study(2)
    path.write_text(path.read_text() + "".join(f"unknown_{n} = {n}\n" for n in range(2000)))
    with pytest.raises(StudyError) as caught:
        read_study_file(path)
    assert len(caught.value.problems) == 2000
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(set(lines))


@pytest.mark.parametrize(
    "given",
    [
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": 0.0},
        {"decay": float("nan")},
        {"reasons_weight": -1.0},
        {"epochs": 1.5},
        {"batch_size": 10**20},
        {"seed": -1},
        {"frozen": -2},
    ],
)
def test_training_settings(given):
    with pytest.raises(SettingError, match=next(iter(given))):
        TrainingSettings(**given)


def test_a_folder_that_may_not_be_searched_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/x.png").write_bytes(b"")
    real = os.scandir

    def locked(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(CamscopeError, match=r"cannot search the folder .*a/b.*: Permission denied"):
        find_pictures([tmp_path])


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [("scorecam", "chunk", 0), ("ablationcam", "chunk", -1), ("smoothgrad", "noise", -0.1), ("kpcacam", "gamma", -1.0)],
)
def test_settings_below_their_least_value(method, name, value):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(SettingError, match=f"{name} must be"):
        cs.cam(net, torch.zeros(1, 3, 16, 16), targets=0, method=method, **{name: value})
